"""Sound files of every transfer syntax, and what may happen to a file's bytes: by accident, or by somebody who knows the format."""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from fedrad_sim.dicom_write import encode_file, pixel_elements

VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV XX".split()
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 7.1.2
EXTREMES = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LONG_EXTREMES = (*EXTREMES, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
SIDE, N_SOUND = 48, 10
Rng = np.random.Generator


@dataclass(frozen=True)
class Element:
    """Where one stands in a file of explicit VR, little endian."""

    start: int
    value: int
    end: int

    @property
    def wide(self) -> bool:
        """Has it a length of 32 bits?"""
        return self.value - self.start == 12


def elements(content: bytes) -> list[Element]:
    """As far as they can be walked, at the top level."""
    found, at = [], 132
    while at + 12 <= len(content) and content[at + 4 : at + 6] in VRS:
        wide = content[at + 4 : at + 6] in LONG
        value = at + (12 if wide else 8)
        length = int.from_bytes(content[value - (4 if wide else 2) : value], "little")
        end = min(value + length, len(content))
        found.append(Element(at, value, end))
        at = end
    return found


def flip(content: bytearray, rng: Rng, _: bytes) -> bytes:
    """A few bytes, most of them in the header."""
    for _turn in range(rng.integers(1, 30)):
        within = len(content) if rng.random() < 0.4 else min(len(content), 2000)
        content[rng.integers(within)] = rng.integers(256)
    return bytes(content)


def flip_bits(content: bytearray, rng: Rng, _: bytes) -> bytes:
    for at in rng.integers(0, len(content), rng.integers(1, 8)):
        content[at] ^= 1 << rng.integers(8)
    return bytes(content)


def damage_pixels(content: bytearray, rng: Rng, _: bytes) -> bytes:
    """Some bytes of the second half, where the header is sound and a decoder has to notice."""
    for at in rng.integers(len(content) // 2, len(content), rng.integers(1, 60)):
        content[at] = rng.integers(256)
    return bytes(content)


def cut(content: bytearray, rng: Rng, _: bytes) -> bytes:
    return bytes(content[: rng.integers(len(content))])


def take_out(content: bytearray, rng: Rng, _: bytes) -> bytes:
    start = rng.integers(len(content))
    return bytes(content[:start] + content[start + rng.integers(1, 200) :])


def splice(content: bytearray, rng: Rng, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return bytes(content[: rng.integers(len(content))]) + other[rng.integers(len(other)) :]


def fill(content: bytearray, rng: Rng, _: bytes) -> bytes:
    """A run of one byte."""
    start, length = rng.integers(len(content)), int(rng.integers(1, 400))
    content[start : start + length] = bytes([rng.choice((0, 0xFF, 0x20, 0x5C))]) * length
    return bytes(content)


def lie_about_length(content: bytearray, rng: Rng, other: bytes) -> bytes:
    if (at := _any_element(content, rng)) is None:
        return flip(content, rng, other)
    if at.wide:
        content[at.value - 4 : at.value] = struct.pack("<I", rng.choice(LONG_EXTREMES))
    else:
        content[at.value - 2 : at.value] = struct.pack("<H", rng.choice(EXTREMES))
    return bytes(content)


def rename(content: bytearray, rng: Rng, other: bytes) -> bytes:
    """Another VR for the same bytes."""
    if (at := _any_element(content, rng)) is None:
        return flip(content, rng, other)
    content[at.start + 4 : at.start + 6] = VRS[rng.integers(len(VRS))]
    return bytes(content)


def another_number(content: bytearray, rng: Rng, other: bytes) -> bytes:
    """An extreme one where a short element stands: rows, bits, samples."""
    short = [at for at in elements(bytes(content)) if at.end - at.value == 2]
    if not short:
        return flip(content, rng, other)
    at = short[rng.integers(len(short))]
    content[at.value : at.end] = struct.pack("<H", rng.choice(EXTREMES))
    return bytes(content)


def another_text(content: bytearray, rng: Rng, other: bytes) -> bytes:
    if (at := _any_element(content, rng)) is None or at.end == at.value:
        return flip(content, rng, other)
    letters = (b"\\", b"-", b"9", b"\x1b$B", b"\xff", b"^", b"1e999\\", b"nan\\", b"\0", b" ")[rng.integers(10)]
    content[at.value : at.end] = (letters * (at.end - at.value))[: at.end - at.value]
    return bytes(content)


def insert(content: bytearray, rng: Rng, other: bytes) -> bytes:
    """An element of this file, or of another, a second time and anywhere."""
    source = bytes(content) if rng.random() < 0.5 else other
    there, here = _any_element(source, rng), _any_element(content, rng)
    if there is None or here is None:
        return splice(content, rng, other)
    copies = int(rng.integers(1, 4)) if there.end - there.start > 100 else int(rng.choice((1, 2, 3000)))
    return bytes(content[: here.start]) + source[there.start : there.end] * copies + bytes(content[here.start :])


def nest(content: bytearray, rng: Rng, other: bytes) -> bytes:
    """Put an element into a sequence in a sequence …, under a tag that is read, or one that is not."""
    if (at := _any_element(content, rng)) is None:
        return flip(content, rng, other)
    inner = bytes(content[at.start : at.end])
    tag = ((0x5200, 0x9229), (0x5200, 0x9230), (0x0028, 0x3000), (0x0040, 0x0275), (0x0009, 0x1010))[rng.integers(5)]
    for _level in range(rng.choice((1, 3, 31, 32, 33, 300))):
        inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = struct.pack("<HH2sxxI", *tag, b"SQ", len(inner)) + inner
    return bytes(content[: at.start]) + inner + bytes(content[at.end :])


def _any_element(content: bytes | bytearray, rng: Rng) -> Element | None:
    found = elements(bytes(content))
    return found[rng.integers(len(found))] if found else None


# What needs a sound header to reach a decoder more often than the rest.
MUTATIONS: tuple[Callable[[bytearray, Rng, bytes], bytes], ...] = (
    damage_pixels, damage_pixels, damage_pixels, flip, flip_bits, cut, take_out, splice, fill,
    lie_about_length, rename, another_number, another_text, insert, nest,
)  # fmt: skip


def mutated(seeds: list[bytes], number: int) -> bytes:
    """One of the files with one, two or three things done to it: the same again for the same number.

    Args:
        seeds: of `files_of`; every third file is one of the first, which are the small ones that we write.
    """
    rng = np.random.default_rng([20, number])
    content, other = seeds[rng.integers(len(seeds) if number % 3 else N_SOUND)], seeds[rng.integers(len(seeds))]
    for mutation in rng.choice(len(MUTATIONS), rng.choice((1, 1, 2, 3))):
        content = MUTATIONS[mutation](bytearray(content), rng, other) or content
    return content


def sound_files() -> Iterator[bytes]:
    """A small image of each transfer syntax that can be written, and one of four frames."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    picture = ((x**2 + y**2 < 0.8) * 1500 + 400 * (1 + np.sin(5 * x))).astype(np.uint16)
    described = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "SOPInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2",
        "Modality": "MR", "StudyDate": "20200229", "PatientID": "P1", "PatientAge": "045Y", "PixelSpacing": "1\\1",
        (0x20, 0x32, "DS"): "0\\0\\5", (0x20, 0x37, "DS"): "1\\0\\0\\0\\1\\0", **pixel_elements(picture, bits_stored=12),
    }  # fmt: skip
    plain = encode_file(described)
    yield plain
    yield encode_file(described | {(0x28, 8, "IS"): "4", "PixelData": picture.tobytes() * 4})
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless):
        ds = dcmread(io.BytesIO(plain))
        ds.compress(syntax, generate_instance_uid=False, jls_error=2 if syntax == JPEGLSNearLossless else None)
        yield _written(ds)
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        ds = dcmread(io.BytesIO(plain))
        ds.file_meta.TransferSyntaxUID = syntax
        yield _written(ds)
    yield _big_endian(plain)
    yield _jpeg(plain, picture)


def _written(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _big_endian(plain: bytes) -> bytes:
    ds = dcmread(io.BytesIO(plain))
    swapped = Dataset()
    swapped.update(ds)
    swapped.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    swapped.file_meta = ds.file_meta
    swapped.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    return _written(swapped)


def _jpeg(plain: bytes, picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((picture >> 4).astype(np.uint8)).save(stream, "JPEG")
    ds = dcmread(io.BytesIO(plain))
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return _written(ds)


def files_of(folder: Path | None, *, at_most: int = 2**19) -> list[bytes]:
    """The sound files, and those of `folder` that are DICOM and no larger than that; in an order of their own."""
    found = sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
    contents = (path.read_bytes() for path in found if path.stat().st_size <= at_most)
    return [*sound_files(), *(content for content in contents if content[128:132] == b"DICM")]
