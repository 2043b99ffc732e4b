"""Flat ink: what a program draws has one stored value, whatever lies behind it; tissue hardly ever has, over a whole stroke."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedrad_client.intake.pixels.array import Array

_VALUES = 6  # of a patch that are looked at, the most frequent ones
_LEAST = 30  # pixels of an ink, beside another one of the same value
_MOST = 0.4  # of a patch: more is background


def flat_inks(patch: Array) -> Iterator[npt.NDArray[np.bool_]]:
    """Where a (H, W) patch of stored values has one of the values that most often lie side by side."""
    flat = np.zeros(patch.shape, dtype=bool)
    across, down = patch[:, 1:] == patch[:, :-1], patch[1:] == patch[:-1]
    flat[:, 1:] |= across
    flat[:, :-1] |= across
    flat[1:] |= down
    flat[:-1] |= down
    values, counts = np.unique(patch[flat], return_counts=True)
    for at in np.argsort(counts)[: -1 - _VALUES : -1]:
        if _LEAST <= counts[at] <= _MOST * patch.size:
            yield patch == values[at]
