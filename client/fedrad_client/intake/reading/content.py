"""A file's bytes, or why not: what kind of file it is and how big is asked before anything of it is read or inflated."""

import io
import os
import stat
import zlib
from pathlib import Path

from fedrad_client.intake.codes import Quarantined

MAX_FILE_BYTES = 2**28  # 2**26 pixels of 4 bytes
MAX_INFLATED_BYTES = 2**27 + 2**24  # 2**26 pixels of 2 bytes, and their header
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
DEFLATED, PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"  # PS3.5 A.5 and A.2; of one length
LONG_FORM = (b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # PS3.5 7.1.2
_PIECE = 2**20


def load(path: Path) -> bytes:
    """All of one file. A link, a pipe or a device is never opened.

    Raises:
        Quarantined: "not-a-file", "too-large" or "unreadable".
    """
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
            return stream.read(now.st_size) or b""
    except OSError:
        raise Quarantined("unreadable") from None


def check_kind(content: bytes) -> None:
    """Raises Quarantined: an archive, or no DICOM."""
    if content.startswith(ARCHIVES):
        raise Quarantined("compressed-archive")
    if content[128:132] != b"DICM" and not _bare(content):
        raise Quarantined("not-dicom")


def _bare(content: bytes) -> bool:
    """An old file without preamble begins with group 0002 or 0008, little endian, and an early element."""
    return content[:2] in (b"\x02\x00", b"\x08\x00") and content[2:4] < b"\x20\x00" and len(content) > 32


def inflated(content: bytes, into: io.BytesIO) -> bool:
    """Write a deflated file (PS3.5 A.5) into the empty stream as if it had never been deflated; False where it is not deflated.

    Raises:
        Quarantined: "too-large" as soon as it is, or "truncated" where the compressed data break off.
    """
    if DEFLATED not in content[:2048]:
        return False
    start = _end_of_meta(content)
    if DEFLATED not in content[:start]:
        return False
    into.write(content[:start].replace(DEFLATED, PLAIN))
    inflater, at = zlib.decompressobj(-zlib.MAX_WBITS), start
    try:
        while not inflater.eof:
            fed = inflater.unconsumed_tail or content[at : at + _PIECE]
            at += 0 if inflater.unconsumed_tail else len(fed)
            if not fed:
                raise Quarantined("truncated")
            into.write(inflater.decompress(fed, _PIECE))
            if into.tell() > MAX_INFLATED_BYTES:
                raise Quarantined("too-large")
    except zlib.error:
        raise Quarantined("truncated") from None
    into.seek(0)
    return True


def _end_of_meta(content: bytes) -> int:
    """Where the data set begins: by walking group 0002, for its own length element may be missing or wrong."""
    at = 132 if content[128:132] == b"DICM" else 0
    while content[at : at + 2] == b"\x02\x00":
        long = content[at + 4 : at + 6] in LONG_FORM
        length = int.from_bytes(content[at + 8 : at + 12] if long else content[at + 6 : at + 8], "little")
        at += length + (12 if long else 8)
    return at
