"""One append-only log: framed, hash-chained, fsynced, with a high-water mark. Ledger, audit log, receipts and run events are tables on it.

A file is lines of `LENGTH HASH PAYLOAD`: the payload's length in bytes (8 digits), SHA-256 over the previous hash and the payload,
and the payload itself, canonical JSON. Beside it lies `NAME.mark`: count and hash of the last acknowledged line, rewritten in place
after every append. The mark tells a torn tail (a crash while appending: the line was never acknowledged, and is cut) from a shortened
log (somebody put an older copy back: refused).
"""

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.errors import ChainError, FedradError
from fedrad_common.files import disk_full, fsync_directory, is_full, lock_file

FORMAT = "fedrad-chain-1"
_FRAME = 8 + 1 + 64 + 1  # length, space, hash, space
_MARK_BYTES = 256  # one sector's worth at most, so that the device writes it whole
_HINT = "stop, keep both files as they are, and compare with a witness: receipts, the other side's head, a printed head"

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Entry:
    number: int  # from 0; entry 0 is the opening
    type: str
    at: str  # ISO 8601, UTC, seconds
    body: dict[str, Any]
    hash: str


class Chain:
    """An open log, locked for this process. `append` returns only after the entry is on the disk."""

    def __init__(self, path: Path, kind: str, entries: list[Entry], size: int, lock: int, clock: Clock) -> None:
        self.path, self.kind, self.entries = path, kind, entries
        self._size, self._lock, self._clock = size, lock, clock
        self._log = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._mark = os.open(_mark_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @classmethod
    def create(cls, path: Path, kind: str, opening: Mapping[str, Any], *, clock: Clock = utc_now) -> Self:
        """Begin a new log with one entry of type `open`.

        Raises:
            ChainError: there is a log, or the mark of one, already.
            BusyError: another process is making one.
        """
        lock = lock_file(_lock_path(path), what=f"{path.name}")
        try:
            if path.exists() or _mark_path(path).exists():
                raise ChainError(f"{path.name}: exists already", hint="a log is never begun anew; nothing was changed")
            try:
                return cls._begin(path, kind, opening, lock=lock, clock=clock)
            except FedradError:
                for half in (path, _mark_path(path)):  # never acknowledged: a second try may begin
                    half.unlink(missing_ok=True)
                raise
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _begin(cls, path: Path, kind: str, opening: Mapping[str, Any], *, lock: int, clock: Clock) -> Self:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        chain = cls(path, kind, [], 0, lock, clock)
        try:
            chain.append("open", {"format": FORMAT, "kind": kind, **opening})
        except BaseException:
            os.close(chain._log)
            os.close(chain._mark)
            raise
        fsync_directory(path.parent)
        return chain

    @classmethod
    def open(cls, path: Path, kind: str, *, clock: Clock = utc_now) -> Self:
        """Lock, verify every line against the mark, cut a torn tail, and continue.

        Raises:
            ChainError: missing, shortened, changed, of another kind or of a newer format.
            BusyError: another process has it open.
        """
        lock = lock_file(_lock_path(path), what=f"{path.name}")
        try:
            entries, size = _verify(path, kind)
            if path.stat().st_size > size:
                os.truncate(path, size)
            chain = cls(path, kind, entries, size, lock, clock)
            chain._advance_mark()
        except BaseException:
            os.close(lock)
            raise
        return chain

    @property
    def head(self) -> str:
        return self.entries[-1].hash

    def append(self, type: str, body: Mapping[str, Any]) -> Entry:  # noqa: A002 - the field's name
        """Add one entry; durable when this returns.

        Raises:
            FedradError: the disk is full; the entry is not there and the log is as before.
        """
        previous = self.entries[-1].hash if self.entries else _genesis(self.kind)
        at = self._clock().isoformat(timespec="seconds")
        payload = canonical_json({"at": at, "body": dict(body), "n": len(self.entries), "type": type})
        digest = sha256_hex(previous.encode() + payload)
        line = b"%08d %s %s\n" % (len(payload), digest.encode(), payload)
        try:
            written = os.pwrite(self._log, line, self._size)
            if written != len(line):
                raise OSError(errno.ENOSPC, "short write")
        except OSError as error:
            os.ftruncate(self._log, self._size)
            if is_full(error):
                raise disk_full(self.path) from None
            raise
        _sync_or_die(self._log)
        entry = Entry(len(self.entries), type, at, json.loads(payload)["body"], digest)
        self.entries.append(entry)
        self._size += len(line)
        try:
            self._advance_mark()
        except FedradError:  # a file system that never writes in place may have no room for the mark either
            self.entries.pop()
            self._size -= len(line)
            os.ftruncate(self._log, self._size)
            raise
        return entry

    def close(self) -> None:
        for descriptor in (self._log, self._mark, self._lock):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _advance_mark(self) -> None:
        mark = {"count": len(self.entries), "format": FORMAT, "head": self.head, "kind": self.kind, "size": self._size}
        body = canonical_json(mark)
        record = body + b" " + sha256_hex(body).encode()
        try:
            os.pwrite(self._mark, record.ljust(_MARK_BYTES - 1) + b"\n", 0)
        except OSError as error:
            if is_full(error):
                raise disk_full(self.path) from None
            raise
        _sync_or_die(self._mark)


def read(path: Path, kind: str) -> list[Entry]:
    """Verify a log without locking or changing it, for a command that only shows it."""
    return _verify(path, kind)[0]


def _verify(path: Path, kind: str) -> tuple[list[Entry], int]:
    """Every whole line up to and beyond the mark, and the length in bytes that they take."""
    name = path.name
    if not path.exists():
        raise ChainError(f"{name}: no such log", hint="run init first, or restore both files together")
    count, head, _ = _read_mark(path, kind)  # before the lines: a reader beside a writer then never sees fewer than were acknowledged
    content = path.read_bytes()
    entries: list[Entry] = []
    previous, position = _genesis(kind), 0
    while position < len(content):
        frame = _whole_line(content, position)
        if frame is None:
            break  # torn while appending; whether that is innocent, the mark tells below
        length, digest, payload = frame
        if sha256_hex(previous.encode() + payload) != digest:
            raise ChainError(f"{name}: entry {len(entries)} was changed", hint=_HINT)
        entries.append(_entry(payload, digest, expected=len(entries), name=name))
        previous, position = digest, position + _FRAME + length + 1
    if len(entries) < count:
        raise ChainError(f"{name}: holds {len(entries)} whole entries, {count} were acknowledged", hint=_HINT)
    if entries[count - 1].hash != head:
        raise ChainError(f"{name}: entry {count - 1} is not the one acknowledged", hint=_HINT)
    opening = entries[0]
    if opening.type != "open" or opening.body.get("format") != FORMAT or opening.body.get("kind") != kind:
        raise ChainError(f"{name}: is not a {kind} of format {FORMAT}", hint="it was written by another version, or is another log")
    return entries, position


def _whole_line(content: bytes, position: int) -> tuple[int, str, bytes] | None:
    header = content[position : position + _FRAME]
    if len(header) < _FRAME or not header[:8].isdigit() or header[8:9] != b" " or header[-1:] != b" ":
        return None
    length = int(header[:8])
    payload = content[position + _FRAME : position + _FRAME + length]
    end = content[position + _FRAME + length : position + _FRAME + length + 1]
    if len(payload) < length or end != b"\n":
        return None
    return length, header[9:-1].decode("ascii", "replace"), payload


def _entry(payload: bytes, digest: str, *, expected: int, name: str) -> Entry:
    value = json.loads(payload)
    if value["n"] != expected:
        raise ChainError(f"{name}: entry {expected} says it is number {value['n']}", hint=_HINT)
    return Entry(value["n"], value["type"], value["at"], value["body"], digest)


def _read_mark(path: Path, kind: str) -> tuple[int, str, int]:
    name = _mark_path(path).name
    try:
        record = _mark_path(path).read_bytes()
        body, digest = record.rstrip().rsplit(b" ", 1)
        mark = json.loads(body)
        if sha256_hex(body).encode() != digest or mark["kind"] != kind or mark["count"] < 1:
            raise ValueError
        if mark["format"] != FORMAT:
            raise ChainError(f"{name}: format {mark['format']!r} is not {FORMAT!r}", hint="it was written by another version of fedrad")
    except FileNotFoundError:
        raise ChainError(f"{name}: is missing", hint=_HINT) from None
    except (ValueError, KeyError, TypeError):
        raise ChainError(f"{name}: is damaged or belongs to another log", hint=_HINT) from None
    return mark["count"], mark["head"], mark["size"]


def _genesis(kind: str) -> str:
    return sha256_hex(f"{FORMAT} {kind}".encode())


def _mark_path(path: Path) -> Path:
    return path.with_name(path.name + ".mark")


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _sync_or_die(descriptor: int) -> None:
    """A failed fsync leaves the page cache and the disk at odds for good: no answer from this process can be trusted any more."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):  # a file system without fsync has nothing more to give
            return
        os.abort()
