"""Gray images in colour's clothes: film scanners, converters and archives store them so. What has colours is set aside."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array
from fedrad_client.intake.pixels.levels import levels_of
from fedrad_client.intake.reading.dicom import hushed

# What JPEG's rounding of YBR leaves between the samples of a gray pixel, of 255. A tint that an eye sees is wider.
TINT = 3
LUMINANCE = (299, 587, 114)  # thousandths of R, G, B (ITU-R BT.601, as in PS3.3 C.7.6.3.1.2)


def colour_as_gray(found: Array) -> Array:
    """(N, H, W, 3) RGB to (N, H, W) of the same dtype. Raises Quarantined: one pixel has a colour."""
    if found.ndim != 4 or found.shape[-1] != 3 or found.dtype.kind != "u":
        raise Quarantined("colour")
    red, green, blue = (found[..., sample] for sample in range(3))
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    if int((high - low).max()) > TINT:
        raise Quarantined("colour")
    if np.array_equal(high, low):
        return high
    wide = "u4" if found.dtype.itemsize < 4 else "u8"
    weighted = (np.multiply(sample, part, dtype=wide) for part, sample in zip(LUMINANCE, (red, green, blue), strict=True))
    return np.asarray((sum(weighted) + 500) // 1000, dtype=found.dtype)


def palette_as_gray(found: Array, ds: Dataset) -> Array:
    """Indices to the gray values of the file's palette (PS3.3 C.7.9). Raises Quarantined: an index in use has a colour, or no entry."""
    levels = levels_of(found.reshape(-1, found.shape[-1]))
    used = levels.counts() > 0
    try:
        with hushed():
            shown = np.asarray(apply_color_lut(levels.values, ds))
    except Exception:  # absent, short or damaged tables; the text quotes values
        raise Quarantined("colour") from None
    if (shown[used, :1] != shown[used, 1:3]).any():
        raise Quarantined("colour")
    return levels.spread(shown[:, 0]).reshape(found.shape)
