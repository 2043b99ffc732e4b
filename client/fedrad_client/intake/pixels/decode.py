"""Stored values of every frame, out of any transfer syntax, by decoders that are named here and no others."""

from typing import Any

import numpy as np
from pydicom import Dataset, config
from pydicom.pixels.decoders.base import get_decoder
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

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.array import Array
from fedrad_client.intake.pixels.extended_jpeg import is_twelve_bit, twelve_bit_frames
from fedrad_client.intake.pixels.gray import colour_as_gray, palette_as_gray
from fedrad_client.intake.pixels.header import COLOUR, PALETTE, PIXELS, n_frames, whole
from fedrad_client.intake.reading.dicom import hushed

# One decoder a syntax: pydicom would try every other one after a failure, GDCM last, and GDCM ends the process at some damaged files.
DECODERS = {RLELossless: "pylibjpeg", JPEG2000: "pylibjpeg", JPEG2000Lossless: "pylibjpeg"}
DECODERS |= {JPEGBaseline8Bit: "pillow", JPEGExtended12Bit: "pillow"}
FRAGILE = frozenset((JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless))  # only GDCM reads all files of these
NATIVE = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian))


class Fragile(Exception):  # noqa: N818 - a request, not a fault
    """This file's decoder may end the process: ask again in a child."""


def is_fragile(ds: Dataset) -> bool:
    syntax = ds.file_meta.get("TransferSyntaxUID")
    return syntax in FRAGILE or is_twelve_bit(ds, syntax)


def decode(ds: Dataset) -> Array:
    """(H, W) of an image of one frame; see `frames_of`. Raises Quarantined."""
    found = frames_of(ds)
    if len(found) != 1:
        raise Quarantined("multi-frame")
    first: Array = found[0]
    return first


def frames_of(ds: Dataset) -> Array:
    """All frames, (N, H, W) integers of 8, 16 or 32 bits, signed as the header says, or floats; bits beyond Bits Stored are dropped.

    Gray images that are stored as RGB, YBR or with a palette become gray, as MONOCHROME2 would be.

    Raises:
        Quarantined: with the code; "colour" where pixels are not gray.
    """
    found, photometric = _stored(ds, _syntax(ds))
    if photometric in COLOUR:
        found = colour_as_gray(found)
    elif photometric == PALETTE:
        found = palette_as_gray(found, ds)
    if found.shape != (n_frames(ds), ds.Rows, ds.Columns):
        raise Quarantined("undecodable")
    return found


def _syntax(ds: Dataset) -> UID:
    syntax = UID(str(ds.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian), config.IGNORE)
    if syntax not in AllTransferSyntaxes:
        raise Quarantined("unsupported-syntax")
    return syntax


def _stored(ds: Dataset, syntax: UID) -> tuple[Array, str]:
    """(N, H, W) or (N, H, W, samples), and how they are to be read now: decoders turn YBR into RGB."""
    photometric, samples = str(ds.get("PhotometricInterpretation")), whole(ds, "SamplesPerPixel", default=1)
    if not any(ds.get(keyword) for keyword in PIXELS):
        raise Quarantined("no-pixels")
    if "PixelData" not in ds:
        return _decoded(ds, syntax)
    allocated, stored = whole(ds, "BitsAllocated"), whole(ds, "BitsStored")
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated or not isinstance(ds.PixelData, bytes):
        raise Quarantined("bad-pixels")
    shape = n_frames(ds), int(ds.Rows), int(ds.Columns)
    values = shape[0] * shape[1] * shape[2] * (2 if photometric == "YBR_FULL_422" else samples)
    if not syntax.is_encapsulated and len(ds.PixelData) * 8 < values * allocated:
        raise Quarantined("truncated")
    high_bit = stored - 1
    if syntax in NATIVE and allocated in (8, 16, 32) and samples == 1:
        kind = "i" if ds.get("PixelRepresentation") == 1 else "u"
        found = np.frombuffer(ds.PixelData, dtype=f"<{kind}{allocated // 8}", count=values).reshape(shape)
        high_bit = whole(ds, "HighBit", default=high_bit)
    else:
        found, photometric = _decoded(ds, syntax)
    if allocated > 1 and samples == 1 and (not syntax.is_encapsulated or syntax == RLELossless):
        found = used_bits(found, stored=stored, high_bit=high_bit)
    return found, photometric


def _decoded(ds: Dataset, syntax: UID) -> tuple[Array, str]:
    try:
        decoder = get_decoder(syntax)
        available = decoder.is_available
    except NotImplementedError:
        available = False
    if not available:
        raise Quarantined("unsupported-syntax")
    if syntax.is_encapsulated:
        _silence_gdcm()
    try:
        with hushed():
            if is_twelve_bit(ds, syntax):
                return twelve_bit_frames(ds), str(ds.PhotometricInterpretation)
            ds.file_meta.TransferSyntaxUID = syntax
            found, made = decoder.as_array(ds, decoding_plugin=DECODERS.get(syntax, ""))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # they quote values; and a panic in a decoder written in Rust is no Exception
        raise Quarantined("undecodable") from None
    return np.asarray(found if n_frames(ds) > 1 else found[None]), str(made.get("photometric_interpretation"))


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
    if stored == width or (high_bit == stored - 1 and _fits(found, stored)):
        return found
    shifted: Any = (found << (width - 1 - high_bit)) >> (width - stored)
    return np.asarray(shifted, dtype=found.dtype)


def _fits(found: Array, bits: int) -> bool:
    """Do all values keep to so many bits? Two passes that read are cheaper than two that write."""
    if found.dtype.kind == "u":
        return int(found.max()) < 1 << bits
    return int(found.min()) >= -(1 << (bits - 1)) and int(found.max()) < 1 << (bits - 1)
