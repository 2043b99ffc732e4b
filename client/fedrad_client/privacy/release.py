"""Validation histograms as they may leave: whole-number Gaussian noise on every cell, before anything else sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fedrad_client.privacy.noise import NoiseSource

BINS = 32
CLASSES = 2


def histogram(scores: npt.NDArray[np.float64], classes: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Count patients by label, class and score.

    Args:
        scores: (n_patients, n_labels) in [0, 1]; one that is not finite counts as 0.
        classes: (n_patients, n_labels), 0 or 1; NaN is unlabelled and counts nowhere.

    Returns:
        (n_labels, 2, 32): each patient adds 1 to at most one cell a label, so that one patient changes it by √n_labels in L2.
    """
    n_labels = scores.shape[1]
    counts = np.zeros((n_labels, CLASSES, BINS), dtype=np.int64)
    bins = np.clip((np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0) * BINS).astype(np.int64), 0, BINS - 1)
    for label in range(n_labels):
        labelled = np.isfinite(classes[:, label])
        np.add.at(counts[label], (classes[labelled, label].astype(np.int64), bins[labelled, label]), 1)
    return counts


def release(counts: npt.NDArray[np.int64], *, standard_deviation: float, seeded: NoiseSource | None = None) -> npt.NDArray[np.float32]:
    """Flattened cells plus noise, float32 whole numbers, negative ones too: whoever cuts them off biases the intervals.

    OpenDP's discrete Gaussian on the operating system's randomness (Canonne, Kamath and Steinke 2020). `seeded` (simulation only) gives
    reproducible noise instead: a Gaussian rounded to whole numbers, which is post-processing of the Gaussian mechanism.

    Args:
        standard_deviation: in patients; 0 releases the exact counts, which the site has marked.
    """
    cells = counts.ravel()
    if standard_deviation > 0:
        noise = _seeded(seeded, cells.size, standard_deviation) if seeded else _discrete_gaussian(cells.size, standard_deviation)
        cells = cells + noise
    return cells.astype(np.float32)


def _discrete_gaussian(n: int, standard_deviation: float) -> npt.NDArray[np.int64]:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    mechanism = dp.m.make_gaussian(*space, scale=standard_deviation)
    return np.array(mechanism([0] * n), dtype=np.int64)


def _seeded(noise: NoiseSource, n: int, standard_deviation: float) -> npt.NDArray[np.int64]:
    drawn: npt.NDArray[np.int64] = noise.grid_normal((n,), scale=standard_deviation).numpy()
    return drawn
