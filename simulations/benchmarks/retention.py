"""What 100 rounds of a large model cost the coordinator: disk, memory, and CPU a round. `python simulations/benchmarks/retention.py`.

The sites are in this process and make their updates out of nothing when they are polled, one at a time as the transport hands them over;
their own time is not counted. Everything else is the coordinator's: the loop of rounds, all checks, files with fsync, folding, deletion.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.records import Answer, Envelope, Evidence, Order, Privacy, Signed, sign
from fedrad_server.replay import replay
from fedrad_server.retention import KEEP_BYTES
from fedrad_server.rounds import play
from fedrad_server.runs import Run

PROTOCOL = """
format = "fedrad-protocol-1"
name = "retention"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = {length} }} }}
privacy = {{ unit = "none", expected_batch = 5.0, steps_per_round = 1, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {sites}, deadline_seconds = 600.0 }}
aggregation = {{ {aggregation} }}
"""


class Inventors:
    """Sites without data, each a signed answer away."""

    def __init__(self, names: Collection[str], length: int, disk: Path) -> None:
        self.keys = {name: SigningKey.generate() for name in names}
        self.noise = np.random.default_rng(0).standard_normal(length, dtype=np.float32) * np.float32(1e-3)
        self.disk, self.largest = disk, 0  # bytes below the run's folder, at any poll
        self.sequence, self.seconds = 0, 0.0
        self.waiting: deque[tuple[str, Order, Evidence]] = deque()

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        del model
        self.waiting.extend((site, order.peek(Order, what="order"), evidence[site]) for site in sites)

    def absent(self) -> dict[str, float]:
        return {}

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        del timeout
        begun = time.process_time()
        self.largest = max(self.largest, used(self.disk))
        site, order, evidence = self.waiting.popleft()
        self.sequence += 1
        vector = np.roll(self.noise, self.sequence)
        envelope = Envelope(
            site=site, run=order.run, epoch=order.epoch, round=order.round, kind=order.kind, sequence=self.sequence,
            protocol=order.protocol, model=order.model, manifest=evidence.manifests[-1].digest,
            length=vector.size, payload=vector_hash(vector), declared_size=50, ledger="a" * 64, audit="b" * 64,
            privacy=Privacy(noise_multiplier=0.0, sampling_rate=0.5, steps=1, delta=0.0),
        )  # fmt: skip
        answer = Answer(sign(envelope, self.keys[site]), vector)
        self.seconds += time.process_time() - begun
        return [(site, answer)]


def used(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--length", type=int, default=11_000_000, help="parameters of the model")
    parser.add_argument("--aggregation", default='strategy = "fedavg"', help="the protocol's section, on one line")
    parser.add_argument("--keep-bytes", type=int, default=KEEP_BYTES)
    parser.add_argument("--folder", type=Path, default=None, help="where the run is written; a temporary folder by default")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fedrad-retention-", dir=options.folder))
    try:
        sites = Inventors([f"site-{number}" for number in range(options.sites)], options.length, folder)
        wanted = {name: getattr(options, name) for name in ("length", "rounds", "sites", "aggregation")}
        roster = {name: site.public.hex for name, site in sites.keys.items()}
        key, start = SigningKey.generate(), np.zeros(options.length, np.float32)
        Run.create(folder / "run", PROTOCOL.format(**wanted).encode(), roster=roster, key=key, initial=start).close()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu, wall = time.process_time(), time.perf_counter()
        with Run.open(folder / "run", key, keep_bytes=options.keep_bytes) as run:
            play(run, sites)
        cpu, wall = time.process_time() - cpu - sites.seconds, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        largest = max(sites.largest, used(folder))
        print(f"retention: {options.sites} sites x {options.rounds} rounds, {options.length} parameters, {options.aggregation}")
        print(f"retention: disk {largest / 1e9:.2f} GB at most (bar 2), {used(folder) / 1e9:.2f} GB at the end")
        print(f"retention: memory {peak / 1024:.0f} MiB at most (bar 1024), {before / 1024:.0f} MiB before the first round")
        print(f"retention: {cpu / options.rounds:.2f} s of CPU a round (aim 1.5), {wall / options.rounds:.2f} s in all, sites included")
        print(f"retention: {replay(folder / 'run')}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
