"""Lines of text in a small patch: glyphs of like height and ink that stand on one line, side by side; in white or in black."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.burnin.strokes import Bytes

GLYPHS = 5.0  # on a line, at least
_PEN = 9  # pixels, more than a stroke is wide: what is narrower stands out from its surroundings
_LEAST, _MOST = 4, 40  # pixels of a glyph's height
_TOO_MANY = 6000  # components of a patch: noise
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
        if strong.size:
            ink = relief > max(0.6 * threshold, 0.45 * float(np.percentile(strong, 80)))
            found += _lines(_glyphs(ink, levels))
    return found


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


def _lines(glyphs: list[Glyph]) -> list[Box]:
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
        if weights[like].sum() >= GLYPHS:
            run = _longest_run(boxes, weights, np.flatnonzero(like), gap=3 * height)
            if len(run) > 1 and weights[run].sum() >= GLYPHS:
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
