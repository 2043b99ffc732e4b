"""Who holds the site's locks: its node, another command, or a process that stands still. The kernel is asked: looking takes no lock."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fedrad_client.doctor.faults import Finding, fault, fine
from fedrad_client.doctor.subject import Subject
from fedrad_client.node.contact import LOCK, last_contact
from fedrad_client.site import AUDIT, LEDGER

NODE = LOCK.as_posix()
_LOCKS = Path("/proc/locks")  # proc(5): ORDINAL: TYPE MODE ACCESS PID MAJOR:MINOR:INODE START END
_STILL = ("T", "t", "Z")  # proc(5): stopped, traced, dead. Not "D": a node that syncs its ledger waits for the disk
_FRESH = 60.0  # seconds since the last exchange with the coordinator


def locks(subject: Subject) -> Iterator[Finding]:
    """Locks: a running node is in order when it reached the coordinator lately; anything else wants a look."""
    found = [finding for name in (NODE, f"{LEDGER}.lock", f"{AUDIT}.lock") for finding in _one(subject, name)]
    yield from [finding for finding in found if finding.verdict != "ok"] or found or [fine("nothing of this site is running")]


def holder(path: Path) -> int | None:
    """The process that holds `path` as a lock file; None where nobody does."""
    try:
        file, lines = _file(path), _LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) >= 8 and words[1] == "FLOCK" and words[5] == file:
            return int(words[4])
    return None


def _file(path: Path) -> str:
    """As the kernel writes it there: the device of its mount, which on some file systems is not stat's, and its number on it."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
        mount, status = facts[facts.index("mnt_id:") + 1], os.fstat(descriptor)
    finally:
        os.close(descriptor)
    mounts = {words[0]: words[2] for line in Path("/proc/self/mountinfo").read_text().splitlines() if (words := line.split())}
    major, minor = mounts.get(mount, f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}").split(":")
    return f"{int(major):02x}:{int(minor):02x}:{status.st_ino}"


def _one(subject: Subject, name: str) -> Iterator[Finding]:
    pid = holder(subject.home / name)
    if pid is None:
        return
    if _state(pid) in _STILL:
        yield fault("stale-lock", name=name, pid=pid)
    elif name != NODE:
        # A node opens the logs for each order, for moments.
        if holder(subject.home / NODE) is None:
            yield fault("locked", name=name, pid=pid)
    else:
        seen = last_contact(subject.home)
        fresh = seen is not None and time.time() - seen.answered < _FRESH
        yield fine(f"the node is running (process {pid}) and online") if fresh else fault("running", pid=pid)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"
