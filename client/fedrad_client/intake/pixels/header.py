"""What a header claims about its pixels, read with distrust and before anything is decoded."""

import math
from typing import Any

from pydicom import Dataset

from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.reading.dicom import MAX_PIXELS
from fedrad_common.profiles import PixelProfile

GRAY = frozenset(("MONOCHROME1", "MONOCHROME2"))  # PS3.3 C.7.6.3.1.2
# Three samples: gray images are stored so by film scanners and converters, and taken in when they are gray.
COLOUR = frozenset(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"))
PALETTE = "PALETTE COLOR"
SAMPLES = dict.fromkeys(GRAY, 1) | dict.fromkeys(COLOUR, 3) | {PALETTE: 1}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# All that pixels need of a file, by the step that needs it; whoever reads a file names these.
ELEMENTS: tuple[str, ...] = (
    "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *PIXELS,
    *(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "VOILUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "ImagePositionPatient", "ImageOrientationPatient",
    "ImageLaterality", "Laterality",
)  # fmt: skip


def check_header(ds: Dataset, profile: PixelProfile) -> None:
    """Raises Quarantined before anything is decoded."""
    height, width, frames = whole(ds, "Rows"), whole(ds, "Columns"), n_frames(ds)
    photometric, samples = str(ds.get("PhotometricInterpretation")), whole(ds, "SamplesPerPixel", default=1)
    refusals: dict[Code, bool] = {
        "no-pixels": not any(ds.get(keyword) for keyword in PIXELS) or not (height > 0 and width > 0),
        "modality": str(ds.get("Modality") or "").strip() not in profile.modalities,
        "localizer": not profile.localizers and is_localizer(ds),
        "bad-pixels": frames < 1 or photometric in ("None", ""),
        "colour": SAMPLES.get(photometric) != samples,
        "too-large": height * width * frames * samples > MAX_PIXELS,
    }
    for code, refused in refusals.items():
        if refused:
            raise Quarantined(code)


def is_localizer(ds: Dataset) -> bool:
    """PS3.3 C.8.2.1.1.1: a projection that other slices were planned on."""
    kind = ds.get("ImageType")
    return not isinstance(kind, str | None) and len(kind) > 2 and str(kind[2]).strip() == "LOCALIZER"


def n_frames(ds: Dataset) -> int:
    return whole(ds, "NumberOfFrames", default=1)


def whole(ds: Dataset, keyword: str, default: int = 0) -> int:
    """An element of which 0 says as little as its absence. Raises Quarantined: it is there and is no whole number."""
    try:
        return int(ds.get(keyword) or default)
    except (TypeError, ValueError, OverflowError):
        raise Quarantined("bad-pixels") from None


def number(ds: Dataset, keyword: str, default: float, *, code: Code = "bad-pixels") -> float:
    """Raises Quarantined, with `code`: the element is there and is no finite number."""
    value = given(ds, keyword)
    return default if value is None else numbers(value, 1, code=code)[0]


def numbers(value: Any, count: int, *, code: Code) -> tuple[float, ...]:
    """`count` finite numbers of an element's value. Raises Quarantined, with `code`."""
    try:
        found = tuple(float(item) for item in ([value] if count == 1 else value))
    except (TypeError, ValueError):
        raise Quarantined(code) from None
    if len(found) != count or not all(map(math.isfinite, found)):
        raise Quarantined(code)
    return found


def given(ds: Dataset, keyword: str) -> Any:
    """The element's value; None where it is absent or empty. Raises Quarantined: deep in a sequence it cannot be converted."""
    try:
        value = ds.get(keyword)
    except Exception:  # each VR has its own, and they quote the value
        raise Quarantined("bad-pixels") from None
    return None if value is None or value == "" else value
