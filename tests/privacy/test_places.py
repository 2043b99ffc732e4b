"""No patient's gradient, norm or score has other bits where other patients come or go (privacy.md, rules 5 and 7)."""

import itertools

import pytest
import torch
from fakes.steps import protocol
from torch import Tensor, nn

from fedrad_client.privacy.batches import images_at_a_time, in_whole_vectors
from fedrad_client.privacy.gradients.parts import Parts, batched_product
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID, PatientOptimizer
from fedrad_client.privacy.trainable import check_places
from fedrad_common import models
from fedrad_common.errors import ConfigError
from fedrad_common.tasks import classification

LOGITS = torch.linspace(-12, 12, 4001)


def gradients(n: int, n_labels: int) -> Tensor:
    """(logits, n): of the same logit in every place of a batch."""
    each = []
    for logit in LOGITS[::40]:
        outputs = logit.expand(n, n_labels).clone().requires_grad_()
        each.append(torch.autograd.grad(classification.loss(outputs, torch.ones(n, n_labels)).sum(), outputs)[0][:, 0])
    return torch.stack(each)


@pytest.mark.parametrize(("n", "n_labels"), [(63, 2), (63, 1), (10, 3), (64, 14), (31, 5)])
def test_a_loss_gives_the_same_gradient_in_every_place_of_a_batch(n: int, n_labels: int) -> None:
    found = gradients(n, n_labels)

    assert bool((found == found[:, :1]).all())


@pytest.mark.parametrize("n", [15, 16, 17, 31, 47, 48])
def test_a_score_does_not_depend_on_how_many_patients_there_are(n: int) -> None:
    alone = classification.score(LOGITS[:, None])
    together = torch.stack([classification.score(logit.expand(n, 1))[:, 0] for logit in LOGITS[::20]])

    assert torch.equal(together, alone[::20].expand(-1, n))


def test_without_whole_vectors_last_bits_do_depend_on_the_place() -> None:
    """The positive control: with such bits an adversary moves 17 patients' cells, or 17 clip norms, by one patient."""
    plain = torch.stack([torch.sigmoid(logit.expand(47)) for logit in LOGITS])

    assert bool((plain != plain[:, :1]).any())


@pytest.mark.parametrize("n", [1, 3, 15, 16, 17, 40])
def test_a_patients_norm_does_not_depend_on_how_many_share_the_micro_batch(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    module = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in (7, 9000, 33, 100, 5, 20_000))
    rows = [torch.randn(1, *parameter.shape, generator=generator).repeat(n, *([1] * parameter.dim())) for parameter in module]
    optimizer = PatientOptimizer(
        torch.optim.SGD(module.parameters(), lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=1.0, expected_batch=1.0
    )
    parameters = list(module)
    sums, norms = [], []
    for count in (1, n):
        optimizer.zero_grad(set_to_none=True)
        parts = Parts.of_rows({parameter: each[:count] for parameter, each in zip(parameters, rows, strict=True)})
        norms.append(parts.squares())
        optimizer.accumulate(parts)
        sums.append(torch.cat([parameter.summed_grad.flatten() for parameter in parameters]).clone())

    assert torch.equal(norms[1], norms[0].expand(n))
    assert float((sums[1] - n * sums[0]).norm()) <= 1e-9 / GRID  # in steps


@pytest.mark.parametrize("views", [1, 2, 3, 5, 8, 16, 48])
def test_a_batch_is_whole_vectors_whatever_a_hospital_types(views: int) -> None:
    for micro_batch in (1, 7, 16, 100, 256):
        images = images_at_a_time(micro_batch, expected_batch=20.0, views=views, device="cpu")
        assert images * views % 16 == 0
        assert in_whole_vectors(images // 2, views) * views % 16 == 0


@pytest.mark.parametrize(
    ("name", "labels"), [("resnet", ("a",)), ("resnet", ("a", "b", "c")), ("scatter-resnet", ("a", "b")), ("unet", ("a",))]
)
def test_the_networks_here_have_no_place(name: str, labels: tuple[str, ...]) -> None:
    setup = protocol(model__name=name, task__labels=labels, input__height=32, input__width=32)
    for images, views in ((16, 1), (64, 1), (16, 3)):
        check_places(setup, images=images, views=views, device="cpu")


@pytest.mark.parametrize(("name", "images"), [("resnet", 16), ("resnet", 64), ("unet", 16)])
def test_nor_has_a_pass_in_bfloat16(name: str, images: int) -> None:
    check_places(
        protocol(model__name=name, input__height=32, input__width=32, training__precision="bfloat16"), images=images, views=1, device="cpu"
    )


def test_a_network_whose_last_bits_know_their_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swish(nn.Module):
        """Its exponentials end in the middle of a vector: three channels of one pixel."""

        def __init__(self, n_outputs: int, height: int, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(height * width, 3), nn.Linear(3, n_outputs)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(torch.sigmoid(self.first(images.flatten(1))))

    monkeypatch.setattr(models, "_constructor", lambda _: Swish)
    said = [verdict(images) for images in (17, 19, 21, 23)]  # shapes that are no whole vectors

    assert any("the last bits of an image's gradient differ with its place in the batch" in text for text in said)


class Front(nn.Module):
    """Its features know their place in the batches of 16 in which they are kept, and in no other."""

    def __init__(self, n_outputs: int, height: int, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(height * width, n_outputs)

    def features(self, images: Tensor) -> Tensor:
        told = torch.arange(len(images))[:, None] * (1e-7 if len(images) == 16 else 0.0)
        return images.flatten(1) + told

    def from_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.from_features(self.features(images))


def test_a_front_whose_kept_features_know_their_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch of 32 images shows nothing: what is kept is made in another shape."""
    monkeypatch.setattr(models, "_constructor", lambda _: Front)
    with pytest.raises(ConfigError, match="the last bits of an image's features differ with its place among the images") as refused:
        check_places(protocol(model__name="front"), images=32, views=1, device="cpu")
    assert refused.value.hint


@pytest.mark.parametrize("name", ["resnet", "resnet18", "scatter-resnet"])
def test_the_fronts_here_have_no_place(name: str) -> None:
    public = {"kind": "public", "model": "0" * 64, "source": "anybody's", "weights": "1" * 64}
    setup = protocol(model__name=name, model__trains="head", model__initial=public, input__height=32, input__width=32)
    check_places(setup, images=16, views=1, device="cpu")


def verdict(images: int) -> str:
    try:
        check_places(protocol(model__name="swish"), images=images, views=1, device="cpu")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_has_the_same_bits_in_every_place(dtype: torch.dtype) -> None:
    """`torch.bmm` by itself has not, for 52 of these shapes on one of the processors that it was tried on."""
    generator = torch.Generator().manual_seed(0)
    for d, columns, p in itertools.product((1, 2, 3, 5, 8, 16), (9, 16, 25, 49, 64), (1, 2, 3, 8, 9, 16, 18, 25, 32, 49, 64, 72)):
        left, right = (torch.randn(1, *shape, generator=generator, dtype=dtype) for shape in ((d, columns), (columns, p)))
        everywhere = batched_product(left.repeat(16, 1, 1), right.repeat(16, 1, 1))
        assert torch.equal(everywhere, everywhere[:1].expand_as(everywhere)), (d, columns, p)
        torch.testing.assert_close(everywhere[0], left[0] @ right[0])
        columnwise = [part.transpose(1, 2).contiguous().repeat(16, 1, 1).transpose(1, 2) for part in (left, right)]
        for given in ((columnwise[0], right.repeat(16, 1, 1)), (left.repeat(16, 1, 1), columnwise[1]), columnwise):
            turned = batched_product(*given)
            assert torch.equal(turned, turned[:1].expand_as(turned)), (d, columns, p)
        out = torch.full_like(everywhere, torch.nan)
        assert torch.equal(batched_product(left.repeat(16, 1, 1), right.repeat(16, 1, 1), out=out), everywhere)
        assert torch.equal(out, everywhere)
