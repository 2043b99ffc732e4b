"""Finds lines of text in a picture, whatever it shows: any size from 9 to some 150 pixels, both polarities, upright or turned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fedrad_client.intake.burnin.boxes import Box, merged
from fedrad_client.intake.burnin.flat import flat_inks
from fedrad_client.intake.burnin.lines import flat_lines_in, lines_in
from fedrad_client.intake.burnin.strokes import CELL, STEP, Bytes, hot_along_columns, hot_along_rows
from fedrad_client.intake.pixels.array import Array

SIZES = (1, 2, 4, 8)  # by which the picture is made smaller
_LEAST = 16  # pixels of a picture's sides
_CONTRAST, _MOST = 20, 110  # gray levels: of ink, at least; of strokes where noise asks for more, at most
_NOISE = 3.0  # standard deviations of the differences between neighbours
MOST_HOT = 8_000_000  # pixels as they are read: where strokes are on more, nothing is searched and all is held back
_AROUND = 24  # pixels beside what is hot, and half as many above and below
_EIGHT = np.ones((3, 3), dtype=int)


def find_text(frame: Array) -> tuple[Box, ...]:
    """Boxes around lines of at least five glyphs, or four of one flat ink, in pixels; the whole picture where there is too much to search.

    Args:
        frame: (H, W) stored values; not finite ones count as 0.
    """
    if min(frame.shape) < _LEAST:
        return ()
    picture = np.nan_to_num(frame, nan=0.0, posinf=0.0, neginf=0.0) if frame.dtype.kind == "f" else frame
    low, high = _ends(picture)
    rows, columns = _gray(picture[::STEP], low, high), _gray(picture[:, ::STEP], low, high)
    found: list[Box] = []
    for size in SIZES:
        threshold = _threshold(rows)
        upright = _patches(hot_along_rows(rows, threshold), size, picture.shape)
        turned = _patches(hot_along_columns(columns, threshold), size, picture.T.shape)
        if sum(_area(patch, size) for patch in (*upright, *turned)) > MOST_HOT:
            return (Box(0, 0, *picture.shape),)
        found += _read(picture, upright, size, low, high)
        found += [Box(box.left, box.top, box.right, box.bottom) for box in _read(picture.T, turned, size, low, high)]
        if min(rows.shape[0], columns.shape[1]) < 8 or min(rows.shape[1], columns.shape[0]) < 2 * CELL:
            break
        rows, columns = _halved(rows), _halved(columns.T).T
    return merged(found)


def _ends(picture: Array) -> tuple[float, float]:
    """The 1st and 99th percentile of a sample: text is brighter or darker than that, or at least between."""
    step = max(1, int(np.sqrt(picture.size / 10_000)))
    sample = np.sort(picture[step // 2 :: step, step // 2 :: step], axis=None)
    least, most = float(sample[len(sample) // 100]), float(sample[-1 - len(sample) // 100])
    return (least, most) if most > least else (float(picture.min()), float(picture.max()))


def _gray(values: Array, low: float, high: float) -> Bytes:
    """256 levels from about `low` to `high`; by shifting, where they are whole numbers, for that is fastest."""
    if values.dtype.kind == "f" or high - low < 1:
        return np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
    shift = max(0, int(high - low).bit_length() - 8)
    first, limits = int(low), np.iinfo(values.dtype)
    levels = np.clip(values, first, min(first + (256 << shift) - 1, limits.max))
    np.subtract(levels, values.dtype.type(first), out=levels)
    unsigned = levels.view(f"u{values.dtype.itemsize}")  # a difference may be beyond the largest signed value
    np.right_shift(unsigned, shift, out=unsigned)
    gray: Bytes = unsigned.astype(np.uint8)
    return gray


def _threshold(rows: Bytes) -> int:
    some = rows[:: max(1, rows.shape[0] // 100)].astype(np.int16)
    steps = np.sort(np.abs(np.diff(some, axis=1)[:, :: max(1, rows.shape[1] // 100)]), axis=None)
    noise = float(steps[int(0.9 * (len(steps) - 1))]) / 1.28  # as if half of the picture were still, as background is
    return int(min(max(_CONTRAST, _NOISE * noise), _MOST))


def _halved(rows: Bytes) -> Bytes:
    """Every second line, and pairs of pixels along it as one."""
    kept = rows[::2, : rows.shape[1] // 2 * 2]
    half: Bytes = ((kept[:, ::2].astype(np.uint16) + kept[:, 1::2]) >> 1).astype(np.uint8)
    return half


def _read(picture: Array, patches: list[Box], size: int, low: float, high: float) -> Iterator[Box]:
    for patch in patches:
        values = np.ascontiguousarray(picture[patch.top : patch.bottom, patch.left : patch.right])
        lines = lines_in(_smaller(_gray(values, low, high), size), _CONTRAST)
        for ink in flat_inks(values):
            lines += flat_lines_in(_smaller(255 * ink.view(np.uint8), size) > 127)
        for box in lines:
            yield Box(
                patch.top + size * box.top,
                patch.left + size * box.left,
                min(patch.top + size * box.bottom, picture.shape[0]),
                min(patch.left + size * box.right, picture.shape[1]),
            )


def _patches(hot: npt.NDArray[np.bool_] | None, size: int, shape: tuple[int, ...]) -> list[Box]:
    """What is hot on at least two lines, with some room around it."""
    if hot is None:
        return []
    joined = ndimage.binary_closing(np.pad(hot, 2), _EIGHT.astype(bool))[2:-2, 2:-2]
    labels, _ = ndimage.label(joined, _EIGHT)
    return [
        Box(
            max(0, size * (STEP * lines.start - _AROUND // 2)),
            max(0, size * (CELL * cells.start - _AROUND)),
            min(shape[0], size * (STEP * lines.stop + _AROUND // 2)),
            min(shape[1], size * (CELL * cells.stop + _AROUND)),
        )
        for lines, cells in ndimage.find_objects(labels)
        if lines.stop - lines.start > 1
    ]


def _area(patch: Box, size: int) -> int:
    return (patch.bottom - patch.top) * (patch.right - patch.left) // size**2


def _smaller(patch: Bytes, size: int) -> Bytes:
    if size == 1:
        return patch
    height, width = (side // size * size for side in patch.shape)
    cells = patch[:height, :width].reshape(height // size, size, width // size, size)
    means: Bytes = cells.mean(axis=(1, 3)).astype(np.uint8)
    return means
