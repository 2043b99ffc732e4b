"""One frame to one slice: decoded, windowed by its profile, turned and resampled; final, or waiting for its series' statistic."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array, Floats, Mask, Pixels
from fedrad_client.intake.pixels.decode import Fragile, frames_of, is_fragile
from fedrad_client.intake.pixels.frame import Frame, frames_in
from fedrad_client.intake.pixels.geometry import Geometry, laid_out
from fedrad_client.intake.pixels.header import check_header, given
from fedrad_client.intake.pixels.levels import Levels, Tally, levels_of, modality_of, quantised
from fedrad_client.intake.pixels.masks import Rectangle, hidden_by
from fedrad_client.intake.pixels.modality import modality_values, padded
from fedrad_client.intake.pixels.place import Place, aspect_of, place_of, spacing_of
from fedrad_client.intake.pixels.region import Region, region_of
from fedrad_client.intake.pixels.window import Ends, percentiles_of
from fedrad_common.profiles import SCALE, PixelProfile


@dataclass(frozen=True)
class Slice:
    """One frame on its way. Pixels lie between 1 for `low` and SCALE for `high`, and 0 is outside the image."""

    pixels: Pixels  # geometry's (H, W); of a volume, the two axes of the slice
    low: float  # modality units
    high: float
    tally: Tally | None  # of what its series' statistic is made; None: the pixels are final, 0 for `low`
    frame: int  # its number in the file, from 1
    place: Place | None  # before it was turned
    shape: tuple[int, int]  # as stored
    spacing: tuple[float, float] | None  # as stored; mm between rows, between columns


def slices_of(
    ds: Dataset, geometry: Geometry, *, masks: Iterable[Rectangle] = (), fragile: bool = True, frames: Array | None = None
) -> tuple[Slice, ...]:
    """Every frame of one file, on its own; see `each_slice`, which holds one at a time."""
    return tuple(each_slice(ds, geometry, masks=masks, fragile=fragile, frames=frames))


def each_slice(
    ds: Dataset, geometry: Geometry, *, masks: Iterable[Rectangle] = (), fragile: bool = True, frames: Array | None = None
) -> Iterator[Slice]:
    """One frame after the other.

    Args:
        frames: what `frames_of` gave for this file, so that it need not be decoded twice.

    Raises:
        Quarantined: with a code that says which step could not be done.
        Fragile: `fragile` is False and the decoder may end the process.
    """
    check_header(ds, geometry.profile)
    views = frames_in(ds)
    if frames is None:
        if not fragile and is_fragile(ds):
            raise Fragile
        frames = frames_of(ds)
    hidden = hidden_by(masks, frames.shape[1:])
    for stored, view in zip(frames, views, strict=True):
        yield _slice(stored, view, geometry, hidden)


def _slice(stored: Array, view: Frame, geometry: Geometry, hidden: Mask | None) -> Slice:
    used = geometry.profile
    spacing = spacing_of(view)
    if geometry.spacing is not None and spacing is None:
        raise Quarantined("geometry")
    shape = (stored.shape[0], stored.shape[1])
    place = place_of(view, shape, spacing) if used.upright or geometry.depth else None
    levels = levels_of(stored)
    shown = ~padded(levels.values, view.ds)
    if geometry.depth is None and (len(levels.values) == 1 or not shown.any()):  # of a volume a slice may be empty
        raise Quarantined("bad-pixels")
    # Padding may be as far away as the least float: the rescale need not bear it.
    modality = modality_values(np.where(shown, levels.values, levels.values[shown.argmax()]), view, used)
    region = None
    if used.region in ("body", "breast"):
        region = region_of(levels, modality, shown, hidden, used)
        if used.chest_wall_left and _on_the_right(region, view.ds):
            levels = Levels(levels.values, levels.codes[:, ::-1], levels.first, levels.size)
            hidden = None if hidden is None else hidden[:, ::-1]
            region = region_of(levels, modality, shown, hidden, used)
    tally, (low, high) = _ends(levels, modality, shown, hidden, region, used)
    table = quantised(modality, shown, low, high, SCALE, least=0 if tally is None else 1)
    pixel = spacing or aspect_of(view)
    blanked = region.covers(shape) if region is not None and used.region == "breast" else None
    if hidden is None and blanked is None:
        pixels = laid_out(levels.codes, pixel, place, geometry, table=levels.by_code(table))
    else:
        out = levels.spread(table)
        for outside in (hidden, None if blanked is None else ~blanked):
            if outside is not None:
                out[outside] = 0
        pixels = laid_out(out, pixel, place, geometry)
    return Slice(pixels, low, high, tally, view.number, place, shape, spacing)


def _on_the_right(region: Region, ds: Dataset) -> bool:
    """By the picture, for headers contradict it; by the header where the picture does not say: a left breast lies with its wall left."""
    side = given(ds, "ImageLaterality") or given(ds, "Laterality")
    return str(side).strip() == "R" if region.heavier_right is None else region.heavier_right


def _ends(
    levels: Levels, modality: Floats, shown: Mask, hidden: Mask | None, region: Region | None, used: PixelProfile
) -> tuple[Tally | None, Ends]:
    """A tally for the series, if the profile wants one, and which modality values the slice's pixels span."""
    if used.window == "fixed":
        return None, (used.lower, used.upper)
    if region is not None:
        return None, percentiles_of(_occurring(region.tally(levels, modality, shown)), used)
    counts = levels.counts(None if hidden is None else levels.codes[~hidden])
    tally = _occurring(Tally.of(modality, np.where(shown, counts, 0)))
    low, high = float(tally.values[0]), float(tally.values[-1])
    ends = low, high if high > low else low + 1.0
    return _bounded(tally, *ends), ends


def _occurring(tally: Tally) -> Tally:
    if not len(tally.values):
        raise Quarantined("bad-pixels")
    return tally


def _bounded(tally: Tally, low: float, high: float) -> Tally:
    """Of no more values than the slice's pixels can hold apart."""
    if len(tally.values) <= SCALE:
        return tally
    places = quantised(tally.values, np.ones(len(tally.values), dtype=bool), low, high, SCALE, least=1)
    return Tally.of(modality_of(places.astype(np.float64), low, high, SCALE), tally.counts)
