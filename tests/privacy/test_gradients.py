"""One gradient a patient equals what a plain loop in float64 makes of that patient alone."""

import copy

import pytest
import torch
from fakes.steps import SIDE, one_thread  # noqa: F401 - a fixture
from torch import nn
from torch.nn import functional

from fedrad_client.privacy.gradients.recording import recording
from fedrad_common.errors import ConfigError
from fedrad_common.models import build
from fedrad_common.protocol import Model

OWNER = torch.tensor([0, 1, 1, 1, 2])  # three patients of 1, 3 and 1 images


class Mixed(nn.Module):
    """Layers for which Opacus has the rule, and one for which nobody has."""

    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([0.7]))

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return maps * self.gain

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=3, padding=1, dilation=1)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, padding="same", padding_mode="reflect")
        self.gain = self.Gain()
        self.tokens = nn.Linear(4, 3, bias=False)
        self.norm = nn.LayerNorm(3)
        self.twice = nn.Linear(3, 3)
        self.last = nn.Linear(3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.gelu(self.gain(self.grouped(functional.gelu(self.conv(images)))))
        tokens = self.norm(self.tokens(maps.flatten(2).transpose(1, 2)))
        return self.last(self.twice(torch.tanh(self.twice(tokens.mean(1)))))


class NormFirst(nn.Module):
    """Normalised before any weight; a large weight over few pixels, whose gradients are not formed; one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GroupNorm(1, 1)
        self.conv = nn.Conv2d(1, 32, 3, stride=8, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.deep = nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64 * 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.norm(self.norm(self.conv(self.first(images)))))
        return self.head(functional.relu(self.deep(maps)).flatten(1))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("mixed", "norm first"):
        return Mixed() if name == "mixed" else NormFirst()
    options = {
        "resnet": {"channels": 8},
        "standardized": {"channels": 8, "weight_standardization": True},
        "scatter-resnet": {"channels": 8},
        "wide": {"channels": 16},
    }
    model = Model(name={"standardized": "resnet", "wide": "resnet"}.get(name, name), options=options[name])
    built = build(model, n_outputs=1, height=SIDE, width=SIDE)
    for parameter in built.parameters():  # a head of zeros would hide what lies before it
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return built


def by_loop(module: nn.Module, images: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor) -> list[torch.Tensor]:
    """For every parameter (n_patients, *shape), one patient after the other in float64."""
    if hasattr(module, "features"):  # constants in float32
        images, module = module.features(images), copy.deepcopy(module)
        module.forward = module.from_features
    module = copy.deepcopy(module).double()
    rows = []
    for patient in range(int(owner.max()) + 1):
        mine = owner == patient
        loss = functional.binary_cross_entropy_with_logits(module(images[mine].double()), targets[mine].double())
        rows.append(torch.autograd.grad(loss, list(module.parameters())))
    return [torch.stack(each) for each in zip(*rows, strict=True)]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("name", ["resnet", "wide", "standardized", "scatter-resnet", "mixed", "norm first"])
def test_a_patients_gradient_is_that_of_the_mean_over_its_images_and_views(name: str, views: int) -> None:
    module = network(name)
    every_view = OWNER.repeat_interleave(views)
    images, targets = torch.rand(len(every_view), 1, SIDE, SIDE), (torch.rand(len(every_view), 1) < 0.5).float()
    weights = 1 / torch.bincount(every_view)[every_view].float()

    with recording(module) as kept:
        losses = functional.binary_cross_entropy_with_logits(module(images), targets, reduction="none").sum(1)
        gradients = kept.per_patient(losses * weights, owner=OWNER, views=views)

    for parameter, expected in zip(module.parameters(), by_loop(module, images, targets, every_view), strict=True):
        assert gradients[parameter].shape == expected.shape
        scale = float(expected.abs().max()) + 1e-6
        torch.testing.assert_close(gradients[parameter].double(), expected, rtol=1e-3, atol=1e-4 * scale)


def test_the_network_is_as_before_afterwards() -> None:
    module = network("mixed")
    before = {name: set(vars(layer)) for name, layer in module.named_modules()}

    with recording(module) as kept:
        kept.per_patient(module(torch.rand(2, 1, SIDE, SIDE)).sum(1), owner=torch.tensor([0, 1]))

    assert {name: set(vars(layer)) for name, layer in module.named_modules()} == before
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_an_activation_in_place_is_refused_instead_of_giving_wrong_gradients() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))

    with recording(module) as kept:
        losses = module(torch.rand(2, 1, 2, 2)).sum(1)
        with pytest.raises(ConfigError, match="changed in place"):
            kept.per_patient(losses, owner=torch.tensor([0, 1]))


def test_weights_beside_inner_layers_are_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.register_parameter("scale", nn.Parameter(torch.ones(1)))

    with pytest.raises(ConfigError, match="weights beside inner layers"), recording(module):
        pass
