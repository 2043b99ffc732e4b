"""Reads DICOM files while distrusting every byte: what cannot be used is set aside with one code of a closed list."""

import contextlib
import functools
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.reading.content import check_kind, inflated, load
from fedrad_client.intake.reading.folder import find_files as find_files
from fedrad_client.intake.reading.guarded import Headers, after_pixels, causes, convert

MAX_PIXELS = 2**26  # rows × columns × frames; the largest mammograms have 2**25
READ_TAGS = (  # whatever else is wanted
    "SpecificCharacterSet", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PixelRepresentation", "BitsAllocated", "HighBit",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData",
)  # fmt: skip

# pydicom and its decoders quote header values in log lines.
SILENT = logging.CRITICAL + 1
for _name in ("pydicom", "pylibjpeg", "openjpeg", "rle", "jpeg_ls"):
    logging.getLogger(_name).setLevel(SILENT)
    logging.getLogger(_name).propagate = False


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
    return parse(load(path), keywords)


def parse(content: bytes, keywords: tuple[str, ...] = ()) -> Dataset:
    """The same of a file's bytes. What stands behind the pixels is cut off.

    Raises:
        Quarantined: "not-dicom", "compressed-archive", "too-large" (inflated), "too-complex" (elements, depth), "truncated", "unreadable".
        MemoryError: it needs more than this process may take.
    """
    check_kind(content)
    headers = Headers()
    if not inflated(content, headers):
        headers = Headers(content)
    try:
        with hushed() as caught:
            ds: Dataset = read_partial(headers, stop_when=after_pixels(), force=True, specific_tags=list(_tags(keywords)))
            end = headers.tell()
            convert(ds.file_meta, headers)
            convert(ds, headers)
    except Quarantined:
        raise
    except Exception as error:
        raise _refusal(error, headers) from None
    # pydicom reads a file that ends too early without a word, or with a warning, to an incomplete data set.
    if end > headers.seek(0, io.SEEK_END) or any("end of file" in str(warning.message).lower() for warning in caught):
        raise Quarantined("truncated")
    return ds


def _refusal(error: Exception, headers: Headers) -> Quarantined:
    kinds = {type(cause) for cause in causes(error)}
    if headers.left < 0 or RecursionError in kinds:
        return Quarantined("too-complex")
    if MemoryError in kinds:
        raise MemoryError from None
    return Quarantined("truncated" if kinds & {EOFError, OSError, zlib.error} else "unreadable")


@functools.cache
def _tags(keywords: tuple[str, ...]) -> tuple[BaseTag, ...]:
    return tuple(Tag(keyword) for keyword in (*READ_TAGS, *keywords))
