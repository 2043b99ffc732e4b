"""Do runs survive a bad network, with the model of a run that nothing disturbed? `python simulations/benchmarks/hostile/faults.py`.

Between a site's real node and its coordinator's server lies a wire that resets, truncates, delays or silently drops connections at drawn
bytes; with `--cable` (root) it is a cable between two namespaces that is unplugged for seconds and then made slow (tbf). After each fault
the run's final model must be the undisturbed one's, bit for bit, and equal to its replay, and each round must have one accepted update.
Control: a fault is one only if connections were broken, or the cable was slower. Exit status 1 where a run did not survive or differs;
3 where `--cable` is not possible.
"""

import argparse
import contextlib
import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import neighbourhood  # type: ignore[import-not-found] # beside this one, as are the next
from asking import until  # type: ignore[import-not-found]
from elsewhere import SETTINGS, surroundings  # type: ignore[import-not-found]
from enrolled import admitted  # type: ignore[import-not-found]
from neighbourhood import OURS, Site
from nodes import start  # type: ignore[import-not-found]
from servers import Place, guarded  # type: ignore[import-not-found]
from wire import NONE, Fault, Wire  # type: ignore[import-not-found]

from fedrad_common import processes
from fedrad_server.app.task import play_run
from fedrad_server.history import read_run
from fedrad_server.launching import create_run
from fedrad_server.replay import replay
from fedrad_server.runs import Run

PROTOCOL = """
format = "fedrad-protocol-1"
name = "faults"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = {length} }} }}
privacy = {{ unit = "patient", epsilon = 0.05, expected_batch = 5.0, steps_per_round = 1, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = 1, deadline_seconds = 180.0, retries = 20 }}
"""
Choose = Callable[[random.Random, int], Callable[[int], Fault]]  # (draw, bytes of a vector) -> the fault of the n-th connection


def _every(other: int, make: Callable[[int], Fault], draw: random.Random, size: int) -> Callable[[int], Fault]:
    """Each `other`-th connection fails, at a byte of its first vectors; at least every second one is left whole."""
    return lambda number: make(draw.randrange(2_000, 2 * size)) if number % other == 0 else NONE


FAULTS: dict[str, Choose] = {
    "undisturbed": lambda draw, size: lambda number: NONE,
    "reset": lambda draw, size: _every(2, lambda at: Fault(reset_after=at), draw, size),
    "truncated": lambda draw, size: _every(2, lambda at: Fault(truncate_after=at), draw, size),
    "delayed by 30 ms a piece": lambda draw, size: lambda number: Fault(delay=0.03),
    "dropped, then cut": lambda draw, size: _every(2, lambda at: Fault(drop_after=at), draw, size),
    "refused at first": lambda draw, size: lambda number: Fault(reset_after=0) if number <= 6 else NONE,
    "reset, all of them early": lambda draw, size: lambda number: Fault(reset_after=draw.randrange(size // 2, 3 * size)),
}


@dataclass(frozen=True)
class Result:
    fault: str
    outcome: str
    model: str
    rounds_once: bool
    replayed: bool
    seconds: float
    connections: int = 0

    def fine(self, undisturbed: "Result") -> bool:
        return self.outcome == "finished" and self.model == undisturbed.model and self.rounds_once and self.replayed


@contextlib.contextmanager
def node(command: list[str], folder: Path) -> Iterator[None]:
    log = folder / "north.log"
    said = len(log.read_bytes()) if log.exists() else 0
    with log.open("ab") as stream:
        process = subprocess.Popen(command, env=surroundings(folder), stdout=stream, stderr=stream)
    try:
        until(lambda: b" online" in log.read_bytes()[said:] or process.poll() is not None, what="the node is online")
        yield
    finally:
        processes.end(process, grace=15)


def play(place: Place, folder: Path, fault: str) -> Result:
    run = create_run(place.home.directory, folder / "faults.toml", fault.replace(" ", "-").replace(",", ""))
    began = time.monotonic()
    with Run.open(run, place.home.key) as opened:
        outcome = play_run(opened, place.home.superlink, progress=lambda number, who, what: None)
    seconds, records = time.monotonic() - began, read_run(run)
    once = all(len(records.receipts(number)) == 1 for number in range(1, records.round + 1))
    released = run / "result" / "model.f32"
    digest = hashlib.sha256(released.read_bytes()).hexdigest() if released.exists() else ""
    return Result(fault, str(outcome), digest, once, bool(digest) and replay(run).equal, seconds)


def over_wires(place: Place, folder: Path, home: Path, *, names: list[str], seed: int, size: int, lean: bool) -> Iterator[Result]:
    """One node for all: what is open is cut between two runs, so that all connections of a run are its fault's."""
    with Wire(place.public) as wire, node(start(home, f"localhost:{wire.port}", lean=lean), folder):
        for name in names:
            wire.hang_up(FAULTS[name](random.Random(f"{seed} {name}"), size))
            found = play(place, folder, name)
            yield replace(found, connections=wire.connections)


def over_cable(place: Place, folder: Path, home: Path, site: Site) -> Iterator[Result]:
    """Unplugged and plugged in again and again while the run goes on; then a cable of 8 Mbit/s."""
    with node(site.inside(*start(home, f"{OURS}:{place.public}", lean=False)), folder):
        yield play(place, folder, "undisturbed")
        with _meanwhile(lambda ended: _unplug(site, ended)):
            found = play(place, folder, "cable unplugged")
        yield found
        site.slow("8mbit")
        yield play(place, folder, "cable of 8 Mbit")
        site.fast()


def _unplug(site: Site, ended: threading.Event) -> None:
    while not ended.wait(1.0):
        site.unplug()
        ended.wait(3.0)
        site.plug()


@contextlib.contextmanager
def _meanwhile(act: Callable[[threading.Event], Any]) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS), help="after `undisturbed`")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--length", type=int, default=1_000_000, help="parameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cable", action="store_true", help="between two network namespaces, unplugged and slow")
    parser.add_argument("--lean", action="store_true", help="our node without its child, which loads for seconds")
    options = parser.parse_args()
    if options.cable:
        if reason := neighbourhood.missing():
            print(f"not measured: {reason}")
            sys.exit(3)
        neighbourhood.enter()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, names = Path(name), ["undisturbed", *(name for name in options.faults if name != "undisturbed")]
        protocol = PROTOCOL.format(length=options.length, rounds=options.rounds)
        (folder / "faults.toml").write_text(protocol)
        site = stack.enter_context(Site(folder)) if options.cable else None
        place = stack.enter_context(guarded(folder, SETTINGS))
        home = admitted(place, folder, protocol=protocol, runs=len(names) + 3).path
        if site is not None:
            results = over_cable(place, folder, home, site)
        else:
            results = over_wires(place, folder, home, names=names, seed=options.seed, size=4 * options.length, lean=options.lean)
        found: list[Result] = []
        for one in results:
            found.append(one)
            word = "survived, equal model" if one.fine(found[0]) else f"FAILED: {one}"
            print(f"{one.fault:<28}{word}, {one.seconds:.1f} s, {one.connections} connections", flush=True)
    survived = sum(one.fine(found[0]) for one in found)
    print(f"faults: {survived} of {len(found)} runs finished with the same model, each accepted update once")
    sys.exit(0 if survived == len(found) else 1)


if __name__ == "__main__":
    main()
