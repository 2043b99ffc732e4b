"""Stored values to the units of the modality, and to what a maker's table shows of them; padding told apart."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array, Floats, Mask
from fedrad_client.intake.pixels.frame import Frame, items
from fedrad_client.intake.pixels.header import given, number
from fedrad_client.intake.reading.dicom import hushed
from fedrad_common.profiles import PixelProfile

LARGEST = 1e12  # beyond it a rescale is a mistake; far below what float64 holds exactly
HOUNSFIELD = frozenset(("", "HU", "HU_MOD"))  # Rescale Type; absent from CT it means HU (PS3.3 C.8.2.1.1.4)


def modality_values(values: Array, frame: Frame, profile: PixelProfile) -> Floats:
    """(k,) stored values to what the profile looks at: rescaled, shown by a VOI table, inverted.

    Raises:
        Quarantined: "bad-pixels" where slope, table or result make no image; "units" where they should be HU and are not.
    """
    if profile.hounsfield:
        _check_hounsfield(frame)
    found = _rescaled(values, frame) if profile.apply_rescale else values.astype(np.float64)
    if profile.apply_voi_table:
        found = _shown(found, frame)
    if not np.isfinite(found).all() or np.abs(found).max() > LARGEST:
        raise Quarantined("bad-pixels")
    return -found if profile.invert_monochrome1 and frame.ds.PhotometricInterpretation == "MONOCHROME1" else found


def _check_hounsfield(frame: Frame) -> None:
    held = frame.place_of("RescaleIntercept")
    kind = str(given(frame.place_of("RescaleType"), "RescaleType") or "").strip()
    linear = given(held, "RescaleIntercept") is not None and given(frame.place_of("RescaleSlope"), "RescaleSlope") is not None
    table = next((str(given(item, "ModalityLUTType") or "").strip() for item in items(frame.ds, "ModalityLUTSequence")), None)
    if table != "HU" and not (linear and table is None and kind in HOUNSFIELD):
        raise Quarantined("units")


def _rescaled(values: Array, frame: Frame) -> Floats:
    """PS3.3 C.11.1."""
    if any(items(frame.ds, "ModalityLUTSequence")):
        try:
            with hushed():
                return np.asarray(apply_modality_lut(values, frame.ds), dtype=np.float64)
        except Exception:  # a short, odd or empty table; its text quotes values
            raise Quarantined("bad-pixels") from None
    slope = number(frame.place_of("RescaleSlope"), "RescaleSlope", 1)
    intercept = number(frame.place_of("RescaleIntercept"), "RescaleIntercept", 0)
    if slope == 0:
        raise Quarantined("bad-pixels")
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
        return values.astype(np.float64) * slope + intercept


def _shown(found: Floats, frame: Frame) -> Floats:
    """By the first table of VOI LUT Sequence (PS3.3 C.11.2.1.1). Where there is none, nothing changes."""
    held = frame.place_of("VOILUTSequence")
    if not any(items(held, "VOILUTSequence")):
        return found
    try:
        with hushed():
            rounded = np.rint(np.clip(found, -(2**31), 2**31 - 1)).astype(np.int64)
            return np.asarray(apply_voi(rounded, held), dtype=np.float64)
    except Exception:
        raise Quarantined("bad-pixels") from None


def padded(values: Array, ds: Dataset) -> Mask:
    """Which stored values are outside the image (PS3.3 C.7.5.1.1.2); a padding value that makes no sense pads nothing."""
    prefix = "" if "PixelData" in ds else "Float" if "FloatPixelData" in ds else "DoubleFloat"
    ends = [ds.get(f"{prefix}PixelPadding{name}") for name in ("Value", "RangeLimit")]
    if not isinstance(ends[0], int | float):
        return np.zeros(values.shape, dtype=bool)
    ends[1] = ends[1] if isinstance(ends[1], int | float) else ends[0]
    if not prefix and ds.get("PixelRepresentation") == 1:
        # Files that write the element as US hold −2000 as 63536.
        wrap = 1 << int(ds.BitsAllocated)
        ends = [end - wrap if end >= wrap // 2 else end for end in ends]
    return np.asarray((values >= min(ends)) & (values <= max(ends)))
