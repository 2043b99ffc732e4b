"""Can the site write where it must, and is there room? Writes, syncs and removes one small file in each place."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedrad_client.doctor.faults import Finding, fault, fine
from fedrad_client.doctor.subject import Subject
from fedrad_client.site import Home

_LEAST = 256 << 20  # bytes that must be free for the logs, the outbox and a cohort generation's small files
_WANTED = 2 << 30
_ANSWERS = 6  # sealed answers of the largest model that the policy allows: the outbox, and those beside it while they are written
_SAMPLE = bytes(65536)
_CODES = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only",
    errno.EACCES: "not-writable",
    errno.EPERM: "not-writable",
}


def home(subject: Subject) -> Iterator[Finding]:
    """The site's folder: writable, with room for the answers of the largest model that its policy allows."""
    needed = max(_LEAST, 4 * _ANSWERS * subject.settings.policy.max_parameters if subject.settings else 0)
    yield from _place(subject.home, "the site's folder", needed=needed)


def cohort_folder(subject: Subject) -> Iterator[Finding]:
    """The cohort's folder, which may lie on another disk."""
    folder = Home(subject.home).cohort if subject.settings else subject.home / "cohort"
    yield from _place(folder, "the cohort's folder", needed=0) if folder.is_dir() else [fine("is made by the first ingest")]


def temporary(subject: Subject) -> Iterator[Finding]:
    """The temporary folder, through which a training process gets its model."""
    del subject
    named = os.environ.get("TMPDIR")  # Python passes over one that it cannot write to, and other programs do not
    try:
        trouble = _written(Path(named or tempfile.gettempdir()))
    except FileNotFoundError:
        trouble = errno.ENOENT
    yield fault("no-temporary") if trouble else fine("writable")


def cache(subject: Subject) -> Iterator[Finding]:
    """The account's cache folder."""
    del subject
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or "/nonexistent") / ".cache")
    yield fault("cache-read-only") if folder.is_dir() and _written(folder) else fine("writable, or not used")


def _place(folder: Path, what: str, *, needed: int) -> Iterator[Finding]:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    numbers = {"what": what, "free": free >> 20, "needed": needed >> 20}
    if trouble := _written(folder):
        yield fault(_CODES.get(trouble, "disk-fails"), **numbers)
    elif free < needed:
        yield fault("disk-full", **numbers)
    elif needed and free < max(needed, _WANTED):
        yield fault("disk-low", **{**numbers, "needed": max(needed, _WANTED) >> 20})
    else:
        yield fine(f"writable, {free >> 20} MB free")


def _written(folder: Path) -> int:
    """0, or the error number of a first small write."""
    path = folder / f".doctor.{os.getpid()}.tmp"
    try:
        with path.open("xb") as stream:
            stream.write(_SAMPLE)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return 0
