"""Where a slice lies in the patient, and its turning to the patient's axes (LPS, PS3.3 C.7.6.2.1.1). Absurd geometry is refused."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array
from fedrad_client.intake.pixels.frame import Frame
from fedrad_client.intake.pixels.header import given, numbers

Vector = tuple[float, float, float]  # x to the left, y to the back, z to the head; mm
T = TypeVar("T")
LEAST_SPACING, LARGEST_SPACING, FARTHEST = 1e-3, 100.0, 5000.0  # mm
SKEW = 1e-2  # of a direction's length, and of the cosine between two
# Along which patient axis, and which way, rows and columns run on a screen, by the axis that the slice is seen along (x, y, z).
ON_SCREEN = {2: ((1, 1), (0, 1)), 1: ((2, -1), (0, 1)), 0: ((2, -1), (1, 1))}
IN_VOLUME = {2: ((1, 1), (0, 1)), 1: ((2, 1), (0, 1)), 0: ((2, 1), (1, 1))}  # a volume's axes are z, y, x, all ascending


@dataclass(frozen=True)
class Place:
    """A plane of pixels in the patient."""

    down: Vector  # unit; from one row to the next
    right: Vector  # unit; from one column to the next
    centre: Vector | None  # of the plane, mm; None where the file has no position

    @property
    def axes(self) -> tuple[int, int, int]:
        """The patient axes nearest to `down`, to `right` and to the normal: 0 is x, 1 is y, 2 is z. All different."""
        down, right = np.abs(self.down), np.abs(self.right)
        pairs = ((first, second) for first in range(3) for second in range(3) if first != second)
        first, second = max(pairs, key=lambda pair: down[pair[0]] + right[pair[1]])
        return first, second, 3 - first - second

    @property
    def stacked_along(self) -> int:
        """Which axis of a (z, y, x) array such slices are stacked along."""
        return 2 - self.axes[2]

    @property
    def normal(self) -> Vector:
        """Unit; towards the positive end of the nearest patient axis."""
        across = np.cross(self.right, self.down)
        x, y, z = (across if across[self.axes[2]] > 0 else -across).tolist()
        return x, y, z


def place_of(frame: Frame, shape: tuple[int, int], spacing: tuple[float, float] | None) -> Place | None:
    """None where the file has no orientation.

    Raises:
        Quarantined: "geometry" where it is not finite, no pair of orthogonal unit vectors, or metres away.
    """
    orientation = given(frame.place_of("ImageOrientationPatient"), "ImageOrientationPatient")
    if orientation is None:
        return None
    cosines = np.array(numbers(orientation, 6, code="geometry"))
    right, down = cosines[:3], cosines[3:]
    lengths = np.sqrt((right**2).sum()), np.sqrt((down**2).sum())
    if max(abs(length - 1) for length in lengths) > SKEW or abs((right * down).sum()) > SKEW:
        raise Quarantined("geometry")
    return Place(_vector(down / lengths[1]), _vector(right / lengths[0]), _centre(frame, right, down, shape, spacing))


def _centre(frame: Frame, right: Array, down: Array, shape: tuple[int, int], spacing: tuple[float, float] | None) -> Vector | None:
    held = frame.place_of("ImagePositionPatient")
    position = given(held, "ImagePositionPatient")
    if position is None or spacing is None or (held is frame.ds and frame.shares_data_set):
        return None
    corner = np.array(numbers(position, 3, code="geometry"))
    if np.abs(corner).max() > FARTHEST:
        raise Quarantined("geometry")
    return _vector(corner + down * ((shape[0] - 1) / 2 * spacing[0]) + right * ((shape[1] - 1) / 2 * spacing[1]))


def _vector(values: Array) -> Vector:
    x, y, z = values.tolist()
    return x, y, z


def spacing_of(frame: Frame) -> tuple[float, float] | None:
    """Millimetres between rows and between columns; None where the file has none. Raises Quarantined: not finite, or absurd."""
    found = given(frame.place_of("PixelSpacing"), "PixelSpacing")
    found = given(frame.ds, "ImagerPixelSpacing") if found is None else found
    if found is None:
        return None
    rows, columns = numbers(found, 2, code="geometry")
    if not (LEAST_SPACING <= rows <= LARGEST_SPACING and LEAST_SPACING <= columns <= LARGEST_SPACING):
        raise Quarantined("geometry")
    return rows, columns


def aspect_of(frame: Frame) -> tuple[float, float]:
    """Height and width of a pixel, in one unknown unit: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), else a square."""
    found = given(frame.ds, "PixelAspectRatio")
    if found is None:
        return 1.0, 1.0
    height, width = numbers(found, 2, code="geometry")
    if not (height > 0 and width > 0 and 1 / LARGEST_SPACING <= height / width <= LARGEST_SPACING):
        raise Quarantined("geometry")
    return height, width


def turned(pixels: Array, pixel: tuple[T, T], place: Place, *, volume: bool) -> tuple[Array, tuple[T, T]]:
    """(H, W) with rows and columns along the nearest patient axes, and what belongs to its two axes (as a pixel's size) with it.

    On screen: an axial slice's rows run to the back, all others' to the feet; columns run to the left, a sagittal slice's to the back.
    """
    first, second, seen_along = place.axes
    wanted = (IN_VOLUME if volume else ON_SCREEN)[seen_along]
    signs = {first: np.sign(place.down[first]), second: np.sign(place.right[second])}
    if wanted[0][0] != first:
        pixels, pixel = pixels.T, (pixel[1], pixel[0])
    for axis, (along, sign) in enumerate(wanted):
        if signs[along] != sign:
            pixels = np.flip(pixels, axis)
    return pixels, pixel
