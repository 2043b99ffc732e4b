"""Stored pixels to what a model sees, by one profile: the same bytes at every site."""

from collections.abc import Iterable

from pydicom import Dataset

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array as Array
from fedrad_client.intake.pixels.array import Pixels
from fedrad_client.intake.pixels.decode import Fragile as Fragile
from fedrad_client.intake.pixels.decode import decode as decode
from fedrad_client.intake.pixels.decode import frames_of as frames_of
from fedrad_client.intake.pixels.finish import finished as finished
from fedrad_client.intake.pixels.finish import finished_pixels as finished_pixels
from fedrad_client.intake.pixels.finish import scale_of as scale_of
from fedrad_client.intake.pixels.geometry import Geometry as Geometry
from fedrad_client.intake.pixels.geometry import needs_series as needs_series
from fedrad_client.intake.pixels.header import check_header as check_header
from fedrad_client.intake.pixels.masks import Rectangle
from fedrad_client.intake.pixels.slices import Slice as Slice
from fedrad_client.intake.pixels.slices import each_slice as each_slice
from fedrad_client.intake.pixels.slices import slices_of as slices_of
from fedrad_client.intake.pixels.volume import volume_of


def normalise(ds: Dataset, geometry: Geometry, *, masks: Iterable[Rectangle] = (), fragile: bool = True) -> Pixels:
    """One file that is its whole series: decode → leave padding out → rescale → invert MONOCHROME1 → window → turn → resample.

    Returns:
        (geometry.height, geometry.width) uint16, 0 … SCALE; padding and the margin beside a narrower image are 0.
        With a depth, and an object that holds all slices, (geometry.depth, geometry.height, geometry.width).

    Raises:
        Quarantined: with a code that says which step could not be done; "multi-frame" where one image is wanted and there are several.
        Fragile: `fragile` is False and the decoder may end the process.
    """
    slices = slices_of(ds, geometry, masks=masks, fragile=fragile)
    if geometry.depth is not None:
        return volume_of(slices, geometry)
    if len(slices) > 1:
        raise Quarantined("multi-frame")
    only = slices[0]
    return finished(only, None if only.tally is None else scale_of([only.tally], geometry.profile))
