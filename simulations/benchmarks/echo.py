"""How many answers a second of one core the whole path makes, without any training: `python simulations/benchmarks/echo.py`.

Every answer goes through all of `client/answer`: verify, policy, ledger, seal, outbox, audit, release; and through the coordinator's
checks, receipts, folding and manifests. The homes lie in a tmpfs, so that the disk's speed is not measured; every fsync is still called.
"""

import argparse
import cProfile
import pstats
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

from fedrad_client.approval import approve
from fedrad_client.cohort.draft import new_generation, next_generation, publish
from fedrad_client.cohort.store import Manifest, Record
from fedrad_client.config import SiteConfig
from fedrad_client.site import Home, create_site, open_site
from fedrad_client.site_toml import render
from fedrad_common.config import parse_toml
from fedrad_common.identity import SigningKey
from fedrad_common.models import initial_vector
from fedrad_common.profiles import profile
from fedrad_common.protocol import parse_protocol
from fedrad_server.runs import Run
from fedrad_sim.localgrid import play_local

PROTOCOL = """
format = "fedrad-protocol-1"
name = "echo"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = {length} }} }}
privacy = {{ unit = "patient", epsilon = 2.0, expected_batch = 5.0, steps_per_round = 2, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {n_sites}, deadline_seconds = 600.0 }}
"""
N_PATIENTS = 60


def make_site(home: Path, coordinator: SigningKey) -> Home:
    """A site whose cohort is a few invented pixels: the echo task never looks at them, the approval does."""
    text = render(name=home.name, epsilon=8.0, delta=1e-3, validation_fraction=0.2)
    text = text.replace('tasks = ["classification"]', 'tasks = ["echo"]')
    made = create_site(home, parse_toml(text.encode(), SiteConfig, name="site.toml"), toml=text, coordinator=coordinator.public)
    with new_generation(made.cohort, height=8, width=8) as draft:
        for number in range(N_PATIENTS):
            part: Literal["training", "validation"] = "validation" if number % 5 == 0 else "training"
            record = Record(f"{number:032x}", f"2.25.{number + 1}", part, {})
            draft.add(record, np.full((8, 8), number, np.uint16), (number % 2,), entry=number, series=0)
        kept = draft.settle()
        manifest = Manifest(
            generation=next_generation(made.cohort), profile="xr", profile_hash=profile("xr").hash, height=8, width=8, key="benchmark",
            validation_fraction=0.2, labels=("lesion",), n_files=N_PATIENTS, n_images=len(kept), n_patients=N_PATIENTS,
            files=draft.write_files(("lesion",)),
        )  # fmt: skip
        publish(draft, made.cohort, manifest)
    return made


def repeat(folder: Path, *, n_sites: int, rounds: int, length: int, profiler: cProfile.Profile | None) -> tuple[float, float]:
    """One run on fresh sites. Returns answers a CPU second and answers a second."""
    key = SigningKey.generate()
    content = PROTOCOL.format(length=length, rounds=rounds, n_sites=n_sites).encode()
    homes = {}
    for number in range(n_sites):
        home = make_site(folder / f"site-{number:03d}", key)
        homes[home.path.name] = home
        with open_site(home.path) as site:
            approve(site, content, declared_size=N_PATIENTS)
    roster = {name: home.envelope_key.public.hex for name, home in homes.items()}
    initial = initial_vector(parse_protocol(content))
    with Run.create(folder / "run", content, roster=roster, key=key, initial=initial, seeded=True) as run:
        cpu, wall = time.process_time(), time.perf_counter()
        if profiler:
            profiler.enable()
        outcome = play_local(run, {name: home.path for name, home in homes.items()}, seed=0)
        if profiler:
            profiler.disable()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answers = sum(len(run.accepted(number, "train")) for number in range(1, rounds + 1))
    assert outcome.value == "finished"
    assert answers == n_sites * rounds, f"{answers} answers were accepted, expected {n_sites * rounds}"
    return answers / cpu, answers / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=25_000, help="parameters of the model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    profiler = cProfile.Profile() if options.profile else None
    results = []
    for number in range(options.repeats):
        folder = Path(tempfile.mkdtemp(prefix="fedrad-echo-", dir=options.folder))
        try:
            results.append(repeat(folder, n_sites=options.sites, rounds=options.rounds, length=options.length, profiler=profiler))
        finally:
            shutil.rmtree(folder)
        print(f"repeat {number + 1}: {results[-1][0]:.1f} answers a CPU second, {results[-1][1]:.1f} a second")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = statistics.median(result[0] for result in results)
    print(f"echo: {options.sites} sites x {options.rounds} rounds, {options.length} parameters, median of {options.repeats}:")
    print(f"echo: {cpu:.1f} clients per CPU second (bar 25, aim 60); {memory:.0f} MiB at most")
    if profiler:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
