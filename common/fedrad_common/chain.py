"""One append-only log: framed, hash-chained, fsynced, with a high-water mark. Ledger, audit log, receipts and run events are tables on it.

Beside `NAME` lies `NAME.mark`: count, hash and length of what was acknowledged, rewritten in place after every append. It tells a torn
tail (a crash while appending: the line was never acknowledged, and is cut) from a shortened log (somebody put an older copy back:
refused). An entry that is whole though its mark was never written counts: an account may err upwards only.
"""

import errno
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from fedrad_common.chain_format import FORMAT, HINT, Entry, Mark, Verified, decode, decode_mark, encode_line, encode_mark, entry_at
from fedrad_common.errors import ChainError, ClockError, FedradError, SyncError
from fedrad_common.files import disk_errors, fsync_directory, lock_file

__all__ = ["CLOCK", "Chain", "Clock", "Entry", "read", "utc_now"]

CLOCK = "clock"  # type of the entry by which a person accepts the clock as it is now; later ones are compared with it
_VERIFIED: dict[tuple[Path, str], Verified] = {}  # the last ones that this process opened, by place and kind
_MOST_VERIFIED = 8
_SLACK = timedelta(hours=1)  # by which a clock may be set back without a person's word
SITES_WORD = "fedrad-site ledger recover --accept-clock"  # most logs are a site's: by this command a person accepts the clock

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Chain:
    """An open log, locked for this process. `append` returns only after the entry is on the disk."""

    def __init__(self, path: Path, kind: str, clock: Clock, accept: str) -> None:
        self.path, self.kind, self.entries = path, kind, list[Entry]()
        self._clock, self._accept = clock, accept
        self._size = 0  # of all entries, in bytes
        self._certain = True  # of what is on the disk; once lost, only opening the log anew brings it back
        self._lock = lock_file(_beside(path, "lock"), what=path.name)
        self._log = self._mark = -1

    @classmethod
    def create(cls, path: Path, kind: str, opening: Mapping[str, Any], *, clock: Clock = utc_now, accept: str = SITES_WORD) -> Self:
        """Begin a new log with one entry of type `open`.

        Args:
            accept: the command by which its owner accepts the clock as it is: what a ClockError hints at.

        Raises:
            ChainError: there is a log, or the mark of one, already.
            BusyError: another process is making one.
            DiskError: no room, read-only, or failing; nothing is there.
        """
        chain = cls(path, kind, clock, accept)
        try:
            chain._begin({"format": FORMAT, "kind": kind, **opening})
        except BaseException:
            chain.close()
            raise
        return chain

    @classmethod
    def open(cls, path: Path, kind: str, *, clock: Clock = utc_now, accept: str = SITES_WORD) -> Self:
        """Lock, verify every byte against the mark, settle what a dying process left behind it, and continue. `accept` as in `create`.

        Raises:
            ChainError: missing, shortened, changed, of another kind or of a newer format.
            BusyError: another process has it open.
            DiskError: read-only or failing, or what was left could not be settled.
        """
        chain = cls(path, kind, clock, accept)
        try:
            chain._resume()
        except BaseException:
            chain.close()
            raise
        return chain

    @property
    def head(self) -> str:
        return self.entries[-1].hash

    def append(self, type: str, body: Mapping[str, Any]) -> Entry:  # noqa: A002 - the field's name
        """Add one entry; durable when this returns.

        Raises:
            ClockError: the clock is behind the last entry; nothing was written.
            SyncError: the disk did not confirm. Whether the entry is there, only opening the log anew can tell.
            DiskError: no room, read-only, or failing.
        """
        if not self._certain:
            raise _unconfirmed(self.path)
        line = encode_line(type, body, at=self._now(type), before=self.entries, kind=self.kind)
        found = entry_at(0, line, before=self.entries, kind=self.kind)
        assert found is not None, "an entry that could not be read back"
        entry, size = found[0], self._size + len(line)
        self._certain = False
        self._write(line)
        self._sync(self._log)
        self._acknowledge(Mark(len(self.entries) + 1, entry.hash, size))
        self._certain = True
        self.entries.append(entry)
        self._size = size
        return entry

    def close(self) -> None:
        for descriptor in (self._log, self._mark, self._lock):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, opening: Mapping[str, Any]) -> None:
        halves = self.path, _beside(self.path, "mark")
        if any(half.exists() for half in halves):
            raise ChainError(f"{self.path.name}: exists already", hint="a log is never begun anew; nothing was changed")
        try:
            with disk_errors(self.path):
                self._open_files()
                self.append("open", opening)
                fsync_directory(self.path.parent)
        except FedradError:
            for half in halves:  # never acknowledged: a second try may begin
                half.unlink(missing_ok=True)
            raise

    def _resume(self) -> None:
        content, mark, self.entries, self._size = _verify(self.path, self.kind)
        with disk_errors(self.path):
            self._open_files()
            if len(content) > self._size:
                os.ftruncate(self._log, self._size)
            if self._size > mark.size:
                # Nobody knows whether these entries were synced; after a sync that failed, a second one says yes without writing
                # anything. Written again, they are the kernel's to write.
                _write_all(self._log, content[mark.size : self._size], mark.size)
                self._sync(self._log)
                self._acknowledge(Mark(len(self.entries), self.head, self._size))

    def _open_files(self) -> None:
        self._log = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mark = os.open(_beside(self.path, "mark"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _now(self, type: str) -> str:  # noqa: A002 - the field's name
        now = self._clock()
        if self.entries and type != CLOCK and now < datetime.fromisoformat(last := self.entries[-1].at) - _SLACK:
            raise ClockError(
                f"{self.path.name}: the clock says {now:%Y-%m-%d %H:%M} UTC, the last entry is of {last}",
                hint=f"set the clock right; where it is right now and was wrong before: {self._accept}",
            )
        return now.isoformat(timespec="seconds")

    def _write(self, line: bytes) -> None:
        with disk_errors(self.path):
            try:
                _write_all(self._log, line, self._size)
            except OSError:
                os.ftruncate(self._log, self._size)
                self._certain = True  # the log is as it was before
                raise

    def _acknowledge(self, mark: Mark) -> None:
        with disk_errors(self.path):
            _write_all(self._mark, encode_mark(mark, self.kind), 0)
        self._sync(self._mark)

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError:
            raise _unconfirmed(self.path) from None


def read(path: Path, kind: str) -> list[Entry]:
    """Verify a log without locking or changing it, for a command that only shows it."""
    return _verify(path, kind)[2]


def _verify(path: Path, kind: str) -> tuple[bytes, Mark, list[Entry], int]:
    """A node opens its logs for each order: only what was written since this process saw them is decoded; all of it is compared."""
    content, mark = _contents(path, kind)
    place = path.absolute(), kind
    entries, size = decode(content, mark, kind, name=path.name, verified=_VERIFIED.pop(place, None))
    _VERIFIED[place] = Verified(content[:size], tuple(entries))
    if len(_VERIFIED) > _MOST_VERIFIED:
        del _VERIFIED[next(iter(_VERIFIED))]
    return content, mark, entries, size


def _contents(path: Path, kind: str) -> tuple[bytes, Mark]:
    """The mark is read first: a reader beside a writer then never sees fewer entries than it acknowledges."""
    if not path.exists():
        raise ChainError(f"{path.name}: no such log", hint=f"run init first, or restore both files together; else {HINT}")
    beside = _beside(path, "mark")
    mark = decode_mark(_read_bytes(beside), kind, name=beside.name)
    return _read_bytes(path), mark


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ChainError(f"{path.name}: is missing", hint=HINT) from None
    except OSError as error:  # a lost sector
        raise ChainError(f"{path.name}: cannot be read ({error.strerror})", hint=HINT) from None


def _write_all(descriptor: int, content: bytes, position: int) -> None:
    if os.pwrite(descriptor, content, position) != len(content):
        raise OSError(errno.ENOSPC, "short write")


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _unconfirmed(path: Path) -> SyncError:
    """A failed sync leaves the page cache and the disk at odds: no answer of this process can be trusted any more."""
    return SyncError(
        f"{path.name}: the disk did not confirm a write",
        hint="look at the system's log; once the disk is sound, start again: the log is then checked from its first byte",
    )
