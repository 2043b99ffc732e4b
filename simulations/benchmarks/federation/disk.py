"""What 100 rounds of 3 × 44 MB leave at the coordinator, over TLS: its disk, its memory, its database; and each site's disk beside them.

`python simulations/benchmarks/federation/disk.py`. Disk is what `du` counts (blocks of files, the largest at any look); memory is sampled
over all processes. Both are compared between the run's second fifth and its last: what grows by the round shows there.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from figures import Figure, arguments, conclude, load, of, say  # type: ignore[import-not-found] # beside this one, as are the next
from fleet import NAMES, Fleet, Moments, enrolled  # type: ignore[import-not-found]
from hospital import LARGE, protocol  # type: ignore[import-not-found]
from memory import Memory  # type: ignore[import-not-found]
from outcome import run_troubles  # type: ignore[import-not-found]

_LOOK = 0.5  # seconds between two looks at the disk


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="100, or 10 with --quick; at least 5")
    parser.add_argument("--length", type=int, default=LARGE, help="parameters of the model")
    options = parser.parse_args()
    rounds, before = options.rounds or (10 if options.quick else 100), load()
    with enrolled(options.folder, keep=options.keep) as fleet:
        path = fleet.approve("long", protocol("long", length=options.length, rounds=rounds))
        fleet.begin()
        with (
            Memory(fleet.programs.running, "coordinator", *NAMES) as memory,
            Disk(fleet.home) as disk,
            Disk(fleet.home / "superlink") as transport,
        ):
            run = fleet.launch(path, "long")
            fifths, databases = follow(fleet, run, rounds)
        figures = [
            Figure(f"coordinator's disk, at most, in {rounds} rounds", disk.most / 1e9, "GB", bar=2.0),
            Figure("  of it Flower's database and objects, at most", transport.most / 1e9, "GB"),
            Figure("Flower's database: growth after a fifth of the rounds", (databases[-1] - databases[0]) / 1e6, "MB", bar=1.0),
            Figure("  the database at the end", databases[-1] / 1e6, "MB"),
            *coordinators_memory(memory, fifths),
            of("a site's memory, all processes, at most", [memory.of[site].peak / 1e9 for site in NAMES], "GB", bar=0.9),
            of("  a site's disk at the end", [used(fleet.folder / site) / 1e9 for site in NAMES], "GB"),
            of("  seconds a round", [one.closed - one.begun for one in (Moments.of(run, n) for n in range(1, rounds + 1))], "s"),
        ]
        fleet.programs.stop(*NAMES, "coordinator")
        troubles = list(run_troubles(run, quorum=len(NAMES)))
    conclude(figures, before=before, as_json=options.json, troubles=troubles)


def follow(fleet: Fleet, run: Path, rounds: int) -> tuple[list[float], list[int]]:
    """Wait for the run's end. Returns when each fifth of its rounds was over, and how large Flower's database was then."""
    times, databases, superlink = list[float](), list[int](), fleet.home / "superlink"
    for fifth in range(1, 6):
        number = fifth * rounds // 5
        closed = run / "rounds" / f"{number:04d}" / "manifest.json"
        fleet.programs.until(closed.exists, what=f"round {number} is closed", seconds=3600, interval=0.1)
        times.append(time.monotonic())
        databases.append(database_bytes(superlink))
        coordinator, site = (used(folder) / 1e9 for folder in (fleet.home, fleet.folder / NAMES[0]))
        say(f"round {number}: coordinator {coordinator:.2f} GB, database {databases[-1] / 1e3:.0f} kB, site {site:.2f} GB; load {load()}")
    fleet.await_end(run)
    return times, databases


def coordinators_memory(memory: Memory, fifths: list[float]) -> list[Figure]:
    watched = memory.of["coordinator"]
    parts = [[size for at, size in watched.series if begin <= at <= end] for begin, end in pairwise(fifths)]
    second, last = parts[0], parts[-1]
    return [
        Figure("coordinator's memory, all processes, at most", watched.peak / 1e9, "GB", bar=1.0),
        Figure("  growth of its peak from the second fifth to the last", (max(last) - max(second)) / 1e9, "GB", bar=0.1),
        Figure("  growth of its median", (statistics.median(last) - statistics.median(second)) / 1e9, "GB"),
    ]


class Disk:
    """Bytes below a folder, looked at again and again for as long as the block lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stop, self.now, self.most = folder, threading.Event(), 0, 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Disk":
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            self.now = used(self._folder)
            self.most = max(self.most, self.now)


def used(folder: Path) -> int:
    """Bytes of the blocks that files take, those that vanish meanwhile left out."""
    return sum(
        looked_at(Path(place, name), lambda path: path.lstat().st_blocks * 512)
        for place, _, names in os.walk(folder)  # which passes over a folder that is renamed meanwhile
        for name in names
    )


def database_bytes(folder: Path) -> int:
    return sum(looked_at(path, lambda path: path.stat().st_size) for path in folder.glob("state.db*"))


def looked_at(path: Path, look: Callable[[Path], int]) -> int:
    try:
        return look(path)
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
