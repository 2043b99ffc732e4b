"""What cannot be trained patient by patient is refused before anybody approves it (privacy.md, rules 5 and 7)."""

import time
from types import SimpleNamespace

import pytest
import torch
from fakes.networks import LARGE, names_and_sides
from fakes.steps import SIDE, one_thread, protocol  # noqa: F401 - a fixture
from torch import nn
from torch.nn import functional

from fedrad_client.privacy import trainable
from fedrad_client.privacy.trainable import check_network
from fedrad_common import models
from fedrad_common.errors import ConfigError
from fedrad_common.tasks import classification


class Planted(nn.Module):
    """Two layers and one fault."""

    def __init__(self, n_outputs: int, height: int, width: int, *, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first, self.last = nn.Linear(height * width, 4), nn.Linear(4, n_outputs)
        if fault == "batch norm":
            self.norm = nn.BatchNorm1d(4)
        if fault == "buffer":
            self.register_buffer("mean", torch.zeros(1))
        if fault == "tied":
            self.again = nn.Linear(4, n_outputs)
            self.again.weight = self.last.weight
        if fault == "beside":
            self.inner = nn.Sequential(nn.Linear(4, 4))
            self.inner.register_parameter("gain", nn.Parameter(torch.ones(1)))
        if fault == "recurrent":
            self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.seen = torch.zeros(1)  # no buffer, but remembered all the same

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        match self.fault:
            case "in place":
                return self.last(self.first(flat).relu_())
            case "input in place":
                flat = flat.clone()
                hidden = self.first(flat)
                flat.zero_()
                return self.last(hidden)
            case "without its layer":
                return self.last(functional.linear(flat, self.first.weight, self.first.bias))
            case "dropout":
                return self.last(functional.dropout(self.first(flat)))
            case "memory":
                self.seen = self.seen + flat.detach().mean()
                return self.last(self.first(flat) + self.seen)
            case "folded":  # pixels as if they were images
                return self.last(self.first(flat).reshape(-1, 4).repeat_interleave(2, dim=0)).reshape(len(images), 2, -1).mean(1)
            case "beside":
                return self.last(self.inner(self.first(flat)) * self.inner.gain)
            case "recurrent":
                return self.last(self.recurrent(self.first(flat)[:, None])[0][:, 0])
            case _:
                return self.last(self.first(flat))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("batch norm", "layer norm: mixes the images"),
        ("buffer", "buffer mean: would leave the site without noise"),
        ("tied", r"again\.weight is last\.weight again"),
        ("beside", "layer inner has weights beside inner layers"),
        ("in place", "layer first: its output is changed in place"),
        ("input in place", "cannot be told from another's"),
        ("without its layer", r"weight first\.weight: an image's gradient in a batch is not that of the image alone"),
        ("dropout", "depends on who else is in the batch, or on chance"),
        ("memory", "depends on who else is in the batch, or on chance"),
        ("folded", "cannot be told from another's"),
        ("recurrent", r"layer recurrent \(LSTM\): takes or gives something else than one tensor"),
    ],
)
def test_a_network_without_a_gradient_for_each_patient_is_refused(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_constructor", lambda _: Planted)

    with pytest.raises(ConfigError, match=message):
        check_network(protocol(model__name="planted", model__options={"fault": fault}))


def test_the_same_network_without_a_fault_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_constructor", lambda _: Planted)

    check_network(protocol(model__name="planted", model__options={"fault": "none"}))


def coupled_dice(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Batch Dice: the overlap is divided by everybody's."""
    present = torch.nan_to_num(targets)
    score = torch.sigmoid(outputs)
    return -(score * present).sum(1) / (score + present).sum() * (~targets.isnan()).any(1)


def coupled_cox(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cox' partial likelihood: each against all who are at risk."""
    risk = outputs[:, 0]
    return (torch.logsumexp(risk, 0) - risk) * (~targets.isnan()).any(1)


def coupled_auc(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Pairs of an ill and a healthy patient."""
    ill = targets[:, 0] == 1
    return functional.softplus(outputs[:, :1] - outputs[:, 0]).mean(1) * ill


def mixed_up(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mixup: a part of another image's label."""
    known = torch.nan_to_num(targets)
    return functional.binary_cross_entropy_with_logits(outputs, 0.9 * known + 0.1 * known.roll(1, 0), reduction="none").sum(1)


def balanced(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Class weights from the batch."""
    return classification.loss(outputs, targets) / (1 + torch.nansum(targets))


def of_the_batch(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return classification.loss(outputs, targets).mean()


def of_the_unlabelled(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, torch.nan_to_num(targets), reduction="none").sum(1)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (coupled_dice, "depends on who else is in the batch"),
        (coupled_cox, "depends on who else is in the batch"),
        (coupled_auc, "depends on who else is in the batch"),
        (balanced, "depends on who else is in the batch"),
        (mixed_up, "without any label is not 0"),
        (of_the_batch, "has the shape"),
        (of_the_unlabelled, "without any label is not 0"),
    ],
)
def test_a_loss_with_a_term_over_the_batch_is_refused(loss, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "task", lambda _: SimpleNamespace(n_outputs=len, loss=loss))

    with pytest.raises(ConfigError, match=message):
        check_network(protocol(model__options={"channels": 8}))


@pytest.mark.parametrize(("name", "side"), names_and_sides(SIDE))
def test_every_registered_network_is_accepted_within_seconds(name: str, side: int) -> None:
    setup = protocol(model__name=name, input__height=side, input__width=side)
    check_network(setup)
    begun = time.process_time()
    check_network(setup)

    assert time.process_time() - begun < (8 if name in LARGE else 1)


def test_what_opacus_must_compute_is_accepted_too_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden * self.gain

    class Unusual(nn.Module):
        def __init__(self, n_outputs: int, height: int, width: int) -> None:
            super().__init__()
            self.first, self.gain, self.last = nn.Linear(height * width, 4), Gain(), nn.Linear(4, n_outputs)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.gain(self.first(images.flatten(1))))

    assert check_network(protocol(model__options={"channels": 8, "stages": 1, "weight_standardization": True})) == ()
    monkeypatch.setattr(models, "_constructor", lambda _: Unusual)
    (said,) = check_network(protocol(model__name="planted"))
    assert "layer gain (Gain) has no rule here: its gradients come from Opacus" in said


def test_nothing_is_learned_in_an_echo() -> None:
    check_network(protocol(task__kind="echo", model__name="echo"))


def test_the_check_draws_nothing_from_torchs_global_generator() -> None:
    state = torch.get_rng_state()
    check_network(protocol(model__options={"channels": 8, "stages": 1}))

    assert torch.equal(state, torch.get_rng_state())


class FrontWithWeights(nn.Module):
    def __init__(self, n_outputs: int, height: int, width: int) -> None:
        super().__init__()
        self.front, self.last = nn.Linear(height * width, 4), nn.Linear(4, n_outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.from_features(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.front(images.flatten(1))

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(features)


def test_a_front_that_is_computed_once_may_have_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_constructor", lambda _: FrontWithWeights)

    with pytest.raises(ConfigError, match="fixed front depends on weights"):
        check_network(protocol(model__name="planted"))
