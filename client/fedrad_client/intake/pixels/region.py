"""Which part of a projection is the patient: found on a thinned grid, by value and connection alone, so the same everywhere."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fedrad_client.intake.pixels.array import Array, Floats, Mask
from fedrad_client.intake.pixels.levels import Levels, Tally
from fedrad_common.profiles import PixelProfile

GRID = 256  # pixels a side at most, on which a body is found
LEAST = 0.05  # of the grid; a smaller find is noise, a marker or a pattern, and the whole image counts


@dataclass(frozen=True)
class Region:
    """Every `step`-th pixel of an image, and which of them are the patient."""

    step: int
    codes: Array  # (h, w) of Levels
    inside: Mask  # (h, w)

    def tally(self, levels: Levels, modality: Floats, shown: Mask) -> Tally:
        return Tally.of(modality, np.where(shown, levels.counts(self.codes[self.inside]), 0))

    def covers(self, shape: tuple[int, int]) -> Mask:
        """(H, W): `inside`, each grid point as large as its step."""
        rows, columns = (np.arange(length) // self.step for length in shape)
        return self.inside[rows][:, columns]

    @property
    def heavier_right(self) -> bool | None:
        """On which side more of it lies; None where that is undecided."""
        half = self.inside.shape[1] // 2
        left, right = int(self.inside[:, :half].sum()), int(self.inside[:, self.inside.shape[1] - half :].sum())
        return None if left == right else right > left


def region_of(levels: Levels, modality: Floats, shown: Mask, hidden: Mask | None, profile: PixelProfile) -> Region:
    """The patient in one image: what no dark margin, and of a radiograph no bright one, cuts off; in one piece, holes (as lungs) included.

    Args:
        modality: (k,) of each level; dark is low.
        shown: (k,) which levels are no padding.
        hidden: (H, W) pixels that are not to be looked at.
    """
    step = max(1, -(-max(levels.codes.shape) // GRID))
    codes = levels.codes[::step, ::step]
    table = np.zeros(levels.size)
    table[: len(modality)] = np.where(shown, modality, np.nan)
    values = np.roll(table, levels.first)[codes]
    visible = np.isfinite(values) if hidden is None else np.isfinite(values) & ~hidden[::step, ::step]
    whole = Region(step, codes, visible)
    if not visible.any():
        return whole
    tally = whole.tally(levels, modality, shown)
    dark, bright = tally.percentile(1), tally.percentile(99)
    near = profile.background * (bright - dark)
    outside = _joined_to_margin(~(visible & (values > dark + near)))
    if (
        profile.region == "body"
    ):  # what a collimator kept from the detector is as bright as the densest bone; a breast's muscle is no margin
        outside |= _joined_to_margin(visible & (values > bright - near))
    body = _largest(visible & ~outside)
    return whole if body.sum() < LEAST * body.size else Region(step, codes, body)


def _joined_to_margin(dark: Mask) -> Mask:
    parts, count = ndimage.label(dark)
    margin = np.zeros(count + 1, dtype=bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        margin[edge] = True
    margin[0] = False
    return np.asarray(margin[parts])


def _largest(found: Mask) -> Mask:
    """The connected part with most pixels; the first of equals."""
    parts, count = ndimage.label(found)
    if count < 2:
        return found
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())
