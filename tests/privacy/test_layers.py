"""Every kind of layer, in every form its gradients may take: norms and clipped sums are those of a loop in float64."""

from collections.abc import Callable

import pytest
import torch
from fakes.steps import one_thread  # noqa: F401 - a fixture
from torch import Tensor, nn
from torch.nn import functional

from fedrad_client.privacy.gradients import convolutions, forms, rules
from fedrad_client.privacy.gradients.parts import Parts, Products
from fedrad_client.privacy.gradients.recording import recording
from fedrad_common.models import build, model_names
from fedrad_common.models.resnet import StandardizedConv2d
from fedrad_common.protocol import Model

OWNER = torch.tensor([0, 1, 1, 1, 2, 3])  # four patients of 1, 3, 1 and 1 images
FACTORS = torch.tensor([0.3, 0.0, 1.7, 0.9], dtype=torch.float64)


class Attention(nn.Module):
    """Two heads over tokens; its projections are linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        heads = [each(tokens).unflatten(2, (2, 4)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        return self.out(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear, no bias, of tokens": (lambda: nn.Linear(6, 5, bias=False), (3, 6)),
    "linear of a grid of tokens": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "attention": (Attention, (5, 8)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 7, 6)),
    "conv2d of one channel": (lambda: nn.Conv2d(1, 4, 5), (1, 9, 8)),
    "conv2d, strided and dilated": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3)), (3, 9, 8)),
    "conv2d, pointwise and strided": (lambda: nn.Conv2d(3, 4, 1, stride=2), (3, 7, 6)),
    "conv2d, pointwise and padded": (lambda: nn.Conv2d(3, 4, 1, padding=1), (3, 5, 4)),
    "conv2d, grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 5)),
    "conv2d, one group a channel": (lambda: nn.Conv2d(4, 8, 3, groups=4), (4, 6, 5)),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=2), (3, 9, 8)),
    "conv2d, reflected": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), (3, 7, 6)),
    "conv2d, round the edge": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular"), (3, 7, 6)),
    "conv2d, standardized": (lambda: StandardizedConv2d(3, 4, 3, padding=1), (3, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1), (2, 4, 5, 6)),
    "conv3d, dilated and grouped": (lambda: nn.Conv3d(2, 4, (1, 3, 2), dilation=(1, 2, 1), groups=2), (2, 3, 6, 5)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 5)),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 4, 5)),
    "transposed conv2d, dilated": (lambda: nn.ConvTranspose2d(3, 4, 3, (2, 3), padding=1, output_padding=(1, 2), dilation=2), (3, 4, 5)),
    "transposed conv2d, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 4, 3)),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), (2, 2, 3, 2)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 5, 3)),
    "group norm of volumes": (lambda: nn.GroupNorm(2, 4), (4, 2, 3, 3)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 5, 4)),
    "instance norm of volumes": (lambda: nn.InstanceNorm3d(3, affine=True), (3, 2, 5, 4)),
    "layer norm": (lambda: nn.LayerNorm(6), (5, 6)),
    "layer norm without a shift": (lambda: nn.LayerNorm((5, 6), bias=False), (2, 5, 6)),
}  # fmt: skip


def stirred(module: nn.Module) -> nn.Module:
    """No weight at its usual start: ones and zeros hide mistakes."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return module.double()


def compare(module: nn.Module, inputs: Tensor, *, views: int = 1) -> Parts:
    """Norms and weighted sums, with and without the engine; returns its parts."""
    every_view = OWNER.repeat_interleave(views)
    weights = 1 / torch.bincount(every_view)[every_view].double()

    def losses(images: Tensor) -> Tensor:
        made = module(images).flatten(1)
        return (made * torch.linspace(-1, 2, made.shape[1], dtype=torch.float64)).sum(1).tanh() + made.square().sum(1)

    with recording(module) as kept:
        parts = kept.parts(losses(inputs) * weights, owner=OWNER, views=views)
    loop = []
    for patient in range(len(FACTORS)):
        mine = every_view == patient
        loop.append(torch.autograd.grad((losses(inputs[mine]) * weights[mine]).sum(), list(module.parameters())))
    squares = torch.stack([torch.stack([each.square().sum() for each in row]).sum() for row in loop])
    torch.testing.assert_close(parts.squares(), squares, rtol=1e-12, atol=0)
    largest = max(float(each.abs().max()) for row in loop for each in row)  # a key's bias has no gradient but what rounding leaves
    for parameter, rows in zip(module.parameters(), zip(*loop, strict=True), strict=True):
        part, out = parts.by_weight[parameter], torch.full((parameter.numel(),), torch.nan, dtype=torch.float64)
        part.weighted(FACTORS, out=out)
        wanted = FACTORS @ torch.stack(rows).flatten(1)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12 * largest)
        torch.testing.assert_close(part.rows(), torch.stack(rows), rtol=1e-10, atol=1e-12 * largest)
    return parts


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("form", ["formed", "folded", "products"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layers_norms_and_sums_are_those_of_a_loop(kind: str, form: str, views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, size = LAYERS[kind]
    for place in (convolutions, rules):
        monkeypatch.setattr(place, "as_products", lambda sizes, device: form == "products")
    monkeypatch.setattr(convolutions, "_LARGE_MAP", 1 if form == "folded" else 10**9)
    module = stirred(make())

    parts = compare(module, torch.randn(len(OWNER) * views, *size, dtype=torch.float64), views=views)

    assert all(rules.is_covered(layer) for layer in module.modules() if list(layer.parameters(recurse=False)))
    if form == "products" and kind in ("linear", "conv2d", "conv3d", "transposed conv2d", "attention"):
        assert any(isinstance(part, Products) for part in parts.by_weight.values())


@pytest.mark.parametrize("name", model_names())
def test_a_registered_networks_norms_and_sums_are_those_of_a_loop(name: str) -> None:
    network = build(Model(name=name), n_outputs=2, height=32, width=32)
    images = torch.rand((len(OWNER), 1, 32, 32), generator=torch.Generator().manual_seed(0))
    if hasattr(network, "features"):
        images, network.forward = network.features(images), network.from_features

    compare(stirred(network), images.double())


def test_a_volumes_norms_and_sums_are_those_of_a_loop() -> None:
    from fedrad_common.models.unet import UNet

    network = UNet(1, 16, 16, depth=8, levels=2, channels=8)
    compare(stirred(network), torch.rand((len(OWNER), 1, 8, 16, 16), generator=torch.Generator().manual_seed(0)).double())


def test_patches_are_those_of_unfold() -> None:
    from fedrad_client.privacy.gradients.patches import patches

    maps = torch.randn(2, 3, 9, 8)
    for kernel, stride, dilation, padding in (((3, 3), (1, 1), (1, 1), (1, 1)), ((2, 3), (2, 1), (2, 2), (0, 2))):
        made = patches(maps, kernel=kernel, stride=stride, dilation=dilation, padding=[padding[1]] * 2 + [padding[0]] * 2)
        wanted = functional.unfold(maps, kernel, dilation, padding, stride)
        assert torch.equal(made.view(2, made.shape[1], -1, 3).transpose(2, 3).flatten(2), wanted.transpose(1, 2))


def test_the_form_follows_from_shapes_alone_and_favours_products_where_maps_are_small() -> None:
    wide = forms.Sizes(outputs=512, inputs=4608, columns=4, views=1)
    large = forms.Sizes(outputs=64, inputs=576, columns=1024, views=1)

    assert forms.as_products(wide, device="cpu")
    assert not forms.as_products(large, device="cpu")
    assert not forms.as_products(forms.Sizes(outputs=512, inputs=4608, columns=4, views=4000), device="cpu")  # Gram grows with views
