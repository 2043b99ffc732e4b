"""What a protocol wants of every image: its profile, its size and its spacing; and how a slice is laid into it."""

from dataclasses import dataclass

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array, Pixels
from fedrad_client.intake.pixels.place import Place, turned
from fedrad_client.intake.pixels.resample import Axis, Whole, inner_size, resampled
from fedrad_common.profiles import PixelProfile, profile
from fedrad_common.protocol import Input


@dataclass(frozen=True)
class Geometry:
    """What every image of a cohort becomes: (height, width), or (depth, height, width), uint16 in 0 … SCALE."""

    profile: PixelProfile
    height: int  # pixels
    width: int
    depth: int | None = None  # slices; None: each slice is an image
    spacing: tuple[float, ...] | None = None  # mm a pixel: (depth,) height, width; None: fitted

    @staticmethod
    def of(wanted: Input) -> "Geometry":
        """What a protocol asks for. Raises ConfigError: this release has no such profile, or another version."""
        found = profile(wanted.profile, wanted.profile_version)
        return Geometry(found, wanted.height, wanted.width, wanted.depth, wanted.spacing)


def needs_series(geometry: Geometry) -> bool:
    """Is a slice not final before all slices of its series are seen?"""
    return geometry.depth is not None or geometry.profile.window == "z-score"


def laid_out(out: Array, pixel: tuple[float, float], place: Place | None, geometry: Geometry, *, table: Whole | None = None) -> Pixels:
    """(H, W) of 0 … SCALE, turned to the patient's axes, then to the geometry's size: at its spacing, or fitted, proportions kept.

    Args:
        pixel: height and width of one, mm; in any unit where the geometry has no spacing.
        table: as for `resampled`.

    Raises:
        Quarantined: "geometry" where a volume's slice has no place.
    """
    if place is not None:
        out, pixel = turned(out, pixel, place, volume=geometry.depth is not None)
    size, wanted = _plane(geometry, place)
    if wanted is None:
        inner = inner_size((out.shape[0], out.shape[1]), size, pixel)
        axes = [Axis.fitted(out.shape[axis], inner[axis], size[axis]) for axis in range(2)]
    else:
        axes = [Axis.spaced(out.shape[axis], pixel[axis], size[axis], wanted[axis]) for axis in range(2)]
    return resampled(out, *axes, table=table)


def _plane(geometry: Geometry, place: Place | None) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """Size and spacing of the two axes that a slice lies along."""
    spacing, size = geometry.spacing, (geometry.height, geometry.width)
    if geometry.depth is None:
        return size, None if spacing is None else (spacing[0], spacing[1])
    if place is None or spacing is None:
        raise Quarantined("geometry")
    whole = (geometry.depth, *size)
    first, second = (axis for axis in range(3) if axis != place.stacked_along)
    return (whole[first], whole[second]), (spacing[first], spacing[second])
