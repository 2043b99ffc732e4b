"""Files made to end whoever reads them: each has an image before or behind its trap, so that nobody can refuse it for having none."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrad_sim.dicom_write import SOP_CLASS, Tag, Value, encode, encode_file, pixel_elements

DEFLATED, RLE, JPEG, JPEG_2000 = (f"1.2.840.10008.1.2.{part}" for part in ("1.99", "5", "4.50", "4.90"))
ENDLESS = 0xFFFFFFFF  # a length that is not known
META = b"\x02\x00\x00\x00UL\x04\x00"
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HHI", 0xFFFE, element, 0) for element in (0xE000, 0xE00D, 0xE0DD))
OPEN_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, ENDLESS)
JPEG_COMMENT = b"\xff\xfe\xff\xff" + bytes(65533)


def image(*, n_frames: str = "1", **changed: Any) -> dict[str | Tag, Value]:
    """The data set of a sound radiograph, 32²; None takes an element out."""
    pixels = np.random.default_rng(1).integers(0, 4096, (32, 32)).astype(np.uint16)
    elements: dict[str | Tag, Any] = {
        "SOPClassUID": SOP_CLASS["CR"], "SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2",
        "Modality": "CR", "StudyDate": "20200229", "PatientID": "P1", (0x28, 0x8, "IS"): n_frames,
            }  # fmt: skip
    elements |= pixel_elements(pixels, bits_stored=12)
    return {key: value for key, value in (elements | changed).items() if value is not None}


def head(group: int, element: int, vr: str, length: int) -> bytes:
    """Of an element whose VR has a length of 32 bits."""
    return struct.pack("<HH2sxxI", group, element, vr.encode(), length)


def before_pixels(trap: bytes, **changed: Any) -> bytes:
    """The image with `trap`, encoded elements, just before its pixels."""
    whole = encode_file(image(**changed))
    at = whole.index(head(0x7FE0, 0x10, "OW", 2048))
    return whole[:at] + trap + whole[at:]


def nested(depth: int, *, opened: bytes) -> bytes:
    """A sequence in an item in a sequence …, all of unknown length."""
    return (opened + OPEN_ITEM) * depth + (ITEM_END + SEQUENCE_END) * depth


def nested_by_length(depth: int, group: int, element: int) -> bytes:
    """The same, each of a known length."""
    lengths = range(20 * depth - 12, 0, -20)
    return b"".join(head(group, element, "SQ", length) + struct.pack("<HHI", 0xFFFE, 0xE000, length - 8) for length in lengths)


def encapsulated(syntax: str, *fragments: bytes, table: bytes = b"", **changed: Any) -> bytes:
    """The image's header, and these for its pixels (PS3.5 A.4)."""
    items = b"".join(ITEM[:4] + struct.pack("<I", len(part)) + part for part in (table, *fragments))
    header = encode_file(image(PixelData=None, **changed), meta={"TransferSyntaxUID": syntax})
    return header + head(0x7FE0, 0x10, "OB", ENDLESS) + items + SEQUENCE_END


def rle_bomb(side: int, *, values: bytes) -> bytes:
    """A frame of side² pixels of 8 bits, 128 of one of `values` at a time: 2 bytes of file (PS3.5 G.3)."""
    packed = b"".join(bytes((0x81, value)) for value in values) * (side * side // 128 // len(values))
    fragment = struct.pack("<16I", 1, 64, *[0] * 14) + packed
    return encapsulated(RLE, fragment, Rows=side, Columns=side, **_BYTES)


def deflate_bomb(megabytes: int) -> bytes:
    """An image behind so many megabytes of nothing, which deflate to a thousandth."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = packer.compress(head(0x0009, 0x1001, "OB", megabytes * 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    megabyte = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.compress(encode(image())) + packer.flush()
    whole = encode_file(image(), meta={"TransferSyntaxUID": DEFLATED})
    return whole[: whole.index(struct.pack("<HH", 8, 0x16))] + start + megabyte * megabytes + end


def striped(side: int) -> bytes:
    """side² pixels of 8 bits, deflated, that are strokes of letters all over: a search has no end of places to look at."""
    changed: dict[str, Any] = {"Rows": side, "Columns": side, **_BYTES, "PixelData": None}
    row = (bytes(3) + b"\xff" * 3) * (side // 6) + bytes(side % 6)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = (
        packer.compress(encode(image(**changed)) + head(0x7FE0, 0x10, "OW", side * side)) + packer.compress(row * side) + packer.flush()
    )
    whole = encode_file(image(**changed), meta={"TransferSyntaxUID": DEFLATED})
    return whole[: whole.index(struct.pack("<HH", 8, 0x16))] + packed


def jpeg_2000_lie(side: int) -> bytes:
    """A codestream that says it has side² pixels, and no data for them (ISO 15444-1, A.5.1)."""
    size = struct.pack(">HHIIIIIIIIHBBB", 0, side, side, 0, 0, side, side, 0, 0, 1, 11, 1, 1, 0)[:-1]
    style = b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01" + b"\xff\x5c\x00\x13\x40" + bytes(16)
    tile = b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x0e\x00\x01" + b"\xff\x93" + b"\xff\xd9"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", 41) + size[:38] + b"\x0b\x01\x01" + style + tile


def jpeg_lie(side: int, *, extra: bytes = b"") -> bytes:
    """A baseline JPEG of side² pixels without any data (ISO 10918-1, B.2)."""
    tables = (
        b"\xff\xdb\x00\x43\x00" + b"\x01" * 64 + b"\xff\xc4\x00\x15\x00\x01" + bytes(15) + b"\x00" + b"\xff\xc4\x00\x15\x10\x01" + bytes(16)
    )
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + extra + tables + frame + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\xff\xd9"


def words(*found: int) -> bytes:
    return struct.pack(f"<{len(found)}H", *found)


def palette(data: bytes) -> bytes:
    """Red, green and blue by segmented tables (PS3.3 C.7.9.2)."""
    described = b"".join(struct.pack("<HH2sH3H", 0x28, 0x1101 + n, b"US", 6, 0, 0, 16) for n in range(3))
    tables = b"".join(head(0x28, 0x1221 + n, "OW", len(data)) + data for n in range(3))
    return before_pixels(described + tables, PhotometricInterpretation="PALETTE COLOR")


SHARED = (0x5200, 0x9229)  # Shared Functional Groups Sequence: among those that are read
FRAMES = (0x5200, 0x9230)
ELEMENT = struct.pack("<HH2sH", 0x0009, 0x1010, b"LO", 0)
_BYTES: dict[str, Any] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
_IN_ITEM = head(*SHARED, "SQ", 3_200_008) + ITEM[:4] + struct.pack("<I", 3_200_000) + ELEMENT * 400_000
# By name: its code (None: the trap is in what nobody reads), and what makes it.
FILES: dict[str, tuple[str | None, Callable[[], bytes]]] = {
    "deflates to 600 MB": ("too-large", lambda: deflate_bomb(600)),
    "deflated, and breaks off": ("truncated", lambda: deflate_bomb(1)[:-40]),
    "nested 5,000 deep, lengths unknown": ("too-complex", lambda: before_pixels(nested(5000, opened=head(0x40, 0x275, "SQ", ENDLESS)))),
    "nested 5,000 deep, by length": (None, lambda: before_pixels(nested_by_length(5000, 0x40, 0x275))),
    "nested 5,000 deep, in what is read": ("too-complex", lambda: before_pixels(nested_by_length(5000, *SHARED))),
    "the same, lengths unknown": ("too-complex", lambda: before_pixels(nested(5000, opened=head(*SHARED, "SQ", ENDLESS)))),
    "nested 5,000 deep, private": ("too-complex", lambda: before_pixels(nested(5000, opened=head(0x9, 0x1010, "UN", ENDLESS)))),
    "400,000 elements": ("too-complex", lambda: before_pixels(ELEMENT * 400_000)),
    "400,000 elements in an item": ("too-complex", lambda: before_pixels(_IN_ITEM)),
    "400,000 empty items": ("too-complex", lambda: before_pixels(head(*FRAMES, "SQ", 3_200_000) + ITEM * 400_000)),
    "the same, length unknown": ("too-complex", lambda: before_pixels(head(*FRAMES, "SQ", ENDLESS) + ITEM * 400_000 + SEQUENCE_END)),
    "400,000 empty items, unread": (None, lambda: before_pixels(head(0x40, 0x275, "SQ", 3_200_000) + ITEM * 400_000)),
    "400,000 empty fragments": ("too-complex", lambda: encapsulated(RLE, *[b""] * 400_000)),
    "an offset table of 4 million": ("undecodable", lambda: encapsulated(RLE, b"x" * 64, table=bytes(2**24))),
    "64 megapixels of RLE, all the same": ("bad-pixels", lambda: rle_bomb(2**13, values=b"7")),
    "64 megapixels of strokes, deflated": ("burned-in", lambda: striped(2**13)),
    "a JPEG of 65,500²": ("undecodable", lambda: encapsulated(JPEG, jpeg_lie(65500), **_BYTES)),
    "a JPEG of 8,000², as its header says": ("undecodable", lambda: encapsulated(JPEG, jpeg_lie(8000), Rows=8000, Columns=8000, **_BYTES)),
    "a JPEG of 200 comments": ("undecodable", lambda: encapsulated(JPEG, jpeg_lie(32, extra=JPEG_COMMENT * 200), **_BYTES)),
    "a JPEG 2000 of 60,000²": ("undecodable", lambda: encapsulated(JPEG_2000, jpeg_2000_lie(60000))),
    "a JPEG 2000 of 8,000², as its header says": (
        "undecodable", lambda: encapsulated(JPEG_2000, jpeg_2000_lie(8000), Rows=8000, Columns=8000),
    ),
    "pixels of 4 GB, by length": ("truncated", lambda: before_pixels(head(0x7FE0, 0x10, "OW", ENDLESS - 1))),
    "an element of 4 GB, by length": ("truncated", lambda: before_pixels(head(0x9, 0x1010, "OB", ENDLESS - 1))),
    "a text of 4 GB, by length": ("truncated", lambda: before_pixels(head(0x40, 0xA160, "UT", ENDLESS - 1))),
    "rows × columns of 4 G": ("too-large", lambda: encode_file(image(Rows=65535, Columns=65535))),
    "2 G frames": ("too-large", lambda: encode_file(image(n_frames="2147483647"))),
    "frames of 60,000 digits": (None, lambda: encode_file(image(n_frames="9" * 60_000))),
    "a character set of 4,000 values": (
        "no-patient-id",
        lambda: encode_file(image(SpecificCharacterSet="\\".join(["ISO 2022 IR 87"] * 4000), PatientID="\x1b$B" * 20_000)),
    ),
    "a patient id of 60,000 bytes": (None, lambda: encode_file(image(PatientID="A" * 60_000))),
    "30,000 values where two belong": ("geometry", lambda: encode_file(image(PixelSpacing="\\".join("1" * 30_000)))),
    "a palette that refers to itself": ("colour", lambda: palette(words(2, 1, 0, 0))),
    "a palette of 131 M entries": ("colour", lambda: palette(words(*(1, 65535, 9) * 2000))),
    "a length of group 2 that lies": ("truncated", lambda: encode_file(image()).replace(META, META + b"\xff\xff\xff\x7f", 1)),
}  # fmt: skip


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


# Places that are no files: none may be opened.
PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/dev/zero"),
    "socket": _listen,
}


def write_all(folder: Path) -> dict[str, Path]:
    """All of them, by name."""
    found = {}
    for number, (name, (_, make)) in enumerate(FILES.items()):
        found[name] = folder / f"{number:02d}.dcm"
        found[name].write_bytes(make())
    for name, make_at in PLACES.items():
        found[name] = folder / name
        make_at(folder / name)
    return found
