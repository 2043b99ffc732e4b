"""Stored values written anew (PS3.5 8): nothing of the file's own pixel bytes is left, so nothing hides beside the picture."""

import numpy as np
from pydicom import Dataset

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.image import Array


def write_pixels(ds: Dataset, stored: Array, *, bits_stored: int) -> None:
    """Add the elements of (H, W) stored values, uncompressed.

    Bits above those stored repeat the sign, or are 0; behind the last pixel stands at most the one zero that makes the length even.

    Raises:
        Quarantined: floats, or wider than 16 bits: none of the exported classes has them.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        raise Quarantined("bad-pixels")
    allocated, signed = stored.dtype.itemsize * 8, stored.dtype.kind == "i"
    bits = min(allocated, max(bits_stored, _needed(stored)))
    ds.SamplesPerPixel, ds.Rows, ds.Columns = 1, *stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    content = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("<"), copy=False)).tobytes()
    ds.add_new("PixelData", "OW" if allocated == 16 else "OB", content + bytes(len(content) % 2))


def _needed(stored: Array) -> int:
    """Bits of the largest value: a compressed file may hold more than its header says."""
    low, high = int(stored.min()), int(stored.max())
    return max(high.bit_length() + (stored.dtype.kind == "i"), (-low - 1).bit_length() + 1 if low < 0 else 1)


def padding_value(value: int, stored: Array) -> tuple[str, int] | None:
    """VR and value of Pixel Padding for these stored values; None where no stored value could be it. −2000 as US is 63536."""
    signed = stored.dtype.kind == "i"
    if signed and value >= 1 << (stored.dtype.itemsize * 8 - 1):
        value -= 1 << (stored.dtype.itemsize * 8)
    bounds = np.iinfo(stored.dtype)
    return ("SS" if signed else "US", value) if bounds.min <= value <= bounds.max else None
