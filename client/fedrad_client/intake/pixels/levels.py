"""An image as its distinct stored values: all that a profile does before resizing is a function of the value alone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array, Counts, Floats, Mask, Pixels

BLOCK = 2**18  # pixels looked up at a time; more would fall out of the processor's cache
MAX_WIDE = 2**22  # pixels of a frame whose values need sorting: about a second, and 300 MB
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Levels:
    """(H, W) stored values as places in `values`."""

    values: Array  # (k,) ascending; not all need occur
    codes: Array  # (H, W) unsigned, of 8 or 16 bits, or intp
    first: int  # the code of values[0]; later values have the codes after it, modulo `size`
    size: int  # how many codes there are

    def counts(self, codes: Array | None = None) -> Counts:
        """(k,) how often each value occurs, in the image or among `codes` of it."""
        every = (self.codes if codes is None else codes).ravel()
        found = np.zeros(self.size, dtype=np.int64)
        for start in range(0, len(every), BLOCK):
            found += np.bincount(every[start : start + BLOCK], minlength=self.size)
        return np.roll(found, -self.first)[: len(self.values)]

    def by_code(self, table: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """(size,): `table`, (k,) with one entry a value, with one entry a code."""
        entries = np.zeros(self.size, dtype=table.dtype)
        entries[: len(table)] = table
        return np.roll(entries, self.first)

    def spread(self, table: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """(H, W) of `table`, (k,), one entry a value."""
        entries = self.by_code(table)
        out = np.empty(self.codes.shape, dtype=table.dtype)
        rows = max(1, BLOCK // self.codes.shape[1])
        for start in range(0, len(out), rows):
            # Every code has an entry; "clip" only spares the check of it.
            entries.take(self.codes[start : start + rows], out=out[start : start + rows], mode="clip")
        return out


def levels_of(stored: Array) -> Levels:
    """Raises Quarantined: not finite, or more different values than can be sorted."""
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise Quarantined("bad-pixels")
    low, high = stored.min(), stored.max()
    bits = stored.dtype.itemsize * 8
    if stored.dtype.kind in "iu" and bits <= 16:
        # Two's complement: a signed value's code is its bits, so nothing is computed for each pixel.
        codes = stored.view(f"{'>' if stored.dtype.byteorder == '>' else '<'}u{bits // 8}" if bits > 8 else "u1")
        return Levels(np.arange(int(low), int(high) + 1), codes, int(low) % 2**bits, 2**bits)
    if stored.dtype.kind in "iu" and int(high) - int(low) < 2**16:
        return Levels(np.arange(int(low), int(high) + 1), (stored - low).astype(np.uint16), 0, 2**16)
    if stored.size > MAX_WIDE:
        raise Quarantined("too-large")
    values, index = np.unique(stored, return_inverse=True)
    return Levels(values, index.reshape(stored.shape), 0, len(values))


@dataclass(frozen=True)
class Tally:
    """How often each value occurs in a slice, or in a series: exact counts, so that neither order nor grouping can matter."""

    values: Floats  # (k,) ascending, each once; modality units
    counts: Counts  # (k,) at least 1

    @staticmethod
    def of(values: Floats, counts: Counts) -> "Tally":
        """Of values in any order, any of them several times or never."""
        kept = counts > 0
        distinct, place = np.unique(values[kept], return_inverse=True)
        total = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(total, place, counts[kept])
        return Tally(distinct, total)

    @staticmethod
    def merged(tallies: Iterable["Tally"]) -> "Tally":
        every = list(tallies)
        return Tally.of(np.concatenate([one.values for one in every]), np.concatenate([one.counts for one in every]))

    def above(self, value: float) -> "Tally":
        kept = self.values > value
        return Tally(self.values[kept], self.counts[kept])

    def percentile(self, percent: float) -> float:
        """numpy's linear percentile of the values, each repeated as often as it occurs."""
        upto = np.cumsum(self.counts)
        position = percent / 100 * float(upto[-1] - 1)
        below = int(position)
        first, second = self.values[np.searchsorted(upto, [below, min(below + 1, int(upto[-1]) - 1)], side="right")]
        return float(first + (position - below) * (second - first))

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation, from sums that are rounded once and so depend on no order (`math.fsum`)."""
        n = int(self.counts.sum())
        mean = math.fsum(self.values * self.counts) / n
        return mean, math.sqrt(math.fsum((self.values - mean) ** 2 * self.counts) / n)


def quantised(modality: Floats, shown: Mask, low: float, high: float, scale: int, *, least: int = 0) -> npt.NDArray[np.uint32]:
    """(k,) `least` at and below `low`, `scale` at and above `high`, linear between; 0 where nothing is shown."""
    unit = np.clip((modality - low) / (high - low), 0, 1)
    return np.where(shown, np.rint(unit * (scale - least)) + least, 0).astype(np.uint32)


def modality_of(places: Floats, low: float, high: float, scale: int) -> Floats:
    """What `quantised` with `least` 1 made `places` of, to its rounding."""
    return low + (places - 1) / (scale - 1) * (high - low)


def rescaled_pixels(pixels: Pixels, table: npt.NDArray[np.uint32]) -> Pixels:
    """`pixels` looked up in (65536,) `table`."""
    return table.take(pixels).astype(np.uint16)
