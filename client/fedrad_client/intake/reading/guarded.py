"""pydicom's own parse, but for how much of it there may be: every element header is counted, in whatever nesting, before it is believed."""

import io
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag

from fedrad_client.intake.codes import Quarantined

# Headers of elements and of fragments of pixels; of items four times. An enhanced object of 1,000 frames has about 80,000.
MAX_ELEMENTS = 100_000
MAX_DEPTH = 32  # sequences within sequences; images have up to 6
MAX_TEXT_BYTES = 2**16  # of one value that is no pixels and no table: more is not believed to be one
_ITEM, _ITEM_COST = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"), 4  # each becomes a data set, which is dearer than an element
_HEADER = 8  # bytes: what pydicom asks for before each element and item (PS3.5 7.1)
_TABLES = frozenset(("OB", "OW", "OD", "OF", "OL", "OV", "UN"))
PIXEL_DATA = 0x7FE00010


class Headers(io.BytesIO):
    """A stream that counts the headers read from it: by the 8 bytes that pydicom reads of an element, the 4 of a fragment."""

    left = MAX_ELEMENTS

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises Quarantined: too many. pydicom may turn it into something else, so that `left` below 0 is what counts."""
        found = super().read(size)
        if size == _HEADER or found in _ITEM:
            self.left -= _ITEM_COST if size == _HEADER and found.startswith(_ITEM) else 1
            if self.left < 0:
                raise Quarantined("too-complex")
        return found


def after_pixels() -> "_AfterPixels":
    """For pydicom's `stop_when`: nothing that follows the pixels is read, be it a signature, padding or no element at all."""
    return _AfterPixels()


class _AfterPixels:
    def __init__(self) -> None:
        self.seen = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        stop, self.seen = self.seen, self.seen or tag == PIXEL_DATA
        return stop


def convert(ds: Dataset, headers: Headers, *, depth: int = 0) -> None:
    """Turn bytes into values, sequences all the way down, where warnings are caught; what cannot be converted does not exist.

    Raises:
        Quarantined: "too-complex", or "truncated" with the element that ends too early.
    """
    for tag in list(ds.keys()):
        raw = ds.get_item(tag)
        if isinstance(raw, RawDataElement):
            _convert(ds, raw, headers, depth)
        elif isinstance(raw, DataElement) and raw.VR == "SQ":
            for item in raw.value:
                _descend(item, headers, depth)


def _convert(ds: Dataset, raw: RawDataElement, headers: Headers, depth: int) -> None:
    if raw.value is not None and len(raw.value) < raw.length != 0xFFFFFFFF:
        raise Quarantined("truncated", keyword_for_tag(raw.tag) or None)
    vr = _vr(raw)
    try:
        if vr == "SQ" and raw.value:
            ds[raw.tag] = _sequence(raw, headers)
        elif vr in _TABLES or "OW" in vr or raw.value is None or len(raw.value) <= MAX_TEXT_BYTES:
            ds[raw.tag]  # converts it
        else:
            del ds[raw.tag]
    except (MemoryError, RecursionError):
        raise
    except Exception:  # each VR has its own, and they quote the value
        if headers.left < 0:
            raise Quarantined("too-complex") from None
        del ds[raw.tag]
        return
    if vr == "SQ" and raw.tag in ds:
        for item in ds[raw.tag].value or ():
            _descend(item, headers, depth)


def _descend(item: Dataset, headers: Headers, depth: int) -> None:
    if depth == MAX_DEPTH:
        raise Quarantined("too-complex")
    convert(item, headers, depth=depth + 1)


def _vr(raw: RawDataElement) -> str:
    """What pydicom will take it for: of an element without, or with an unknown one, what the standard says."""
    if raw.VR not in (None, "UN"):
        return str(raw.VR)
    try:
        return dictionary_VR(raw.tag)
    except KeyError:
        return "UN"


def _sequence(raw: RawDataElement, headers: Headers) -> DataElement:
    stream = Headers(raw.value or b"")
    stream.left = headers.left
    try:
        found = read_sequence(stream, raw.is_implicit_VR, raw.is_little_endian, len(raw.value or b""), "iso8859")
    finally:
        headers.left = stream.left
    return DataElement(raw.tag, "SQ", found)


def causes(error: BaseException) -> Iterator[Any]:
    """The error, and those in whose handling it was raised."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__context__
