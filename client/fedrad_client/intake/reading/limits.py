"""What one file may take of a reader process: memory, processor time, and nothing else of the machine."""

import contextlib
import os
import resource
import signal
from pathlib import Path

MEMORY_BYTES = 560 * 2**20  # beyond what the libraries take; 2**28 bytes of file, twice, and room for a header
SECONDS, SECONDS_A_BYTE = 1.5, 0.5e-6  # of processor time, for a file; 512² CT takes 0.004, a JPEG 2000 mammogram of 20 MB takes 4
SECONDS_A_PIXEL = 0.15e-6  # more, once the header has passed its checks
_STATM = Path("/proc/self/statm")


def bound_process() -> None:
    """For good, in this process and those it forks: memory, no files written, no core dump (it would hold a patient), no network."""
    used = int(_STATM.read_text().split()[0]) * resource.getpagesize() if _STATM.exists() else 2**30
    for limit, value in ((resource.RLIMIT_AS, used + MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, most = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))
    _shut_in()


def _shut_in() -> None:
    """As far as the machine allows: a decoder that a file took over writes nowhere and reaches nobody."""
    from fedrad_client.sandbox import kernel, landlock, seccomp

    with contextlib.suppress(OSError):
        kernel.gain_nothing()
        seccomp.refuse_calls()
    with contextlib.suppress(OSError):
        landlock.restrict(None, (), scratch=None)


def start_clock(n_bytes: int) -> None:
    """From here on, processor time counts; at its end the kernel ends the process with SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS + SECONDS_A_BYTE * n_bytes)


def allow_for_pixels(n: int) -> None:
    """More time for many pixels. Where no clock runs, nothing."""
    left, _ = signal.getitimer(signal.ITIMER_PROF)
    if left > 0:
        signal.setitimer(signal.ITIMER_PROF, left + SECONDS_A_PIXEL * n)


def stop_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)


def size_of(path: Path) -> int:
    """In bytes, of the file itself; 0 where it cannot be asked."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
