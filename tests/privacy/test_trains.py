"""Only the layers that a protocol names learn; the others get neither gradient nor noise."""

import numpy as np
import pytest
import torch
from fakes.steps import SIDE, dataset, difference, one_thread, plan, protocol  # noqa: F401 - a fixture
from torch import nn

from fedrad_client.privacy.gradients.recording import recording
from fedrad_client.privacy.trainable import check_network, check_places
from fedrad_common.errors import ConfigError
from fedrad_common.models import build
from fedrad_common.models.chosen import freeze_others, is_of
from fedrad_common.packing import pack
from fedrad_common.protocol import Model

OPTIONS = {"channels": 8, "stages": 2, "lora_rank": 2}


def network(**options: object) -> nn.Module:
    return build(Model(name="resnet", options=OPTIONS | options), n_outputs=2, height=SIDE, width=SIDE)


def changed(trains: tuple[str, ...], *, sigma: float = 0.0, unit: str = "patient", **settings: object) -> dict[str, np.ndarray]:
    """What one round moved, by weight."""
    made = network()
    private = {} if unit == "patient" else {"privacy__unit": "none", "privacy__epsilon": None}
    setup = protocol(model__name="resnet", model__options=OPTIONS, training__trains=trains, **private, **settings)
    moved, parts, start = difference(dataset(), made, setup=setup, constants=plan(sigma=sigma)), {}, 0
    for name, parameter in made.named_parameters():
        parts[name] = moved[start : start + parameter.numel()]
        start += parameter.numel()
    assert all(parameter.requires_grad for parameter in made.parameters())  # as it was
    return parts


def test_a_name_is_of_every_layer_that_it_goes_through() -> None:
    assert is_of("body.0.lora.1.up.weight", ("lora",))
    assert is_of("body.0.lora.1.up.weight", ("head", "body"))
    assert not is_of("body.0.lora.1.up.weight", ("lor", "head", "body.0"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam-bc"])
@pytest.mark.parametrize(("unit", "sigma"), [("patient", 1.0), ("patient", 0.0), ("none", 0.0)])
@pytest.mark.parametrize("trains", [("head",), ("lora", "head"), ("norm",)])
def test_only_what_is_named_moves(trains: tuple[str, ...], unit: str, sigma: float, optimizer: str) -> None:
    moved = changed(trains, sigma=sigma, unit=unit, training__optimizer=optimizer, training__proximal=0.1)

    assert {name for name, part in moved.items() if part.any()} <= {name for name in moved if is_of(name, trains)}
    assert all(not part.any() for name, part in moved.items() if not is_of(name, trains))
    assert any(part.any() for part in moved.values())
    if sigma:
        assert all(part.any() for name, part in moved.items() if is_of(name, trains))


def test_noise_on_what_learns_is_that_of_the_plan() -> None:
    moved = np.concatenate([part for name, part in changed(("body",), sigma=1000.0).items() if is_of(name, ("body",))])
    everything = np.concatenate(list(changed((), sigma=1000.0).values()))

    assert moved.std() == pytest.approx(everything.std(), rel=0.05)


def test_a_head_alone_learns_what_it_would_learn_among_all_that_fit_below_the_clip() -> None:
    alone, among = (changed(trains, privacy__clip_norm=1e3) for trains in (("head",), ()))
    np.testing.assert_allclose(alone["head.bias"], among["head.bias"], rtol=1e-3, atol=1e-7)


def test_a_frozen_part_keeps_nothing_for_the_pass_backwards() -> None:
    made = network()
    freeze_others(made, ("head",))
    with recording(made) as kept:
        losses = made(torch.rand(2, 1, SIDE, SIDE)).sum(1)
        assert [call.name for call in kept.calls] == ["head"]
        assert not kept.normalised
        parts = kept.parts(losses, owner=torch.arange(2))
    assert set(parts.by_weight) == {made.head.weight, made.head.bias}


def test_an_adapter_answers_nothing_until_it_has_learned() -> None:
    with_adapters, without = network(), network(lora_rank=0)
    known = dict(without.named_parameters())
    with torch.no_grad():
        for name, parameter in with_adapters.named_parameters():
            if name in known:
                known[name].copy_(parameter)
        images = torch.rand(2, 1, SIDE, SIDE)
        assert torch.equal(with_adapters(images), without(images))
    assert {name for name, _ in with_adapters.named_parameters()} - set(known) == {
        f"body.{block}.lora.{number}.{way}.weight" for block in (0, 1) for number in (0, 1) for way in ("down", "up")
    }
    assert pack(with_adapters).size > pack(without).size


def test_a_protocol_that_freezes_is_checked_as_it_will_train() -> None:
    for name, options in (("resnet", OPTIONS), ("resnet18", {"channels": 16, "lora_rank": 2})):
        setup = protocol(model__name=name, model__options=options, input__height=32, input__width=32, training__trains=("lora", "head"))
        assert check_network(setup) == ()
        check_places(setup, images=16, views=1, device="cpu")

    with pytest.raises(ConfigError, match=r"training\.trains: 'tail' is no layer of the network"):
        check_network(protocol(model__options={"channels": 8}, training__trains=("tail",)))
