"""Where text could be at all: rows, or columns, in which many strokes begin and end within a few characters' width.

It looks at every third row and column of the picture, and again at half, quarter and eighth of its size, so that letters of any size are
about as high as those that it counts strokes of. Anatomy has edges, but hardly ever so many side by side. What it costs is what the whole
gate costs on a clean picture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Counts = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # strokes that begin, that end; (lines, cells)
STEP = 3  # pixels between two lines that are looked at: letters are at least 7 high
CELL, WINDOW = 16, 4  # pixels of a cell along a line; cells that are looked at together
STROKES = 5  # in a window, at least; a word of five letters has eight
_EACH_BYTE = np.uint64(0x0101010101010101)


def hot_along_rows(rows: Bytes, threshold: int) -> npt.NDArray[np.bool_] | None:
    """(lines, cells) in which text could lie; None where in none.

    Args:
        rows: (lines, width) every third row.
        threshold: gray levels between two pixels at a stroke's edge.
    """
    n = (rows.shape[1] - 3) // CELL
    if n < 1:
        return None
    values = rows[:, : n * CELL + 3]
    more = _raised(values, threshold)
    return _hot((_in_eights(values[:, 2:] > more[:, :-2]), _in_eights(values[:, :-2] > more[:, 2:])))


def hot_along_columns(columns: Bytes, threshold: int) -> npt.NDArray[np.bool_] | None:
    """The same for (height, lines), every third column: for text that was turned."""
    n = (columns.shape[0] - 3) // CELL
    if n < 1:
        return None
    values = columns[: n * CELL + 3]
    more = _raised(values, threshold)
    return _hot((_in_rows(values[2:] > more[:-2], n), _in_rows(values[:-2] > more[2:], n)))


def _raised(values: Bytes, threshold: int) -> Bytes:
    """What a pixel must be above to end a step from here, two pixels away: the edge of a drawn letter is seldom sharper."""
    raised: Bytes = np.minimum(values, np.uint8(255 - threshold))
    raised += np.uint8(threshold)
    return raised


def _in_eights(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Beginnings of runs, counted in each cell: eight bytes are added by one multiplication."""
    begins = np.ascontiguousarray(edges[:, 1:] > edges[:, :-1]).view(np.uint64)
    sums = ((begins * _EACH_BYTE) >> np.uint64(56)).astype(np.uint8)
    counts: npt.NDArray[np.uint8] = sums[:, ::2] + sums[:, 1::2]
    return counts


def _in_rows(edges: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.uint8]:
    begins = (edges[1:] > edges[:-1]).view(np.uint8).reshape(n, CELL, -1)
    counts: npt.NDArray[np.uint8] = begins.sum(axis=1, dtype=np.uint8).T
    return counts


def _hot(counts: Counts) -> npt.NDArray[np.bool_] | None:
    lines, n = counts[0].shape
    width = min(WINDOW, n)
    enough = np.ones((lines, n - width + 1), dtype=bool)
    for one in counts:
        if one.max(initial=0) == 0:
            return None
        enough &= sum(one[:, at : at + n - width + 1] for at in range(width)) >= STROKES
    if not enough.any():
        return None
    hot = np.zeros((lines, n), dtype=bool)
    for at in range(width):
        hot[:, at : at + n - width + 1] |= enough
    return hot
