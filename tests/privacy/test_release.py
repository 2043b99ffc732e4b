"""Validation histograms: one patient moves one cell a label, noise comes before anything else sees a cell (privacy.md, rule 11)."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.release import histogram, release
from fedrad_client.work.scoring import patient_scores

LABELS = 2


class Brightness(nn.Module):
    """The score is the picture's mean, for every label."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None].expand(-1, LABELS)


def dataset(*patients: tuple[tuple[float, ...], tuple[float, float]]) -> Dataset:
    """Of each patient the brightness of every image, and the labels."""
    shades = np.concatenate([images for images, _ in patients])
    owner = np.repeat(np.arange(len(patients)), [len(images) for images, _ in patients])
    pixels = np.broadcast_to((shades * 65535)[:, None, None], (len(shades), 4, 4)).astype(np.uint16)
    labels = np.array([known for _, known in patients], dtype=np.float32)[owner]
    return Dataset(pixels, labels, owner, len(patients))


def counts_of(*patients: tuple[tuple[float, ...], tuple[float, float]]) -> np.ndarray:
    resources = Resources(threads=1, device="cpu")
    return histogram(*patient_scores(dataset(*patients), Brightness(), score=lambda outputs: outputs, resources=resources))


OTHERS = [((0.1 * number, 0.05 * number), (float(number % 2), float("nan") if number % 3 == 0 else 1.0)) for number in range(10)]


@pytest.mark.parametrize(
    "who",
    [
        ((0.99,), (1.0, 0.0)),
        (tuple(np.linspace(0, 1, 300)), (1.0, 1.0)),  # images all over the grid
        ((0.1, 0.9) * 20, (0.0, 1.0)),
        (OTHERS[3][0], (1.0, 0.0)),  # a copy
        ((0.5,), (float("nan"), 1.0)),
        ((0.5,), (float("nan"), float("nan"))),
    ],
)
def test_a_patient_moves_at_most_one_cell_a_label_however_many_images_it_has(who) -> None:
    moved = counts_of(*OTHERS, who) - counts_of(*OTHERS)

    assert moved.min() >= 0
    assert (moved.reshape(LABELS, -1).sum(1) <= 1).all()
    assert np.linalg.norm(moved) <= LABELS**0.5  # the sensitivity that the noise is made for


def test_a_histogram_of_patients_has_as_many_entries_as_patients_and_not_as_images() -> None:
    assert counts_of(*[((0.2,) * (1 + number), (1.0, 0.0)) for number in range(6)]).sum() == 6 * LABELS


@pytest.mark.parametrize("outputs", [torch.nan, torch.inf, -torch.inf, 5.0, -5.0])
def test_a_score_that_is_none_still_counts_its_patient_once(outputs: float) -> None:
    scores, classes = np.full((3, 2), outputs), np.ones((3, 2), np.float32)

    assert histogram(scores, classes).sum() == 6


@pytest.mark.parametrize("seeded", [None, AesNoise.seeded(1)], ids=["discrete Gaussian", "seeded"])
def test_small_cells_are_released_as_they_are_and_nothing_is_cut_off_before_the_noise(seeded: AesNoise | None) -> None:
    """So little noise that it rounds to none: whatever is missing was taken away from the counts themselves."""
    counts = np.arange(64).reshape(1, 2, 32)

    assert np.array_equal(release(counts, standard_deviation=0.01, seeded=seeded), np.arange(64))


@pytest.mark.parametrize("seeded", [None, AesNoise.seeded(2)], ids=["discrete Gaussian", "seeded"])
@pytest.mark.parametrize("count", [0, 1, 4, 50])
def test_noise_is_added_to_every_cell_whatever_it_holds_and_nothing_is_cut_off_after_it(seeded: AesNoise | None, count: int) -> None:
    """Six standard errors: a cell of nobody has the same noise as one of fifty, below zero too."""
    cells, deviation = 4000, 5.0
    noise = release(np.full((1, 2, cells // 2), count), standard_deviation=deviation, seeded=seeded).astype(float) - count

    assert np.abs(noise.mean()) < 6 * deviation / cells**0.5
    assert noise.std() == pytest.approx(deviation, rel=6 / (2 * cells) ** 0.5)
    assert (noise + count < 0).any() == (count < 50)
    assert np.array_equal(noise, np.rint(noise))
