"""What programs take of the memory, from outside: sampled over all their processes while they run, and each one's own high-water mark."""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Self

from programs import tree  # type: ignore[import-not-found] # beside this one

_EVERY, _LOOK = 0.05, 0.5  # seconds between two samples, and between two looks at which processes there are
_PAGE = 4096


@dataclass
class Watched:
    peak: int = 0  # bytes: most of the resident sets together, at one moment; pages that processes share count at each
    marks: dict[int, int] = field(default_factory=dict)  # by process: its high-water mark
    series: list[tuple[float, int]] = field(default_factory=list)  # at this time, so many bytes

    @property
    def ceiling(self) -> int:
        """The sum of the high-water marks: they need not have been reached at the same moment."""
        return sum(self.marks.values())


class Memory:
    """Watches named programs for as long as its block lasts; a program that is started anew under its name is followed."""

    def __init__(self, programs: Mapping[str, "Popen[bytes]"], *names: str) -> None:
        self._programs, self._names, self._stop = programs, names, threading.Event()
        self.of: dict[str, Watched] = defaultdict(Watched)
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        looked, pids = 0.0, dict[str, list[int]]()
        while not self._stop.wait(_EVERY):
            now = time.monotonic()
            if now - looked > _LOOK:
                looked, pids = now, {name: tree(self._programs[name].pid) for name in self._names}
                for name, found in pids.items():
                    self._mark(self.of[name], found)
            for name, found in pids.items():
                total = sum(map(resident, found))
                self.of[name].peak = max(self.of[name].peak, total)
                self.of[name].series.append((now, total))

    def _mark(self, watched: Watched, pids: list[int]) -> None:
        for pid in pids:
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                watched.marks[pid] = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def resident(pid: int) -> int:
    """Bytes of a process's resident set; 0 where it is gone."""
    try:
        return _PAGE * int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def proportional(root: int) -> int:
    """Bytes of a program, a page that n processes share counted as an nth."""
    total = 0
    for pid in tree(root):
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total
