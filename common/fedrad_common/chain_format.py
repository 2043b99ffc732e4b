"""The bytes of a log and of its mark. Each has exactly one valid form: whatever is read is encoded again and compared, byte by byte.

A log is lines of `LENGTH HASH PAYLOAD`: the payload's length in bytes (8 digits), SHA-256 over the previous hash and the payload, and
the payload itself, canonical JSON. Its mark is one record of 256 bytes: count and hash of the last acknowledged line, the length in bytes
of all acknowledged lines, and a checksum.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.errors import ChainError

FORMAT = "fedrad-chain-1"
HINT = (
    "stop, keep both files as they are, and compare with a witness: receipts, the other side's head, a printed head; "
    "a site's ledger that is lost: fedrad-site ledger recover --assume-spent"
)
MARK_BYTES = 256  # less than a device's sector, so that it is written whole or not at all
_FRAME = 8 + 1 + 64 + 1  # length, space, hash, space


@dataclass(frozen=True)
class Entry:
    number: int  # from 0; entry 0 is the opening
    type: str
    at: str  # ISO 8601, UTC, seconds
    body: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class Mark:
    """What was acknowledged: so many entries, the last of them with this hash, in so many bytes."""

    count: int
    head: str
    size: int


@dataclass(frozen=True)
class Verified:
    """Bytes that were found to be these entries, from the first one on."""

    content: bytes
    entries: tuple[Entry, ...]


def encode_line(type: str, body: Mapping[str, Any], *, at: str, before: list[Entry], kind: str) -> bytes:  # noqa: A002 - the field's name
    return _framed(_previous(before, kind), canonical_json({"at": at, "body": body, "n": len(before), "type": type}))


def encode_mark(mark: Mark, kind: str) -> bytes:
    body = canonical_json({**asdict(mark), "format": FORMAT, "kind": kind})
    record = (body + b" " + sha256_hex(body).encode()).ljust(MARK_BYTES - 1) + b"\n"
    assert len(record) == MARK_BYTES, "a kind of log with too long a name"
    return record


def decode_mark(record: bytes, kind: str, *, name: str) -> Mark:
    """Raises ChainError: not the bytes that `encode_mark` makes for this kind of log."""
    try:
        value = json.loads(record.partition(b" ")[0])
        if value["format"] != FORMAT:
            raise ChainError(f"{name}: format {value['format']!r} is not {FORMAT!r}", hint="it was written by another version of fedrad")
        mark = Mark(count=value["count"], head=value["head"], size=value["size"])
        if type(mark.count) is type(mark.size) is int and mark.count > 0 and encode_mark(mark, kind) == record:
            return mark
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ChainError(f"{name}: is damaged or belongs to another log", hint=HINT)


def decode(content: bytes, mark: Mark, kind: str, *, name: str, verified: Verified | None = None) -> tuple[list[Entry], int]:
    """Every entry, and the length in bytes that they take.

    What the mark acknowledges must be there to the byte. Behind it may lie what a process left that died while appending: whole entries
    count, for an account may err upwards only; anything else was never acknowledged and is not part of the log.

    Args:
        verified: what this function said of a log before: where `content` begins with the same bytes, they are not read again.

    Raises:
        ChainError: shortened, changed, of another kind or of another format.
    """
    entries: list[Entry] = []
    position = 0
    if verified and len(verified.entries) <= mark.count and content.startswith(verified.content):
        entries, position = list(verified.entries), len(verified.content)
        _compare(entries, position, mark, name)
    while (found := entry_at(position, content, before=entries, kind=kind)) is not None:
        entry, position = found
        entries.append(entry)
        _compare(entries, position, mark, name)
    if len(entries) < mark.count:
        if len(content) < mark.size:
            raise ChainError(f"{name}: holds {len(entries)} whole entries, {mark.count} were acknowledged", hint=HINT)
        raise ChainError(f"{name}: entry {len(entries)} was changed", hint=HINT)
    opening = entries[0]
    if opening.type != "open" or opening.body.get("format") != FORMAT or opening.body.get("kind") != kind:
        raise ChainError(f"{name}: is not a {kind} of format {FORMAT}", hint="it was written by another version, or is another log")
    return entries, position


def _compare(entries: list[Entry], size: int, mark: Mark, name: str) -> None:
    if len(entries) == mark.count and (entries[-1].hash, size) != (mark.head, mark.size):
        raise ChainError(f"{name}: entry {mark.count - 1} is not the one acknowledged", hint=HINT)


def entry_at(position: int, content: bytes, *, before: list[Entry], kind: str) -> tuple[Entry, int] | None:
    """The entry that follows those `before`, and where its line ends; None where these bytes are not exactly one."""
    length = content[position : position + 8]
    if not length.isdigit():
        return None
    start = position + _FRAME
    payload = content[start : start + int(length)]
    line = _framed(_previous(before, kind), payload)
    end = position + len(line)
    if content[position:end] != line:
        return None
    entry = _entry(payload, number=len(before), digest=line[9:73].decode())
    return None if entry is None else (entry, end)


def _previous(before: list[Entry], kind: str) -> str:
    return before[-1].hash if before else sha256_hex(f"{FORMAT} {kind}".encode())


def _framed(previous: str, payload: bytes) -> bytes:
    return b"%08d %s %s\n" % (len(payload), sha256_hex(previous.encode() + payload).encode(), payload)


def _entry(payload: bytes, *, number: int, digest: str) -> Entry | None:
    try:
        value = json.loads(payload)
        entry = Entry(number, value["type"], value["at"], value["body"], digest)
        again = canonical_json({"at": entry.at, "body": entry.body, "n": number, "type": entry.type})
        utc = datetime.fromisoformat(entry.at).utcoffset() == timedelta(0)
        right = isinstance(entry.type, str) and isinstance(entry.body, dict) and utc
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if right and again == payload else None
