"""Whether a process of ours is at work, told by the locks that the kernel frees when it dies: never by a number in a file."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from fedrad_common.errors import BusyError, FedradError

T = TypeVar("T")
_PATIENCE = 3.0  # seconds for a predecessor that is just dying, and for the glances below
_INTERVAL = 0.05


def supervisor_lock(home: Path) -> Path:
    return home / "lock"


def supervised(home: Path) -> bool:
    """Whether `fedrad-coordinator start` runs on this home."""
    return held(supervisor_lock(home))


def played(run: Path) -> bool:
    """Whether a player has this run open."""
    return held(run / "lock")


def played_of(runs: Iterable[Path]) -> list[Path]:
    """Those that are played. One that cannot be looked at is none of ours."""
    found = []
    for run in runs:
        with contextlib.suppress(FedradError):
            found += [run] if played(run) else []
    return found


def held(path: Path) -> bool:
    """A glance at a lock: taken for a moment, where nobody has it. Raises FedradError where the file cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise FedradError(f"{path.name}: cannot be read", hint="run this as the account that the coordinator runs as") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def patiently(take: Callable[[], T], *, patience: float = _PATIENCE) -> T:
    """What `take` returns, tried until nobody holds the lock that it wants. Raises BusyError when somebody keeps it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return take()
        except BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_INTERVAL)
