"""Reads DICOM files while distrusting every byte: what cannot be used is set aside with one code of a closed list."""

import contextlib
import functools
import io
import logging
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.tag import BaseTag, Tag

from fedrad_client.intake.codes import Quarantined

MAX_FILE_BYTES = 512 * 2**20
MAX_PIXELS = 2**26  # rows × columns × frames; the largest mammograms have 2**25
READ_TAGS = (
    "SpecificCharacterSet", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PixelRepresentation", "BitsAllocated", "HighBit",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData",
)  # fmt: skip
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
DEFLATED = b"1.2.840.10008.1.2.1.99"

# pydicom and its decoders quote header values in log lines.
SILENT = logging.CRITICAL + 1
for _name in ("pydicom", "pylibjpeg", "openjpeg", "rle", "jpeg_ls"):
    logging.getLogger(_name).setLevel(SILENT)
    logging.getLogger(_name).propagate = False


def find_files(source: Path) -> list[Path]:
    """Everything below `source` that is not hidden and not a folder, in an order that does not depend on the file system.

    A file's quarantine entry number is its place in this list, counted from 1. Links are listed, never followed.
    """
    closed: list[OSError] = []
    found: list[Path] = []
    for folder, folders, files in os.walk(source, onerror=closed.append):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in linked and not name.startswith(".")]
        found += [Path(folder) / name for name in (*files, *linked) if not name.startswith(".")]
    # A folder that may not be opened is listed too: nothing is left out in silence.
    found += [Path(error.filename) for error in closed]
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(source)))


@contextlib.contextmanager
def hushed() -> Iterator[list[warnings.WarningMessage]]:
    """Catch every warning of the block: they quote values."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def read(path: Path, keywords: tuple[str, ...] = ()) -> Dataset:
    """Parse one file, only the elements that pixels need and those named.

    Raises:
        Quarantined: with the code; the cause is dropped, because it may quote the file.
    """
    content = _bytes(path)
    if content.startswith(ARCHIVES):
        raise Quarantined("compressed-archive")
    if content[128:132] != b"DICM" and not _bare(content):
        raise Quarantined("not-dicom")
    if DEFLATED in content[:2048]:
        _bound_inflation(content)
    try:
        with hushed() as caught:
            ds = dcmread(io.BytesIO(content), force=True, specific_tags=_tags(keywords))
            _convert(ds.file_meta)
            _convert(ds)
    except (EOFError, zlib.error):
        raise Quarantined("truncated") from None
    except Exception:
        raise Quarantined("unreadable") from None
    # pydicom turns a file that ends too early into a warning and an incomplete data set.
    if any(end in str(warning.message).lower() for warning in caught for end in ("end of file", "no tag to read")):
        raise Quarantined("truncated")
    return ds


def _convert(ds: Dataset) -> None:
    """Turn bytes into values here, where warnings are caught; an element that cannot be converted does not exist."""
    for tag in list(ds.keys()):
        try:
            ds[tag]
        except Exception:  # each VR has its own, and they quote the value
            del ds[tag]


@functools.cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag]:
    return [Tag(keyword) for keyword in (*READ_TAGS, *keywords)]


def _bytes(path: Path) -> bytes:
    try:
        before = path.lstat()
        if not stat.S_ISREG(before.st_mode):
            raise Quarantined("not-a-file")
        # Checked again on the open file: it may have been swapped, and a FIFO would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            now = os.fstat(descriptor)
            if not stat.S_ISREG(now.st_mode):
                raise Quarantined("not-a-file")
            if now.st_size > MAX_FILE_BYTES:
                raise Quarantined("too-large")
            return stream.read(MAX_FILE_BYTES) or b""
    except OSError:
        raise Quarantined("unreadable") from None


def _bare(content: bytes) -> bool:
    """An old file without preamble begins with group 0002 or 0008, little endian, and an early element."""
    return content[:2] in (b"\x02\x00", b"\x08\x00") and content[2:4] < b"\x20\x00" and len(content) > 32


def _bound_inflation(content: bytes) -> None:
    # (0002,0000) stands first, has four bytes of value at 140, and counts what follows it.
    start = 144 + int.from_bytes(content[140:144], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        size = len(inflater.decompress(content[start:], MAX_FILE_BYTES))
    except zlib.error:
        raise Quarantined("truncated") from None
    if inflater.unconsumed_tail or size >= MAX_FILE_BYTES:
        raise Quarantined("too-large")
