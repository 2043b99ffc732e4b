"""The slices of one series of one patient become one volume: in the order of their place in the body, never of number or name."""

from collections.abc import Sequence

import numpy as np

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Floats, Pixels
from fedrad_client.intake.pixels.finish import finished, scale_of
from fedrad_client.intake.pixels.geometry import Geometry
from fedrad_client.intake.pixels.place import Vector
from fedrad_client.intake.pixels.resample import Axis, along_first
from fedrad_client.intake.pixels.slices import Slice

SAME = 0.01  # mm; slices nearer than this are at one position
EVEN = 0.1  # of the distance between slices: how far one distance may differ from the median
GAP = 1.5  # of it: from here on a slice is missing
ALIGNED = 1.0  # mm; how far a slice's centre may lie beside the line through the others. A tilted gantry is not straightened
TURN = 1e-3  # by which the components of two slices' directions may differ


def sort_slices(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], float]:
    """By position along the normal, towards head, back or left; and the distance between neighbours, mm.

    Raises:
        Quarantined: "geometry" where one slice has no place, or another orientation or size than the rest, or lies beside them, or the
            distances vary; "duplicate-slices" and "missing-slices".
    """
    if len(slices) < 2:
        raise Quarantined("missing-slices")
    first, centres = slices[0], [_centre(one) for one in slices]
    if not all(_alike(first, other) for other in slices):
        raise Quarantined("geometry")
    assert first.place is not None
    heights, beside = _along(centres, first.place.normal)
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    if gaps.min() < SAME:
        raise Quarantined("duplicate-slices")
    if np.abs(beside - beside[order[0]]).max() > ALIGNED:
        raise Quarantined("geometry")
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    if gaps.max() >= GAP * step:
        raise Quarantined("missing-slices")
    if np.abs(gaps - step).max() > EVEN * step:
        raise Quarantined("geometry")
    return tuple(slices[index] for index in order.tolist()), float(gaps.sum() / len(gaps))


def _centre(one: Slice) -> Vector:
    if one.place is None or one.place.centre is None:
        raise Quarantined("geometry")
    return one.place.centre


def _alike(first: Slice, other: Slice) -> bool:
    assert first.place is not None
    assert other.place is not None
    directions = (*first.place.down, *first.place.right), (*other.place.down, *other.place.right)
    turned = max(abs(one - two) for one, two in zip(*directions, strict=True))
    return turned <= TURN and first.shape == other.shape and first.spacing == other.spacing


def _along(centres: Sequence[Vector], normal: Vector) -> tuple[Floats, Floats]:
    """(n,) heights along the normal, and (n, 3) what is left beside it, mm. Product by product: no library's order of summing."""
    points = np.array(centres)
    heights = points[:, 0] * normal[0] + points[:, 1] * normal[1] + points[:, 2] * normal[2]
    return heights, points - heights[:, None] * np.array(normal)


def volume_of(slices: Sequence[Slice], geometry: Geometry) -> Pixels:
    """All slices of one series of one patient, in any order, to one volume at the geometry's spacing, middle on middle.

    Returns:
        (D, H, W) uint16, 0 … SCALE: D to the head, H to the back, W to the patient's left; 0 outside what was imaged.

    Raises:
        Quarantined: see `sort_slices`; or "bad-pixels" where all of it is one value.
    """
    assert geometry.depth is not None
    assert geometry.spacing is not None
    ordered, step = sort_slices(slices)
    tallies = [one.tally for one in ordered if one.tally is not None]
    scale = scale_of(tallies, geometry.profile) if tallies else None
    stack = np.stack([finished(one, scale) for one in ordered])
    if stack.min() == stack.max():
        raise Quarantined("bad-pixels")
    assert ordered[0].place is not None
    axis = ordered[0].place.stacked_along
    wanted = Axis.spaced(len(stack), step, (geometry.depth, geometry.height, geometry.width)[axis], geometry.spacing[axis])
    return np.ascontiguousarray(np.moveaxis(along_first(stack, wanted), 0, axis))
