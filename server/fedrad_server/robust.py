"""Aggregation that a minority of poisoned sites cannot steer: median, trimmed mean and Krum over a round's updates as they lie on disk.

The rules are those of Flower's FedMedian, FedTrimmedAvg, Krum and MultiKrum, and `tests/contract` holds both to the same numbers. Their
code is not called: it wants every update in memory several times over, sums the trimmed mean in an order that the processor's vector
unit decides, and takes distances as norms minus products, which cancel in float32. Here a slice of coordinates of all updates is in
memory at a time, in float64, and everything is added in the order of sites or of sorted values, so that a replay gives the same bits.

Every update counts the same. A declared size is only a claim, and one poisoned site could claim the largest.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_common.protocol import Aggregation

SLICE = 2**16  # coordinates of every update that are in memory at once: 10 updates are 5 MB

Update = npt.NDArray[np.floating[Any]]  # (n_parameters,), as stored: float32 or float16
Change = npt.NDArray[np.float64]  # (n_parameters,)
Rule = Callable[[Aggregation, Sequence[Update]], Change]


def median(aggregation: Aggregation, updates: Sequence[Update]) -> Change:
    """By coordinate; of an even number, the mean of the middle two."""
    del aggregation
    cut = (len(updates) - 1) // 2
    return _mean_of_the_middle(updates, cut)


def trimmed_mean(aggregation: Aggregation, updates: Sequence[Update]) -> Change:
    """By coordinate: the mean without the lowest and the highest `trim` of the values, rounded down to whole updates."""
    assert aggregation.trim is not None
    return _mean_of_the_middle(updates, int(aggregation.trim * len(updates)))


def krum(aggregation: Aggregation, updates: Sequence[Update]) -> Change:
    """The mean of those `keep` updates (Krum: of the one) that lie closest to their n - f - 2 nearest others."""
    chosen = select(updates, byzantine=aggregation.byzantine or 0, keep=aggregation.keep or 1)
    total = np.zeros(updates[0].size, np.float64)
    for index in chosen:
        total += updates[index]
    total /= len(chosen)
    return total


RULES: dict[str, Rule] = {"median": median, "trimmed-mean": trimmed_mean, "krum": krum, "multi-krum": krum}


def select(updates: Sequence[Update], *, byzantine: int, keep: int) -> list[int]:
    """Which updates (Multi-)Krum keeps, in site order; of equal scores the first site's wins."""
    distances = squared_distances(updates)
    nearest = max(1, len(updates) - byzantine - 2)
    others = [np.sort(np.delete(row, index)) for index, row in enumerate(distances)]
    scores = [float(row[:nearest].sum()) for row in others]
    return sorted(sorted(range(len(updates)), key=lambda index: (scores[index], index))[:keep])


def squared_distances(updates: Sequence[Update]) -> npt.NDArray[np.float64]:
    """(n, n): of differences taken first, so that near twins are near zero and nothing cancels."""
    distances = np.zeros((len(updates), len(updates)), np.float64)
    for _, values in _slices(updates):
        for one in range(len(updates)):
            for other in range(one):
                apart = values[one] - values[other]
                distances[one, other] += np.einsum("i,i->", apart, apart)
    return distances + distances.T


def _mean_of_the_middle(updates: Sequence[Update], cut: int) -> Change:
    """By coordinate, without the `cut` lowest and the `cut` highest values."""
    change = np.empty(updates[0].size, np.float64)
    for start, values in _slices(updates):
        values.sort(axis=0)
        total = change[start : start + values.shape[1]]
        total.fill(0.0)  # and no sign of a negative zero is left, which sorting puts anywhere
        for row in values[cut : len(updates) - cut]:
            total += row
        total /= len(updates) - 2 * cut
    return change


def _slices(updates: Sequence[Update]) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(first coordinate, (n, at most SLICE) float64), a copy that the caller may change."""
    for start in range(0, updates[0].size, SLICE):
        yield start, np.stack([update[start : start + SLICE] for update in updates]).astype(np.float64)
