"""The second half of a profile whose statistic is the series': from the tallies of its slices to each slice's final pixels."""

from collections.abc import Iterable

import numpy as np

from fedrad_client.intake.pixels.array import Floats, Pixels
from fedrad_client.intake.pixels.levels import Tally, modality_of, quantised, rescaled_pixels
from fedrad_client.intake.pixels.slices import Slice
from fedrad_client.intake.pixels.window import Ends, z_scores_of
from fedrad_common.profiles import SCALE, PixelProfile


def scale_of(tallies: Iterable[Tally], used: PixelProfile) -> Ends:
    """Which modality values become 0 and SCALE in all slices of one series of one patient. Raises Quarantined: all is one value."""
    return z_scores_of(Tally.merged(tallies), used)


def finished(one: Slice, scale: Ends | None) -> Pixels:
    """The slice's final pixels; `scale` is what `scale_of` gave for its series, None where the slice has no tally."""
    if scale is None or one.tally is None:
        return one.pixels
    return finished_pixels(one.pixels, one.low, one.high, scale)


def finished_pixels(pixels: Pixels, low: float, high: float, scale: Ends) -> Pixels:
    """The same, of what was kept of a slice: any array of its pixels, and their ends in modality units."""
    places: Floats = np.arange(SCALE + 1, dtype=np.float64)
    table = quantised(modality_of(places, low, high, SCALE), places > 0, *scale, SCALE)
    return rescaled_pixels(pixels, table)
