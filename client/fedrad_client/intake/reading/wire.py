"""Between a reader process and its parent: work and paths one way, answers the other. Only the parent's words are unpickled."""

import json
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

_ASK = struct.Struct("<cQ")  # WORK or FILES, bytes of the pickle
_ANSWER = struct.Struct("<QIQ")  # number of the file, bytes of the head (JSON), bytes of the body
WORK, FILES = b"W", b"F"
READY, ENDED = 2**64 - 1, 2**64 - 2  # in place of a file's number: the libraries are loaded; a worker ended
MAX_HEAD, MAX_BODY = 2**22, 2**29  # bytes; more, and the reader is not believed


class Frame(NamedTuple):
    number: int
    head: dict[str, Any]
    body: bytes


class BrokenReader(Exception):  # noqa: N818 - handled beside the call
    """The other side ended, or says what it should not."""


def send_ask(descriptor: int, kind: bytes, content: bytes) -> None:
    write(descriptor, memoryview(_ASK.pack(kind, len(content)) + content))


def receive_ask(descriptor: int) -> tuple[bytes, bytes] | None:
    """None when there are no more."""
    head = _read(descriptor, _ASK.size)
    if head is None:
        return None
    kind, length = _ASK.unpack(head)
    content = _read(descriptor, length)
    return None if content is None else (kind, bytes(content))


def send_answer(descriptor: int, number: int, head: Mapping[str, Any], body: bytes = b"") -> None:
    said = json.dumps(head, allow_nan=False).encode()
    write(descriptor, memoryview(_ANSWER.pack(number, len(said), len(body)) + said))
    write(descriptor, memoryview(body))


def receive_answer(descriptor: int, *, patience: float) -> Frame:
    """Raises BrokenReader: nothing, or not all of it, came within `patience` seconds; or it is no answer."""
    end = time.monotonic() + patience
    number, n_head, n_body = _ANSWER.unpack(_expect(descriptor, _ANSWER.size, end))
    if n_head > MAX_HEAD or n_body > MAX_BODY:
        raise BrokenReader
    try:
        head = json.loads(_expect(descriptor, n_head, end))
    except ValueError:
        raise BrokenReader from None
    if not isinstance(head, dict):
        raise BrokenReader
    return Frame(number, head, bytes(_expect(descriptor, n_body, end)))


def _expect(descriptor: int, length: int, end: float) -> bytearray:
    """`length` bytes by the time `end`: whoever writes them may be stopped in between."""
    content, waiting = bytearray(length), select.poll()
    waiting.register(descriptor, select.POLLIN)
    into = memoryview(content)
    while into:
        if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
            raise BrokenReader
        got = os.readv(descriptor, [into])
        if got == 0:
            raise BrokenReader
        into = into[got:]
    return content


def _read(descriptor: int, length: int) -> bytearray | None:
    content = bytearray(length)
    into = memoryview(content)
    while into:
        got = os.readv(descriptor, [into])
        if got == 0:
            return None
        into = into[got:]
    return content


def write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
