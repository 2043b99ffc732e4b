"""Networks by name: the same weights everywhere, nothing that could carry a patient past the noise."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from fakes.networks import names_and_sides
from torch import nn

from fedrad_common import models
from fedrad_common.errors import ConfigError
from fedrad_common.models import build, initial_vector, model_names
from fedrad_common.packing import pack
from fedrad_common.protocol import Model, parse_protocol


def make(name: str = "resnet", *, seed: int = 0, side: int = 28, n_outputs: int = 2, **options: object) -> nn.Module:
    return build(Model(name=name, seed=seed, options=options), n_outputs=n_outputs, height=side, width=side)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "side"), names_and_sides(28))
def test_every_registered_network_has_weights_and_nothing_else(name: str, side: int) -> None:
    network = make(name, side=side)

    assert not list(network.buffers())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network(torch.rand(3, 1, side, side)).shape == (3, 2)


@pytest.mark.parametrize(("name", "weights"), [("resnet18", 11.2e6), ("densenet121", 7.0e6)])
def test_the_large_networks_are_as_large_as_their_papers_say(name: str, weights: float) -> None:
    assert count(make(name, side=64)) == pytest.approx(weights, rel=0.02)
    with pytest.raises(ConfigError, match="expected groups dividing"):
        make(name, side=31)


@pytest.mark.parametrize("options", [{}, {"blocks": 2}, {"weight_standardization": True}, {"channels": 24}])
def test_a_residual_network_has_25_to_300_thousand_weights(options: dict[str, object]) -> None:
    assert 25_000 <= count(make(**options)) <= 300_000


def test_the_scattering_network_is_of_that_size_too() -> None:
    assert count(make("scatter-resnet", n_outputs=1)) == 28_225


def test_the_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(1)
    first = pack(make(seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()

    np.testing.assert_array_equal(first, pack(make(seed=5)))
    assert not np.array_equal(first, pack(make(seed=6)))
    assert torch.equal(state, torch.get_rng_state())


def test_the_packed_network_is_the_runs_first_vector(protocol_bytes: bytes) -> None:
    protocol = parse_protocol(protocol_bytes.replace(b'"echo"', b'"classification"', 1).replace(b'name = "echo"', b'name = "resnet"'))
    protocol = protocol.model_copy(update={"model": Model(name="resnet", seed=3)})

    np.testing.assert_array_equal(initial_vector(protocol), pack(make(seed=3, side=8, n_outputs=1)))


def test_names_and_the_echo_vector_need_no_torch(protocol_bytes: bytes) -> None:
    program = (
        "import sys; from fedrad_common.models import model_names, initial_vector; from fedrad_common.protocol import parse_protocol;"
        "assert 'resnet' in model_names();"
        "assert initial_vector(parse_protocol(sys.stdin.buffer.read())).tolist() == [0.0] * 16;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], input=protocol_bytes, check=True)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'resnot' is not known") as refusal:
        make("resnot")
    assert "resnet" in refusal.value.hint


@pytest.mark.parametrize("options", [{"depth": 3}, {"channels": 12}, {"groups": 0}])
def test_an_unknown_or_unfitting_option_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"model\.options: resnet"):
        make(**options)


class Planted(nn.Module):
    """A network with one fault."""

    def __init__(self, n_outputs: int, height: int, width: int, *, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first, self.last = nn.Linear(height * width, 4), nn.Linear(4, n_outputs + (fault == "shape"))
        if fault == "batch norm":
            self.norm = nn.BatchNorm1d(4, affine=False)
        if fault == "buffer":
            self.register_buffer("mean", torch.zeros(1), persistent=False)
        if fault == "tied":
            self.again = nn.Linear(4, n_outputs)
            self.again.weight = self.last.weight
        if fault == "frozen":
            self.first.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images.flatten(1))
        return self.last(hidden - hidden.mean(0) if self.fault == "mixing" else hidden)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("batch norm", "layer norm: mixes"),
        ("buffer", "buffer mean"),
        ("tied", r"again\.weight is last\.weight again"),
        ("frozen", r"first\.bias is not trained"),
        ("mixing", "depends on another image"),
        ("shape", r"output is \(2, 3\)"),
    ],
)
def test_a_network_that_may_not_be_trained_is_refused(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_constructor", lambda _: Planted)
    assert model_names()

    with pytest.raises(ConfigError, match=message):
        make("planted", side=4, fault=fault)
