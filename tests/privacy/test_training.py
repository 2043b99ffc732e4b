"""Local steps whose unit is the patient: sampling, images, labels, schedule; and what may not matter."""

import dataclasses

import numpy as np
import pytest
import torch
from fakes.steps import RATE, SIDE, dataset, difference, linear, one_thread, patients_of, plan, protocol  # noqa: F401 - a fixture
from torch import nn

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.config import Resources
from fedrad_client.privacy import training
from fedrad_client.privacy.batches import Draw, draw_images
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.training import learning_rate, train
from fedrad_common.models import build
from fedrad_common.packing import pack
from fedrad_common.protocol import Model, TrainingProtocol


def test_a_patient_moves_the_model_by_at_most_the_bound_however_many_images_it_has() -> None:
    for counts in ((1,), (8,), (60,)):
        moved = difference(dataset(counts), setup=protocol(privacy__clip_norm=0.01, privacy__max_images=60))
        assert np.linalg.norm(moved) == pytest.approx(RATE * 0.01 / 5, rel=1e-3)


def test_each_patient_is_clipped_alone_before_the_sum() -> None:
    """Five patients with one picture: five bounds in one direction, and not one bound for them all."""
    one = dataset((1,))
    five = Dataset(one.pixels.repeat(5, 0), one.labels.repeat(5, 0), np.arange(5), 5)
    setup = protocol(privacy__clip_norm=0.01)

    np.testing.assert_allclose(difference(five, setup=setup), 5 * difference(one, setup=setup), atol=1e-8)


def test_the_divisor_is_the_plans_constant_and_not_the_drawn_number() -> None:
    few, many = difference(dataset(), constants=plan(batch=5.0)), difference(dataset(), constants=plan(batch=50.0))

    np.testing.assert_allclose(few, 10 * many, rtol=1e-3, atol=1e-6)


def test_patients_are_drawn_independently_at_the_plans_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []

    def spy(owner: np.ndarray, patients: np.ndarray, **settings: object) -> Draw:
        drawn.append(patients)
        return draw_images(owner, patients, **settings)

    monkeypatch.setattr(training, "draw_images", spy)
    difference(dataset((1,) * 30), setup=protocol(privacy__steps_per_round=200), constants=plan(rate=0.2))

    sizes = np.array([len(patients) for patients in drawn])
    assert len(sizes) == 200
    assert sizes.mean() == pytest.approx(6, abs=5 * (30 * 0.16 / 200) ** 0.5)
    assert sizes.var() == pytest.approx(30 * 0.16, rel=0.5)  # a shuffled batch of a fixed size would have none
    often = np.bincount(np.concatenate(drawn), minlength=30)
    assert abs(often - 40).max() < 5 * (200 * 0.16) ** 0.5


def test_a_patient_without_any_label_adds_the_zero_vector() -> None:
    data = dataset()
    labels = data.labels.copy()
    labels[data.owner == 4] = np.nan

    unlabelled = difference(dataclasses.replace(data, labels=labels))
    gone = difference(patients_of(data, [0, 1, 2, 3]))
    np.testing.assert_array_equal(unlabelled, gone)
    assert not np.array_equal(unlabelled, difference(data))


class Fragile(nn.Module):
    """Gives NaN for a black image: sqrt has no gradient at 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(SIDE * SIDE, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.last(flat / flat.sum(1, keepdim=True))


def test_a_patient_whose_gradient_is_not_finite_adds_the_zero_vector() -> None:
    data = dataset()
    pixels = data.pixels.copy()
    pixels[data.owner == 4] = 0

    spoilt = difference(dataclasses.replace(data, pixels=pixels), Fragile())
    gone = difference(patients_of(data, [0, 1, 2, 3]), Fragile())
    np.testing.assert_array_equal(spoilt, gone)
    assert np.abs(spoilt).max() > 0


@pytest.mark.parametrize("data", [dataset(()), dataset((1,))])
def test_nobody_drawn_still_releases_noise(data: Dataset) -> None:
    moved = difference(data, constants=plan(sigma=2.0, rate=1e-9))

    assert moved.std() == pytest.approx(RATE * 2.0 / 5, rel=0.2)
    assert np.count_nonzero(moved) == len(moved)


def test_noise_reaches_every_weight_of_a_real_network() -> None:
    network = build(Model(name="resnet", options={"channels": 8}), n_outputs=2, height=SIDE, width=SIDE)
    shapes = [parameter.numel() for parameter in network.parameters()]
    moved = difference(dataset(), network, constants=plan(sigma=100.0))

    for part in np.split(moved, np.cumsum(shapes)[:-1]):
        assert np.count_nonzero(part) == len(part)
        if len(part) > 200:
            assert part.std() == pytest.approx(RATE * 100.0 / 5, rel=0.3)


def test_the_same_key_gives_the_same_bytes_and_another_key_others() -> None:
    setup = protocol(training__augmentation="xr", training__multiplicity=3, privacy__steps_per_round=2, privacy__max_images=2)
    first, same, other = (difference(dataset(), setup=setup, constants=plan(sigma=1.0, rate=0.5), key=key) for key in (1, 1, 2))

    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("setup", [protocol(training__momentum=0.9), protocol(training__optimizer="adamw")], ids=["sgd", "adamw"])
def test_a_round_remembers_nothing_of_another(setup: TrainingProtocol) -> None:
    """Whatever a site kept to itself, unnoised, and read in a later round would leave it there: no state outlives a round."""
    constants = plan(sigma=1.0, rate=0.7)
    first = difference(dataset(), setup=setup, constants=constants)
    for number in (2, 3):
        difference(dataset((2, 2, 2), seed=number), setup=setup, constants=constants, key=number, number=number)

    assert difference(dataset(), setup=setup, constants=constants).tobytes() == first.tobytes()


def test_torchs_global_seed_reaches_nothing() -> None:
    setup = protocol(training__augmentation="mr", training__multiplicity=2)
    torch.manual_seed(1)
    network = linear()
    state = torch.get_rng_state()
    first = difference(dataset(), network, setup=setup, constants=plan(sigma=1.0))

    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(first, difference(dataset(), setup=setup, constants=plan(sigma=1.0)))


def test_the_proximal_term_pulls_towards_the_rounds_first_weights() -> None:
    far = difference(dataset(), setup=protocol(privacy__steps_per_round=20))
    near = difference(dataset(), setup=protocol(privacy__steps_per_round=20, training__proximal=5.0))

    assert np.linalg.norm(near) < 0.7 * np.linalg.norm(far)
    np.testing.assert_array_equal(
        difference(dataset()), difference(dataset(), setup=protocol(training__proximal=5.0))
    )  # one step: at the start


def test_without_privacy_a_step_is_the_mean_over_patients_unclipped_and_exact() -> None:
    setup = protocol(privacy__unit="none", privacy__epsilon=None, privacy__clip_norm=1e-6)
    data, network = dataset(), linear()
    moved = difference(data, network, setup=setup, constants=plan(batch=1000.0))

    twin = linear().double()
    images = torch.from_numpy(data.pixels / 65535)[:, None]
    each = nn.functional.binary_cross_entropy_with_logits(twin(images), torch.from_numpy(data.labels).double(), reduction="none").mean(1)
    loss = torch.stack([each[torch.from_numpy(data.owner == patient)].mean() for patient in range(5)]).mean()
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(twin.parameters()))])
    np.testing.assert_allclose(moved, -RATE * expected.numpy(), rtol=1e-3, atol=1e-6)


def test_without_privacy_a_step_of_nobody_changes_nothing() -> None:
    setup = protocol(privacy__unit="none", privacy__epsilon=None)

    assert not difference(dataset(), setup=setup, constants=plan(rate=1e-9)).any()


def test_the_cosine_falls_from_the_full_rate_over_the_rounds() -> None:
    setup = protocol(training__schedule="cosine")
    rates = [learning_rate(setup, number) for number in (1, 2, 3, 4)]

    assert rates == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-4)
    assert learning_rate(protocol(), 4) == 0.1
    np.testing.assert_allclose(difference(dataset(), setup=setup, number=3), difference(dataset()) / 2, rtol=1e-3, atol=1e-8)


def test_training_on_kept_features_is_training_on_the_images() -> None:
    data, moved = dataset(), []
    for kept in (False, True):
        network = build(Model(name="scatter-resnet", options={"channels": 8}), n_outputs=2, height=SIDE, width=SIDE)
        before = pack(network)
        images = torch.from_numpy(data.pixels.astype(np.float32) / np.float32(65535))[:, None]
        train(
            data, protocol=protocol(privacy__steps_per_round=3), plan=plan(rate=0.5), model=network, round=1, noise=AesNoise.seeded(0),
            resources=Resources(threads=1), features=network.features(images) if kept else None,
        )  # fmt: skip
        moved.append(pack(network) - before)

    np.testing.assert_allclose(*moved, rtol=1e-3, atol=1e-6)


def test_nothing_of_the_patients_stays_on_the_network() -> None:
    network = linear()
    difference(dataset(), network, constants=plan(sigma=1.0))

    assert not any(layer._forward_hooks for layer in network.modules())
    assert all(parameter.grad is None and not vars(parameter) for parameter in network.parameters())
