"""Resampling in whole numbers: sums of integers are exact, so no processor, thread or order of summing can change a pixel."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fedrad_client.intake.pixels.array import Array, Pixels

ONE = 2**16  # what the weights of one output pixel sum to
BAND = 2**16  # pixels that are summed at a time
Whole = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Axis:
    """How one output axis lies on an input axis. Pixel i covers [i, i + 1), and its centre is i + ½."""

    n_out: int
    n_in: int
    ratio: float  # input pixels an output pixel
    start: float  # where output coordinate 0 lies on the input axis

    @staticmethod
    def fitted(n_in: int, inner: int, n_out: int) -> "Axis":
        """All of the input on `inner` pixels in the middle of the output."""
        ratio = n_in / inner
        return Axis(n_out, n_in, ratio, -((n_out - inner) // 2) * ratio)

    @staticmethod
    def spaced(n_in: int, given: float, n_out: int, wanted: float) -> "Axis":
        """The middles of input and output lie on each other; `given` and `wanted` in mm a pixel."""
        ratio = wanted / given
        return Axis(n_out, n_in, ratio, n_in / 2 - n_out / 2 * ratio)


def inner_size(shape: tuple[int, int], out: tuple[int, int], pixel: tuple[float, float]) -> tuple[int, int]:
    """Of an (H, W) image with pixels `pixel` mm high and wide, the largest size within `out` that keeps its proportions."""
    height, width = shape[0] * pixel[0], shape[1] * pixel[1]
    scale = min(out[0] / height, out[1] / width)
    return min(out[0], max(1, round(height * scale))), min(out[1], max(1, round(width * scale)))


def resampled(pixels: Array, rows: Axis, columns: Axis, *, table: Whole | None = None) -> Pixels:
    """(H, W) of 0 … SCALE to (rows.n_out, columns.n_out), antialiased; 0 outside the input.

    Args:
        table: what `pixels` are places in; they are looked up a band at a time, so that a large picture never leaves the processor's cache.
    """
    if _is_copy(rows) and _is_copy(columns):
        return (pixels if table is None else table.take(pixels)).astype(np.uint16)
    across = weighted(rows, pixels, table=table)
    return np.ascontiguousarray(weighted(columns, np.ascontiguousarray(across.T)).T).astype(np.uint16)


def along_first(pixels: Array, axis: Axis) -> Pixels:
    """(N, …) of 0 … SCALE to (axis.n_out, …)."""
    return weighted(axis, pixels.reshape(len(pixels), -1)).astype(np.uint16).reshape(axis.n_out, *pixels.shape[1:])


def weighted(axis: Axis, pixels: Array, *, table: Whole | None = None) -> Whole:
    """(n_in, m) to (n_out, m), rounded to whole numbers. At most SCALE × ONE + ONE / 2 is summed, which 32 bits hold."""
    summed = np.full((axis.n_out, pixels.shape[1]), ONE // 2, dtype=np.uint32)
    for band in _bands(axis, max(16, BAND // pixels.shape[1])):
        some = pixels[band.first : band.last]
        # Every place has an entry; "clip" only spares the check of it.
        whole = np.ascontiguousarray(some, dtype=np.uint32) if table is None else table.take(some, mode="clip")
        summed[band.onto] += band.weights @ whole
    summed >>= np.uint32(16)
    return summed


def _is_copy(axis: Axis) -> bool:
    return axis.n_out == axis.n_in and axis.ratio == 1 and axis.start == 0


@dataclass(frozen=True)
class _Band:
    """Input rows `first` … `last` - 1, the output rows that they reach, and with what weights."""

    first: int
    last: int
    onto: slice
    weights: sparse.csr_matrix


@functools.lru_cache(maxsize=64)
def _bands(axis: Axis, n_rows: int) -> tuple[_Band, ...]:
    every, found = _weights(axis).tocsc(), []
    for first in range(0, axis.n_in, n_rows):
        some = every[:, first : first + n_rows].tocsr()
        reached = np.flatnonzero(np.diff(some.indptr))
        if len(reached):
            onto = slice(int(reached[0]), int(reached[-1]) + 1)
            found.append(_Band(first, min(first + n_rows, axis.n_in), onto, some[onto]))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _weights(axis: Axis) -> sparse.csr_matrix:
    """(n_out, n_in) uint32: a triangle as wide as the reduction, so that shrinking averages and enlarging interpolates.

    A row whose centre lies within the input sums to ONE; any other is empty.
    """
    reach = max(axis.ratio, 1.0)
    centres = axis.start + (np.arange(axis.n_out) + 0.5) * axis.ratio
    inside = np.flatnonzero((centres >= 0) & (centres < axis.n_in))
    first = np.floor(np.maximum(centres[inside] - reach, 0)).astype(np.int64)
    places = first[:, None] + np.arange(min(int(2 * reach) + 3, axis.n_in))
    height = 1 - np.abs(places + 0.5 - centres[inside][:, None]) / reach
    within = (places < axis.n_in) & (height > 0)
    # Whole numbers from here on: the division's remainder goes to the largest weight.
    raw = np.where(within, np.rint(height * 2**24), 0).astype(np.int64)
    weights = raw * ONE // raw.sum(axis=1, keepdims=True)
    weights[np.arange(len(inside)), raw.argmax(axis=1)] += ONE - weights.sum(axis=1)
    row, tap = np.nonzero(weights)
    entries = weights[row, tap].astype(np.uint32), (inside[row], places[row, tap])
    return sparse.csr_matrix(entries, shape=(axis.n_out, axis.n_in))
