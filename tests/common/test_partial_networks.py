"""Networks of which a part learns: the rest is no parameter, no buffer, and what it was before."""

import numpy as np
import pytest
import torch
from torch import nn

from fedrad_common import models
from fedrad_common.errors import ConfigError
from fedrad_common.models import build, initial_vector, outline, whole_of
from fedrad_common.models.partial import Fixed
from fedrad_common.packing import pack, unpack, vector_hash
from fedrad_common.protocol import Model, parse_protocol, replace_settings

SIZES = {"n_outputs": 2, "height": 64, "width": 64}
NETWORKS = [("resnet", {"weight_standardization": True}), ("resnet18", {}), ("densenet121", {}), ("scatter-resnet", {})]
IMAGES = torch.rand((2, 1, 64, 64), generator=torch.Generator().manual_seed(0))
PUBLIC = {"kind": "public", "model": "0" * 64, "source": "anybody's", "weights": "1" * 64}


def model_of(name: str, trains: str, *, public: bool = False, **options: object) -> Model:
    rank = {} if trains in ("all", "head") else {"rank": 2}
    return Model(name=name, seed=3, options=options, trains=trains, **rank, **({"initial": PUBLIC} if public else {}))


def another(model: Model) -> np.ndarray:
    return pack(build(whole_of(model).model_copy(update={"seed": 9}), **SIZES))


@pytest.mark.parametrize("trains", ["head", "lora", "lora-up"])
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=lambda value: value if isinstance(value, str) else "")
def test_it_starts_as_the_public_network_and_only_its_part_moves(name: str, options: dict[str, object], trains: str) -> None:
    model = model_of(name, trains, public=True, **options)
    weights = another(model)
    whole, part = build(whole_of(model), **SIZES), build(model, **SIZES, backbone=weights)
    unpack(whole, weights)

    with torch.no_grad():
        assert torch.allclose(part(IMAGES), whole(IMAGES), atol=1e-4)
    assert not list(part.buffers())
    assert all(parameter.requires_grad for parameter in part.parameters())
    assert pack(part).size < weights.size / 2


def test_what_a_part_holds_of_weights() -> None:
    whole = pack(outline(model_of("resnet18", "all"), **SIZES)).size
    counts = {trains: pack(outline(model_of("resnet18", trains), **SIZES)).size for trains in ("head", "lora", "lora-up")}

    assert whole > 11_000_000
    assert counts["head"] == 512 * 2 + 2
    assert counts["head"] < counts["lora-up"] < counts["lora"] < whole / 100


def test_gradients_reach_what_lies_before_a_fixed_layer() -> None:
    part = outline(model_of("resnet", "lora"), **SIZES)
    for name, parameter in part.named_parameters():
        if ".up." in name:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    part(IMAGES).sum().backward()

    assert all(parameter.grad.abs().max() > 0 for parameter in part.parameters())
    assert {name.rsplit(".", 2)[-2] for name, _ in part.named_parameters()} == {"up", "down", "head"}


def test_the_head_sees_features_that_are_the_same_whatever_it_learned() -> None:
    part = outline(model_of("resnet", "head"), **SIZES)
    before = part.features(IMAGES)
    nn.init.zeros_(part.head.weight)

    assert torch.equal(before, part.features(IMAGES))
    assert not before.requires_grad
    assert torch.equal(part.from_features(before), part(IMAGES))


def test_it_follows_its_input_to_another_precision() -> None:
    part = outline(model_of("resnet", "lora"), **SIZES)
    assert part.double()(IMAGES.double()).dtype == torch.float64


@pytest.mark.parametrize("trains", ["head", "lora", "lora-up"])
def test_what_stays_is_the_same_where_torch_draws_other_numbers(monkeypatch: pytest.MonkeyPatch, trains: str) -> None:
    """Nobody compares it between sites: it must not hang on a version of torch, or on a processor."""
    model = model_of("resnet", trains, public=True)
    weights, real = another(model), torch.manual_seed
    here = build(model, **SIZES, backbone=weights)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: real(seed + 1))
    there = build(model, **SIZES, backbone=weights)
    for network in (here, there):
        unpack(network, np.linspace(-1, 1, pack(here).size, dtype=np.float32))

    with torch.no_grad():
        assert torch.equal(here(IMAGES), there(IMAGES))


def test_a_detours_first_half_is_the_seeds_to_the_bit() -> None:
    named = outline(model_of("resnet", "lora"), **SIZES).named_parameters()
    (first, second, *_) = (parameter.detach() for name, parameter in named if name.endswith("down.weight"))
    assert vector_hash(first.numpy().ravel()).startswith("acf48e7e5c2e491d")
    assert float(second.std()) == pytest.approx(second[0].numel() ** -0.5, rel=0.1)
    assert float(second.abs().max()) <= (3 / second[0].numel()) ** 0.5


@pytest.mark.parametrize("trains", ["head", "lora", "lora-up"])
@pytest.mark.parametrize("standardized", [False, True])
def test_a_pass_in_bfloat16_leaves_what_stays_as_it_is(trains: str, standardized: bool) -> None:
    part = outline(model_of("resnet", trains, weight_standardization=standardized), **SIZES)
    fixed = [layer for layer in part.modules() if isinstance(layer, Fixed)]
    norms = list[torch.dtype]()

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        norms.extend((*(each.dtype for each in inputs), output.dtype))

    constants = [weight for layer in fixed for weight in layer._held[0].parameters()]
    before = [weight.clone() for weight in constants]
    for layer in fixed:
        for inner in layer._held[0].modules():
            if isinstance(inner, nn.GroupNorm):
                inner.register_forward_hook(note)
    with torch.no_grad():
        exact = part(IMAGES)
        norms.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            rough = part(IMAGES)
        again = part(IMAGES)

    assert all(torch.equal(*pair) and pair[0].dtype == torch.float32 for pair in zip(constants, before, strict=True))
    assert torch.equal(again, exact)
    assert 0 < float((rough.float() - exact).abs().max()) < 0.02
    assert trains == "head" or set(norms) == {torch.float32}


class Planted(nn.Module):
    def __init__(self, n_outputs: int, height: int, width: int, *, fault: str) -> None:
        super().__init__()
        self.fault, last = fault, nn.Linear(8, n_outputs)
        self.first, self.two = nn.Linear(height * width, 8), nn.Bilinear(8, 8, 8)
        if fault == "a step after a head of zeros":
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        setattr(self, "out" if fault == "no head" else "head", last)
        if fault == "beside":
            self.gain = nn.Parameter(torch.ones(8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        last = self.out if self.fault == "no head" else self.head
        hidden = self.first(images.flatten(1)) * (self.gain if self.fault == "beside" else 1.0)
        if self.fault == "two inputs":
            hidden = self.two(hidden, hidden)
        if self.fault == "looks at weights":
            hidden = hidden * self.first.weight.mean()
        if self.fault == "looks at the head":
            hidden = hidden.to(last.weight.dtype)
        return last(hidden).tanh() if self.fault.startswith("a step after") else last(hidden)


@pytest.mark.parametrize(
    ("trains", "fault", "said"),
    [
        ("head", "no head", "it has no layer 'head'"),
        ("head", "a step after it", "its head is not its last step"),
        ("head", "a step after a head of zeros", "its head is not its last step"),
        ("lora", "beside", "it has weights beside inner layers"),
        ("lora", "two inputs", r"it must call each layer with one tensor, .*TypeError: .*positional arguments"),
        ("lora-up", "looks at weights", r"look at none of its weights \(AttributeError: 'Detour' object has no attribute 'weight'\)"),
        ("head", "looks at the head", r"look at none of its weights \(AttributeError: 'Identity' object has no attribute 'weight'\)"),
    ],
)
def test_a_network_that_has_no_such_part_is_refused(monkeypatch: pytest.MonkeyPatch, trains: str, fault: str, said: str) -> None:
    monkeypatch.setitem(models.MODELS, "planted", f"{__name__}:Planted")
    with pytest.raises(ConfigError, match=said) as refused:
        outline(model_of("planted", trains, fault=fault), **SIZES)
    assert refused.value.hint


@pytest.mark.parametrize("trains", ["head", "lora"])
def test_looking_at_the_head_leaves_it_as_the_seed_has_it(trains: str) -> None:
    head, seeds = outline(model_of("resnet", trains), **SIZES).head, outline(model_of("resnet", "all"), **SIZES).head
    assert torch.equal(head.weight, seeds.weight)
    assert torch.equal(head.bias, seeds.bias)


def test_a_unet_takes_detours_and_has_no_last_layer_of_its_own() -> None:
    assert pack(outline(model_of("unet", "lora"), **SIZES)).size
    with pytest.raises(ConfigError, match="its head is not its last step"):
        outline(model_of("unet", "head"), **SIZES)


def test_without_its_public_weights_nothing_is_built() -> None:
    model = model_of("resnet", "head", public=True)
    with pytest.raises(ConfigError, match="made without public weights") as refused:
        build(model, **SIZES)
    assert "fedrad-site weights" in refused.value.hint
    with pytest.raises(ConfigError, match="made with public weights"):
        build(model_of("resnet", "all"), **SIZES, backbone=another(model))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.trains": "lora"}, "rank is required"),
        ({"model.trains": "head", "model.rank": 2}, "rank is required with trains 'lora'"),
        ({"model.trains": "some"}, "'all', 'head', 'lora' or 'lora-up'"),
        (
            {"model.trains": "head", "model.initial": {"kind": "run", "model": "0" * 64, "protocol": "0" * 64, "unit": "patient"}},
            "the rest is public weights, and initial.kind is 'run'",
        ),
        ({"model.trains": "head", "model.initial": PUBLIC | {"fresh": "stem"}}, "initial.fresh is 'head' or of it, .* not 'stem'"),
        ({"model.trains": "head", "model.initial": PUBLIC | {"fresh": "header"}}, "initial.fresh is 'head' or of it, .* not 'header'"),
    ],
)
def test_a_part_that_is_half_told_is_no_protocol(protocol_bytes: bytes, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace_settings(parse_protocol(protocol_bytes), settings)


def test_a_protocol_that_trains_all_keeps_its_bytes(protocol_bytes: bytes) -> None:
    assert b"trains" not in parse_protocol(protocol_bytes).canonical()
    assert b"rank" not in parse_protocol(protocol_bytes).canonical()


def test_a_runs_vector_is_what_is_trained(protocol_bytes: bytes) -> None:
    settings = {"task.kind": "classification", "model.name": "resnet", "model.options": {}, "model.trains": "head"}
    assert initial_vector(replace_settings(parse_protocol(protocol_bytes), settings)).size == 2 * 64 + 1
