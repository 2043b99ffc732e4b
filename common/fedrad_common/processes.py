"""Child processes that never outlive us: the kernel ends them with their parent, however that died (Linux)."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from fedrad_common.errors import FedradError

_PARENT = "FEDRAD_PARENT"  # the process that started us, by its number
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE = 1 << 20  # bytes; a piece of a vector has 5 MiB
_LIBC = ctypes.CDLL(None, use_errno=True)


def start(module: str, *arguments: str, environment: Mapping[str, str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start one of our modules with this very interpreter, and nothing of the current folder on its path. Its first act is `tie`.

    Call it from a thread that lives as long as the child should: the kernel takes the end of that thread for the end of its parent.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, env={**environment, _PARENT: str(os.getpid())}, **options)


def tie() -> None:
    """In a child: die of SIGKILL when the parent dies, or now where it is dead already. Without a parent of ours, nothing."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)


def fork() -> int:
    """`os.fork`, of a process with one thread: 0 in the child, which the kernel ends with us."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    return child


def keep_memory() -> None:
    """Large buffers are used again: glibc by itself gives each back, and the kernel clears it for the next one."""
    mallopt = getattr(_LIBC, "mallopt", None)  # another C library has its own ways
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # the most that an int holds: never


def give_back() -> None:
    """Vectors go back to the system as soon as nobody needs them, and threads share what is left: glibc by itself keeps much of both."""
    mallopt = getattr(_LIBC, "mallopt", None)  # another C library has its own ways
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, 2)


def hide() -> None:
    """From now on no process of the same user looks into this one: its memory, its environment, its open files. Children start unhidden."""
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def end(child: "subprocess.Popen[Any]", *, grace: float) -> int:
    """SIGTERM, `grace` seconds, SIGKILL; returns the exit status.

    Raises:
        FedradError: it does not even die of SIGKILL (a disk that hangs).
    """
    for signal_number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        if child.poll() is not None:
            break
        child.send_signal(signal_number)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    status = child.poll()
    if status is None:
        raise FedradError("a child process does not end", hint="look at the system's log for a disk or a device that hangs")
    return status
