"""How well what says nothing of a patient's body tells the classes apart: patients are the units, and no patient judges itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_common.metrics import auc_scores

Features = npt.NDArray[np.floating[Any]]  # (n_images, k)
Classes = npt.NDArray[np.float32]  # (n_images,) 0 or 1
Scorer = Callable[[Features], npt.NDArray[Any]]
Fit = Callable[[Features, Classes], Scorer]
LEAST_OF_A_CLASS = 10  # patients
_FOLDS = 5
_GRID = np.linspace(0, 1, 1001)
_Z = 1.959963984540054  # 97.5 % point of the standard normal


@dataclass(frozen=True)
class Separation:
    """Area under the ROC curve over patients, and its 95 % interval."""

    auc: float
    low: float
    high: float
    scores: npt.NDArray[np.float64]  # (n_images,), of each by a model that saw no image of its patient

    def __str__(self) -> str:
        return f"AUC {self.auc:.2f} ({self.low:.2f} to {self.high:.2f})"


def separation(features: Features, labels: Classes, owner: npt.NDArray[np.int64], fit: Fit) -> Separation | None:
    """Cross-validated over patients. A patient counts once with the mean over its positive images, and once with that over its others.

    Args:
        labels: NaN is left out.
        owner: the patient of each image.

    Returns:
        None where a class has fewer than `LEAST_OF_A_CLASS` patients.
    """
    known = np.flatnonzero(~np.isnan(labels))
    units, unit = np.unique(2 * owner[known] + labels[known].astype(np.int64), return_inverse=True)
    classes = units % 2
    n_positive, n_negative = int(classes.sum()), int((1 - classes).sum())
    if min(n_positive, n_negative) < LEAST_OF_A_CLASS:
        return None
    fold, scores = _folds(units)[unit], np.full(len(labels), np.nan)
    for number in range(_FOLDS):
        others, mine = known[fold != number], known[fold == number]
        scores[mine] = fit(features[others], labels[others])(features[mine])
    means = np.bincount(unit, weights=scores[known]) / np.bincount(unit)
    auc = auc_scores(means, classes.astype(np.float64))
    assert auc is not None
    return Separation(auc, *interval(auc, n_positive=n_positive, n_negative=n_negative), scores)


def _folds(units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n_units,) by patient, those with positive images and those without dealt out evenly. A unit is twice the patient and its class."""
    patients, place = np.unique(units // 2, return_inverse=True)
    positive = np.bincount(place, weights=units % 2) > 0
    rng, fold = np.random.default_rng(0), np.empty(len(patients), dtype=np.int64)
    for members in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        fold[rng.permutation(members)] = np.arange(len(members)) % _FOLDS
    return fold[place]


def interval(auc: float, *, n_positive: float, n_negative: float) -> tuple[float, float]:
    """95 % by Newcombe 2006 (Statistics in Medicine 25:559, method 5): every value that this one does not contradict; also at 0 and 1."""
    half = (n_positive + n_negative) / 2 - 1
    variance = _GRID * (1 - _GRID) * (1 + half * (1 - _GRID) / (2 - _GRID) + half * _GRID / (1 + _GRID)) / (n_positive * n_negative)
    kept = _GRID[np.abs(auc - _GRID) <= _Z * np.sqrt(variance)]
    return (min(auc, float(kept[0])), max(auc, float(kept[-1]))) if len(kept) else (auc, auc)
