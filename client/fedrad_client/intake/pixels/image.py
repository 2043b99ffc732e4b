"""Stored pixels to what a model sees, by one profile, from this image alone: the same bytes at every site."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, config
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    JPEG2000,
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.deid.terms import PHOTOMETRIC
from fedrad_client.intake.reading.dicom import MAX_PIXELS, hushed
from fedrad_common.profiles import SCALE, PixelProfile

Array = npt.NDArray[Any]
# One decoder a syntax: pydicom would try every other one after a failure, GDCM last, and GDCM ends the process at some damaged files.
DECODERS = {RLELossless: "pylibjpeg", JPEG2000: "pylibjpeg", JPEG2000Lossless: "pylibjpeg"}
DECODERS |= {JPEGBaseline8Bit: "pillow", JPEGExtended12Bit: "pillow"}
FRAGILE = frozenset((JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless))  # only GDCM reads all files of these
NATIVE = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian))
# What lies within 5 % of the window above the darkest value is air, table or bed. Part of the profiles' version.
BACKGROUND = 0.05


@dataclass(frozen=True)
class Geometry:
    """What every image of a cohort becomes: (height, width) uint16 in 0 … SCALE."""

    profile: PixelProfile
    height: int  # pixels
    width: int


class Fragile(Exception):  # noqa: N818 - a request, not a fault
    """This file's decoder may end the process: ask again in a child."""


@dataclass(frozen=True)
class Levels:
    """An image as its distinct stored values: all that a profile does before resizing is a function of the value alone."""

    values: Array  # (k,) ascending, those that occur
    counts: npt.NDArray[np.int64]  # (k,) how often; at least 1
    index: npt.NDArray[np.intp]  # (H, W) into `slots`
    slots: npt.NDArray[np.intp]  # (s,) from an index to a place in `values`; 0 where nothing occurs


def normalise(ds: Dataset, geometry: Geometry, *, fragile: bool = True) -> npt.NDArray[np.uint16]:
    """Decode → leave padding out → Modality rescale → invert MONOCHROME1 → window → clip → resize → quantise.

    Returns:
        (geometry.height, geometry.width) uint16, 0 … SCALE; padding and the margin beside a narrower image are 0.

    Raises:
        Quarantined: with a code that says which step could not be done.
        Fragile: `fragile` is False and the decoder may end the process.
    """
    check_header(ds, geometry.profile)
    if not fragile and ds.file_meta.get("TransferSyntaxUID") in FRAGILE:
        raise Fragile
    levels = distinct(decode(ds))
    shown = ~padding(levels.values, ds)
    if not shown.any():
        raise Quarantined("bad-pixels")
    modality = rescale(levels.values, ds) if geometry.profile.apply_rescale else levels.values.astype(np.float64)
    if geometry.profile.invert_monochrome1 and ds.PhotometricInterpretation == "MONOCHROME1":
        modality = -modality
    low, high = window(modality[shown], levels.counts[shown], geometry.profile)
    unit = np.where(shown, np.clip((modality - low) / (high - low), 0, 1), 0).astype(np.float32)
    return resize(unit[levels.slots].take(levels.index), geometry)


def check_header(ds: Dataset, profile: PixelProfile) -> None:
    """Raises Quarantined before anything is decoded."""
    keyword = next((name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if ds.get(name)), None)
    height, width = _whole(ds, "Rows"), _whole(ds, "Columns")
    refusals: dict[Code, bool] = {
        "no-pixels": keyword is None or not (height and width),
        "modality": str(ds.get("Modality") or "").strip() not in profile.modalities,
        "multi-frame": _whole(ds, "NumberOfFrames", default=1) > 1,
        "colour": str(ds.get("PhotometricInterpretation")) not in PHOTOMETRIC or _whole(ds, "SamplesPerPixel", default=1) != 1,
        "too-large": height * width > MAX_PIXELS,
    }
    for code, refused in refusals.items():
        if refused:
            raise Quarantined(code)


def _whole(ds: Dataset, keyword: str, default: int = 0) -> int:
    try:
        return int(ds.get(keyword) or default)
    except (TypeError, ValueError):
        raise Quarantined("bad-pixels") from None


def decode(ds: Dataset) -> Array:
    """Stored values, (H, W) integers of 8, 16 or 32 bits, signed as the header says, or floats; bits beyond Bits Stored are dropped."""
    syntax = UID(str(ds.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian), config.IGNORE)
    if syntax not in AllTransferSyntaxes:
        raise Quarantined("unsupported-syntax")
    if "PixelData" not in ds:
        return _decoded(ds, syntax)
    allocated, stored = _whole(ds, "BitsAllocated"), _whole(ds, "BitsStored")
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated or not isinstance(ds.PixelData, bytes):
        raise Quarantined("bad-pixels")
    signed = ds.get("PixelRepresentation") == 1
    if not syntax.is_encapsulated and len(ds.PixelData) * 8 < ds.Rows * ds.Columns * allocated:
        raise Quarantined("truncated")
    if syntax in NATIVE and allocated in (8, 16):
        native = np.frombuffer(ds.PixelData, dtype=f"<u{allocated // 8}", count=ds.Rows * ds.Columns).reshape(ds.Rows, ds.Columns)
        found = native.view(f"<i{allocated // 8}") if signed else native
        high_bit = _whole(ds, "HighBit", default=stored - 1)
    else:
        found, high_bit = _decoded(ds, syntax), stored - 1
    if allocated > 1 and (not syntax.is_encapsulated or syntax == RLELossless):
        return used_bits(found, stored=stored, high_bit=high_bit)
    return found


def _decoded(ds: Dataset, syntax: UID) -> Array:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise Quarantined("unsupported-syntax")
    if syntax.is_encapsulated:
        _silence_gdcm()
    try:
        with hushed():
            ds.file_meta.TransferSyntaxUID = syntax
            ds.pixel_array_options(decoding_plugin=DECODERS.get(syntax, ""))
            found = np.asarray(ds.pixel_array)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # they quote values; and a panic in a decoder written in Rust is no Exception
        raise Quarantined("undecodable") from None
    if found.shape != (ds.Rows, ds.Columns):
        raise Quarantined("undecodable")
    return found


def _silence_gdcm() -> None:
    """GDCM writes to the process's stderr what no Python hook can catch."""
    import gdcm

    gdcm.Trace.DebugOff()
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()


def used_bits(found: Array, *, stored: int, high_bit: int) -> Array:
    """Keep `stored` bits up to `high_bit` (PS3.5 8.1.1): old files hide overlays in the others. Sign-extends signed values."""
    width = found.dtype.itemsize * 8
    if found.dtype.kind not in "iu" or not stored - 1 <= high_bit < width:
        raise Quarantined("bad-pixels")
    if stored == width:
        return found
    return (found << (width - 1 - high_bit)) >> (width - stored)


def distinct(stored: Array) -> Levels:
    """Sort an image's values once, by counting where they are few bits."""
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise Quarantined("bad-pixels")
    low, high = stored.min(), stored.max()
    if low == high:
        raise Quarantined("bad-pixels")
    if stored.dtype.kind == "f" or int(high) - int(low) >= 2**16:
        values, index, counts = np.unique(stored, return_inverse=True, return_counts=True)
        return Levels(values, counts, index.reshape(stored.shape), np.arange(len(values)))
    index = stored.astype(np.intp)
    index -= int(low)
    all_counts = np.bincount(index.ravel())
    occurring = np.flatnonzero(all_counts)
    slots = np.zeros(len(all_counts), dtype=np.intp)
    slots[occurring] = np.arange(len(occurring))
    return Levels((occurring + int(low)).astype(np.int64), all_counts[occurring], index, slots)


def padding(values: Array, ds: Dataset) -> npt.NDArray[np.bool_]:
    """Which stored values are outside the image (PS3.3 C.7.5.1.1.2); a padding value that makes no sense pads nothing."""
    prefix = "Float" if "PixelData" not in ds else ""
    ends = [ds.get(f"{prefix}PixelPadding{name}") for name in ("Value", "RangeLimit")]
    if not isinstance(ends[0], int | float):
        return np.zeros(len(values), dtype=bool)
    ends[1] = ends[1] if isinstance(ends[1], int | float) else ends[0]
    if not prefix and ds.get("PixelRepresentation") == 1:
        # Files that write the element as US hold −2000 as 63536.
        wrap = 1 << int(ds.BitsAllocated)
        ends = [end - wrap if end >= wrap // 2 else end for end in ends]
    return np.asarray((values >= min(ends)) & (values <= max(ends)))


def rescale(values: Array, ds: Dataset) -> npt.NDArray[np.float64]:
    """Stored to modality units, HU for CT (PS3.3 C.11.1). Raises Quarantined when slope or result make no image."""
    try:
        with hushed():
            if ds.get("ModalityLUTSequence"):
                modality = np.asarray(apply_modality_lut(values, ds), dtype=np.float64)
            else:
                slope, intercept = (float(_given(ds, f"Rescale{name}", default)) for name, default in (("Slope", 1), ("Intercept", 0)))
                modality = values * slope + intercept
    except Exception:
        raise Quarantined("bad-pixels") from None
    if not np.isfinite(modality).all() or np.abs(modality).max() > 1e12:
        raise Quarantined("bad-pixels")
    return modality


def _given(ds: Dataset, keyword: str, default: Any) -> Any:
    value = ds.get(keyword)
    return default if value is None or value == "" else value


def window(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], profile: PixelProfile) -> tuple[float, float]:
    """The profile's percentiles of this image. Raises Quarantined when the image has one value only."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    darkest, brightest = float(values[0]), float(values[-1])
    if darkest == brightest:
        raise Quarantined("bad-pixels")
    if profile.window == "foreground-percentiles":
        upper = percentile(values, counts, profile.upper)
        foreground = values > darkest + BACKGROUND * (upper - darkest)
        values, counts = values[foreground], counts[foreground]
    low, high = percentile(values, counts, profile.lower), percentile(values, counts, profile.upper)
    # Nearly all pixels alike, as in a mask: then the extremes are the picture.
    return (low, high) if low < high else (darkest, brightest)


def percentile(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], percent: float) -> float:
    """numpy's linear percentile of `values`, ascending, each repeated `counts` times."""
    upto = np.cumsum(counts)
    position = percent / 100 * float(upto[-1] - 1)
    below = int(position)
    first, second = values[np.searchsorted(upto, [below, min(below + 1, int(upto[-1]) - 1)], side="right")]
    return float(first + (position - below) * (second - first))


def resize(unit: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.uint16]:
    """Fit (H, W) floats in [0, 1] into the geometry, centred, aspect ratio kept, antialiased (a triangle as wide as the reduction)."""
    height, width = unit.shape
    scale = min(geometry.height / height, geometry.width / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    if inner != unit.shape:
        unit = np.asarray(Image.fromarray(unit).resize((inner[1], inner[0]), Image.Resampling.BILINEAR))
    out = np.zeros((geometry.height, geometry.width), dtype=np.uint16)
    top, left = (geometry.height - inner[0]) // 2, (geometry.width - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = np.rint(np.clip(unit, 0, 1) * np.float32(SCALE))
    return out
