"""Lines of text in a small patch: glyphs of like height and ink that stand on one line, side by side; in white or in black."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.burnin.strokes import Bytes

GLYPHS = 5.0  # on a line, at least
FLAT_GLYPHS = 4.0  # where every pixel of them has the same stored value: what a program draws, tissue hardly ever
_FEW = 4  # components that would have to be several glyphs each: one glyph more is asked of fewer
# What is ink: which percentile of what stands out, and how much of it, at least. The first finds faint letters, the others those on
# bright tissue.
_INKS = ((80, 0.45, GLYPHS), (80, 0.75, GLYPHS + 1), (95, 1.0, GLYPHS))
_PEN = 9  # pixels, more than a stroke is wide: what is narrower stands out from its surroundings
_LEAST, _MOST = 4, 40  # pixels of a glyph's height
_TOO_MANY, _TOO_MUCH = 6000, 0.3  # components of a patch, and the part of it that is ink: noise
_EIGHT = np.ones((3, 3), dtype=int)  # corners touch


class Glyph(NamedTuple):
    box: Box
    ink: float  # gray level
    weight: float  # of how many glyphs: at small sizes they run into each other


def lines_in(patch: Bytes, threshold: int) -> list[Box]:
    """Lines of at least `GLYPHS` glyphs, read from left to right.

    Args:
        patch: (H, W) gray levels.
        threshold: gray levels by which ink differs from what is around it, at least.
    """
    found: list[Box] = []
    if min(patch.shape) < _LEAST + 2:
        return found
    for levels in (patch, 255 - patch):
        relief = levels - ndimage.grey_opening(levels, size=(_PEN, _PEN))
        strong = relief[relief > threshold]
        for percentile, part, least in _INKS if strong.size else ():
            ink = relief > max(0.6 * threshold, part * float(np.percentile(strong, percentile)))
            if ink.mean() < _TOO_MUCH:
                found += _lines(_glyphs(ink, levels), least)
    return found


def flat_lines_in(ink: npt.NDArray[np.bool_]) -> list[Box]:
    """Lines of at least `FLAT_GLYPHS` glyphs in a mask of pixels that all have the same stored value."""
    return _lines(_glyphs(ink, np.full(ink.shape, 255, dtype=np.uint8)), FLAT_GLYPHS) if min(ink.shape) >= _LEAST + 2 else []


def _glyphs(ink: npt.NDArray[np.bool_], levels: Bytes) -> list[Glyph]:
    labels, n = ndimage.label(ink, _EIGHT)
    if not 1 < n <= _TOO_MANY:
        return []
    found = (_glyph(labels[place] == number, levels[place], place) for number, place in enumerate(ndimage.find_objects(labels), start=1))
    return [glyph for glyph in found if glyph is not None]


def _glyph(inside: npt.NDArray[np.bool_], levels: Bytes, place: tuple[slice, slice]) -> Glyph | None:
    """None where a component has no glyph's shape: a dot, a long line, a filled block."""
    (height, width), area = inside.shape, int(inside.sum())
    if not _LEAST <= height <= _MOST or width > 12 * height or area < 5:
        return None
    if area > 0.92 * height * width and width > 0.6 * height:
        return None
    weight = 1.0
    if width > 1.4 * height:  # several in one: by its width, as far as strokes are in it
        strokes = (inside[:, 1:] & ~inside[:, :-1]).sum(axis=1) + inside[:, 0]
        most = float(np.sort(strokes)[-max(1, height // 2) :].mean())
        weight = min(width / (0.8 * height), max(1.0, 0.6 * most))
    rows, columns = place
    return Glyph(Box(rows.start, columns.start, rows.stop, columns.stop), float(np.percentile(levels[inside], 75)), weight)


def _lines(glyphs: list[Glyph], least: float) -> list[Box]:
    if not glyphs:
        return []
    ordered = sorted(glyphs, key=lambda glyph: glyph.box.left)
    boxes = np.array([glyph.box for glyph in ordered], dtype=np.float64)
    ink, weights = np.array([glyph.ink for glyph in ordered]), np.array([glyph.weight for glyph in ordered])
    heights = boxes[:, 2] - boxes[:, 0]
    found = []
    for seed in range(len(ordered)):
        height = heights[seed]
        like = (np.abs(boxes[:, 2] - boxes[seed, 2]) <= 0.22 * height + 1) & (np.abs(ink - ink[seed]) <= 45)
        like &= (heights >= 0.58 * height) & (heights <= 1.6 * height)
        if weights[like].sum() >= least:
            run = _longest_run(boxes, weights, np.flatnonzero(like), gap=3 * height)
            if len(run) > 1 and weights[run].sum() >= least + (len(run) < _FEW and least > FLAT_GLYPHS):
                found.append(_around(boxes[run]))
    return found


def _longest_run(
    boxes: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], members: npt.NDArray[np.intp], *, gap: float
) -> npt.NDArray[np.intp]:
    """Of members in order from left to right, those without a wider gap between them that weigh most."""
    ends = np.maximum.accumulate(boxes[members, 3])
    runs = np.split(members, np.flatnonzero(boxes[members[1:], 1] - ends[:-1] > gap) + 1)
    return max(runs, key=lambda run: float(weights[run].sum()))


def _around(boxes: npt.NDArray[np.float64]) -> Box:
    return Box(int(boxes[:, 0].min()), int(boxes[:, 1].min()), int(boxes[:, 2].max()), int(boxes[:, 3].max()))
