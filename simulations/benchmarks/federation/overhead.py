"""What a round costs beyond training, with three sites over TLS: seconds, bytes, memory, and the start of it all.

`python simulations/benchmarks/federation/overhead.py`. The work is an echo of the model's length, timed apart and taken off. A round's
seconds are those between the files of two manifests, so that nothing is asked of the coordinator while it is timed. Bytes are counted by a
TCP relay between each site and the server (`counting`), in a run of its own, in which memory is sampled from /proc too (`memory`).
"""

import statistics
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from counting import Meters  # type: ignore[import-not-found] # beside this one, as are the next
from cpu import cpu_seconds  # type: ignore[import-not-found]
from figures import Figure, arguments, conclude, load, of, say  # type: ignore[import-not-found]
from fleet import NAMES, Fleet, Moments, enrolled  # type: ignore[import-not-found]
from hospital import LARGE, SMALL, protocol  # type: ignore[import-not-found]
from memory import Memory, proportional  # type: ignore[import-not-found]

from fedrad_common.tasks.echo import update

PARTS = ("start", "seconds", "bytes")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="counted ones; 12, or 3 with --quick")
    parser.add_argument("--starts", type=int, default=None, help="of coordinator and sites; 5, or 1 with --quick")
    parser.add_argument("--large", type=int, default=LARGE, help="parameters of the large model")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; repeat")
    options = parser.parse_args()
    parts, before = options.part or PARTS, load()
    rounds, starts = options.rounds or (3 if options.quick else 12), options.starts or (1 if options.quick else 5)
    figures: list[Figure] = []
    with enrolled(options.folder, keep=options.keep) as fleet:
        if "start" in parts:
            figures += start(fleet, starts)
        if "seconds" in parts or "bytes" in parts:
            protocols = approve(fleet, rounds, options.large)
        if "seconds" in parts:
            fleet.begin()
            figures += seconds(fleet, protocols["small"], SMALL, rounds, bar=2.0, aim=0.5)
            figures += seconds(fleet, protocols["large"], options.large, rounds, bar=6.0, aim=3.0)
            fleet.programs.stop(*NAMES)
        if "bytes" in parts:
            figures += traffic_and_memory(fleet, protocols, options.large, rounds)
    conclude(figures, before=before, as_json=options.json)


def approve(fleet: Fleet, rounds: int, large: int) -> dict[str, Path]:
    wanted = {
        "small": protocol("small", length=SMALL, rounds=rounds + 1),
        "large": protocol("large", length=large, rounds=rounds + 1),
        "counted": protocol("counted", length=large, rounds=rounds + 1),
        "half": protocol("half", length=large, rounds=rounds + 1, dtype="float16"),
    }
    return {name: fleet.approve(name, content, runs=2) for name, content in wanted.items()}


def start(fleet: Fleet, times: int) -> list[Figure]:
    """All four programs at the same moment, until the coordinator is ready and each site is online."""
    measured = []
    for _ in range(times):
        fleet.programs.stop(*NAMES, "coordinator")
        begun = time.monotonic()
        fleet.programs.start("coordinator", "fedrad-coordinator", "start", "coordinator", "--json")
        for site in NAMES:
            fleet.node(site)
        fleet.programs.until(lambda: fleet.ready() and fleet.online(*NAMES), what="all are ready")
        measured.append(time.monotonic() - begun)
        say(f"start to ready: {measured[-1]:.2f} s, load {load()}")
    fleet.programs.stop(*NAMES)
    return [of("start to ready, coordinator and 3 sites", measured, "s", bar=10.0)]


def seconds(fleet: Fleet, path: Path, length: int, rounds: int, *, bar: float, aim: float) -> list[Figure]:
    """From one round's end to the next one's. The first round is shown apart: every program's first time of it all."""
    run = fleet.launch(path, f"timed-{length}")
    fleet.programs.until(manifest(run, 1).exists, what="round 1 is closed", seconds=300)
    before = cpu(fleet)
    fleet.programs.until(manifest(run, rounds + 1).exists, what="the last round is closed", seconds=3600)
    spent = {role: (total - before.get(role, 0.0)) / rounds for role, total in cpu(fleet).items()}
    fleet.await_end(run)
    work = echo_seconds(length)
    moments = [Moments.of(run, number) for number in range(1, rounds + 2)]
    taken = [after.closed - before.closed - work for before, after in pairwise(moments)]
    megabytes = f"{4 * length / 1e6:.3g} MB"
    say(f"{megabytes}: rounds of {', '.join(f'{one:.2f}' for one in taken)} s, load {load()}")
    return [
        of(f"{megabytes}: seconds a round beyond training", taken, "s", bar=bar, aim=aim),
        of("  from begun to first accepted", [one.accepted[0] - one.begun for one in moments[1:]], "s"),
        of("  from first to last accepted", [one.accepted[-1] - one.accepted[0] for one in moments[1:]], "s"),
        of("  from last accepted to closed", [one.closed - one.accepted[-1] for one in moments[1:]], "s"),
        of("  from closed to the next one begun", [after.begun - before.closed for before, after in pairwise(moments)], "s"),
        *(Figure(f"  CPU seconds a round: {role}", spent[role], "s") for role in sorted(spent)),
        Figure("  the first round", moments[0].closed - moments[0].begun, "s"),
        Figure("  the echo's work, taken off", work, "s"),
    ]


def manifest(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:04d}" / "manifest.json"


def cpu(fleet: Fleet) -> dict[str, float]:
    """The coordinator's processes, and those of one site."""
    running = fleet.programs.running
    return {**cpu_seconds(running["coordinator"].pid), **cpu_seconds(running[NAMES[0]].pid)}


def echo_seconds(length: int) -> float:
    """The work itself, alone."""
    model, taken = np.zeros(length, np.float32), []
    for number in range(5):
        begun = time.perf_counter()
        update(model, number + 1)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def traffic_and_memory(fleet: Fleet, protocols: dict[str, Path], length: int, rounds: int) -> list[Figure]:
    fleet.programs.stop("coordinator")
    fleet.coordinate()
    megabytes, few = 4 * length / 1e6, rounds < 5
    with Meters(*fleet.address(), *NAMES) as meters:
        fleet.begin(servers=meters.servers)
        time.sleep(1 if few else 5)  # what they say as they come online is not of a round
        before, seconds = counted(meters), 2 if few else 10
        time.sleep(seconds)
        idle = [(now - then) / seconds / 1e6 for now, then in zip(counted(meters), before, strict=True)]
        with Memory(fleet.programs.running, "coordinator", *NAMES) as memory:
            moved = moved_by(fleet, meters, fleet.launch(protocols["counted"], "counted"), rounds)
            shared = max(proportional(fleet.programs.running[site].pid) for site in NAMES)
        halved = moved_by(fleet, meters, fleet.launch(protocols["half"], "half"), rounds)
        fleet.programs.stop(*NAMES)
    return [
        of(f"{megabytes:.3g} MB: megabytes a site and round, both ways", moved, "MB", bar=2 * megabytes * 1.01),
        of(f"{megabytes:.3g} MB, float16: megabytes a site and round, both ways", halved, "MB", bar=megabytes * 45 / 44),
        of("  megabytes a second of a site without an order", idle, "MB"),
        *memory_figures(memory, megabytes, shared),
    ]


def moved_by(fleet: Fleet, meters: Meters, run: Path, rounds: int) -> list[float]:
    """Megabytes by site and round. Not of the first: it carries zeros, whose equal pieces travel once."""
    fleet.programs.until(manifest(run, 1).exists, what="round 1 is closed", seconds=300, interval=0.005)
    before = counted(meters)
    fleet.await_end(run)
    return [(now - then) / rounds / 1e6 for now, then in zip(counted(meters), before, strict=True)]


def memory_figures(memory: Memory, megabytes: float, shared: int) -> list[Figure]:
    sites = [memory.of[site] for site in NAMES]
    coordinator = memory.of["coordinator"]
    return [
        of(f"{megabytes:.3g} MB: peak memory of a site, all its processes", [one.peak / 1e9 for one in sites], "GB", bar=0.9),
        of("  sum of its processes' own high-water marks", [one.ceiling / 1e9 for one in sites], "GB"),
        Figure("  at the end, shared pages counted once", shared / 1e9, "GB"),
        Figure(f"{megabytes:.3g} MB: peak memory of the coordinator, all its processes", coordinator.peak / 1e9, "GB", bar=1.0),
        Figure("  sum of its processes' own high-water marks", coordinator.ceiling / 1e9, "GB"),
    ]


def counted(meters: Meters) -> list[int]:
    return [meter.up + meter.down for meter in meters.of.values()]


if __name__ == "__main__":
    main()
