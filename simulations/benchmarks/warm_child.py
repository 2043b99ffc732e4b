"""What the child that works costs an order beyond the work, cold and warm: `python simulations/benchmarks/warm_child.py`.

The task is an echo, whose work is nothing; every answer is compared with what it must be. "cold" is a child for each order without
a library loaded, "cold with libraries" one that loads what training needs, as every child had to before it was kept. Memory is read from
/proc while the orders run: the resident set (RSS), and what is this process's own (a library's pages are shared).
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedrad_client.config import SiteConfig
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Home
from fedrad_client.site_toml import render
from fedrad_client.work import Job, Worker, run_child, run_inline
from fedrad_client.work.child import Child, Place
from fedrad_common.config import parse_toml
from fedrad_common.packing import Vector
from fedrad_common.protocol import parse_protocol, replace_settings

PROTOCOL = b"""
format = "fedrad-protocol-1"
name = "echo"
[task]
kind = "echo"
labels = ["lesion"]
[input]
profile = "xr"
height = 8
width = 8
[model]
name = "echo"
[model.options]
length = 16
[privacy]
unit = "patient"
epsilon = 2.0
expected_batch = 5.0
steps_per_round = 2
rounds = 3
[training]
learning_rate = 0.1
[rounds]
quorum = 1
deadline_seconds = 60.0
"""
SIZES = (25_000, 11_000_000)


class Memory:
    """The most that a process took while the block ran, in megabytes."""

    def __init__(self, *pids: Callable[[], int]) -> None:
        self._pids, self._stop, self.peak = pids, threading.Event(), [(0.0, 0.0)] * len(pids)
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            seen = [_resident(pid()) for pid in self._pids]
            self.peak = [max(pair) for pair in zip(self.peak, seen, strict=True)]


def _resident(pid: int) -> tuple[float, float]:
    """RSS, and the part of it that belongs to no file."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    except FileNotFoundError:
        return 0.0, 0.0
    return int(lines["VmRSS"].split()[0]) / 1000, int(lines["RssAnon"].split()[0]) / 1000


def make_home(path: Path) -> Home:
    text = render(name="north", epsilon=8.0, delta=1e-3, validation_fraction=0.2)
    parse_toml(text.encode(), SiteConfig, name="site.toml")
    (path / "cohort").mkdir(parents=True)
    (path / "site.toml").write_text(text)
    return Home(path)


def make_job(home: Home, length: int) -> Job:
    protocol = replace_settings(parse_protocol(PROTOCOL), {"model.options": {"length": length}})
    plan = Plan(
        protocol=protocol.hash, n_parameters=length, declared_size=50, sampling_rate=0.1, expected_batch=5.0, noise_multiplier=1.0,
        delta=1e-4, epsilon=2.0, evaluation="none", evaluation_noise=0.0,
    )  # fmt: skip
    return Job(protocol, "train", 1, plan, bytes(32), home.cohort, 1, home.config.resources)


def timed(work: Callable[[Job, Vector], Vector], job: Job, model: Vector, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        answer = work(job, model)
        seconds.append(time.perf_counter() - start)
        assert np.array_equal(answer, run_inline(job, model))
    return seconds


def cold_with_libraries(home: Home) -> Callable[[Job, Vector], Vector]:
    def work(job: Job, model: Vector) -> Vector:
        child = Child(Place.of(home.path, job.cohort, job.resources), warm=True)
        try:
            return child.ask(job, model)
        finally:
            child.end()

    return work


def show(what: str, seconds: list[float]) -> None:
    print(f"  {what:<20} median {1000 * statistics.median(seconds):8.1f} ms  ({1000 * min(seconds):.1f} … {1000 * max(seconds):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=50, help="for the warm child; a tenth of it for the cold ones")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedrad-warm-", dir=Path.cwd()) as name:
        home = make_home(Path(name) / "north")
        for length in SIZES:
            job, model = make_job(home, length), np.ones(length, dtype=np.float32)
            few = max(3, arguments.orders // 10)
            print(f"{length:,} parameters, {model.nbytes / 1e6:.1f} MB each way")
            show("work itself", timed(run_inline, job, model, few))
            show("cold", timed(lambda job, model: run_child(job, model, home=home.path), job, model, few))
            show("cold with libraries", timed(cold_with_libraries(home), job, model, few))
            start = time.perf_counter()
            with Worker(home) as worker:
                confined = time.perf_counter() - start
                worker(job, model)
                loaded = time.perf_counter() - start
                first = _resident(_pid(worker))
                with Memory(lambda: _pid(worker), lambda: _pid(None)) as memory:
                    show("warm", timed(worker, job, model, arguments.orders))
                last = _resident(_pid(worker))
                print(f"  started and confined in {confined:.2f} s, loaded and first answer after {loaded:.2f} s")
            for who, (resident, own) in zip(("the child", "this process"), memory.peak, strict=True):
                print(f"  peak of {who:<13} {resident:6.0f} MB, of which its own {own:6.0f} MB")
            print(f"  child after the first and the last of {arguments.orders} orders: {first[0]:.0f} and {last[0]:.0f} MB")


def _pid(worker: Worker | None) -> int:
    return os.getpid() if worker is None else 0 if worker.child is None else worker.child.pid


if __name__ == "__main__":
    main()
