"""Two of ten hospitals poison a run: what the model loses under each strategy. `python simulations/benchmarks/poisoning.py`.

Ten invented hospitals without privacy, the real site and coordinator code, one process a run. A poisoned hospital's own program is what it
would be: only its work lies, the labels it was given, or the size it declares (`ATTACKS`). Scored on invented patients of no hospital; the
settings were tuned on other seeds' validation patients.
"""

import argparse
import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedrad_client.approval import approve
from fedrad_client.config import SiteConfig
from fedrad_client.site import Home, create_site, open_site
from fedrad_client.site_toml import render
from fedrad_client.work import Job, Work
from fedrad_common.config import parse_toml
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol, load_protocol, render_protocol, replace_settings
from fedrad_server.acceptance import norm_bound
from fedrad_server.runs import Run, read_run
from fedrad_sim import phantom
from fedrad_sim.hospitals import Hospital, delta_for, open_hospital
from fedrad_sim.phantom import HELD_OUT, HOSPITALS, LABEL, scaled, write_hospital
from fedrad_sim.processes import processes, use_one_core
from fedrad_sim.scenario import Scenario, find_scenario, load_scenario, protocol_path

POISONED = ("north-1", "harbour-1")  # large ones; where every hospital of a kind lies, nobody can tell
Change = Callable[[Vector, float], Vector]  # update, largest norm that the coordinator accepts → update


def _stretched(update: Vector, length: float) -> Vector:
    """To that L2 norm; a model that is broken already may give no update at all."""
    return update * np.float32(length / max(float(np.linalg.norm(update)), 1e-30)) if update.any() else update


def _noise(update: Vector, length: float) -> Vector:
    """Of that length, in no direction, another one for each update."""
    return _stretched(np.random.default_rng(update.view(np.uint32)).standard_normal(update.size, dtype=np.float32), length)


@dataclass(frozen=True)
class Attack:
    """What a poisoned hospital lies about."""

    change: Change | None = None  # of its update
    flipped: bool = False  # labels
    claims: int = 1  # times its patients, as its declared size: FedAvg weighs by it


def _negative(update: Vector, bound: float) -> Vector:
    return -update


def _noise_x10(update: Vector, bound: float) -> Vector:
    return _noise(update, 10 * float(np.linalg.norm(update)))


ATTACKS: dict[str, Attack] = {
    "none": Attack(),
    "sign flip": Attack(_negative),
    "sign flip x10": Attack(lambda update, bound: -10 * update),
    "sign flip, claims x20": Attack(_negative, claims=20),
    "scaled x10": Attack(lambda update, bound: 10 * update),
    "scaled to the norm bound": Attack(lambda update, bound: _stretched(update, 0.99 * bound)),
    "noise x10": Attack(_noise_x10),
    "noise x10, claims x20": Attack(_noise_x10, claims=20),
    "noise to the norm bound": Attack(lambda update, bound: _noise(update, 0.99 * bound)),
    "label flip": Attack(flipped=True),
    "label flip, claims x20": Attack(flipped=True, claims=20),
}
STRATEGIES: dict[str, dict[str, object]] = {
    "fedavg": {},
    "median": {},
    "trimmed-mean": {"aggregation.trim": 0.2},
    "krum": {"aggregation.byzantine": 2},
    "multi-krum": {"aggregation.byzantine": 2, "aggregation.keep": 6},
}
SETTINGS: dict[str, object] = {
    "privacy.unit": "none",
    "privacy.epsilon": None,
    "training.optimizer": "adamw",
    "training.learning_rate": 0.004,
    "rounds.quorum": 10,
    "evaluation.rounds": (),
}


@dataclass(frozen=True)
class World:
    """Ten hospitals on disk, each ingested once; every run gets site homes of its own on the same cohorts."""

    folder: Path
    protocol: TrainingProtocol
    sizes: dict[str, int]  # declared, by site
    seed: int

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.folder / "coordinator.key")


def hospitals(scale: float, *, unlike: bool) -> list[phantom.Hospital]:
    """Two of each of the phantom's five; each with the machines of all five, or `unlike`: each kind with its own."""
    kinds = HOSPITALS if unlike else [replace(kind, drift=HELD_OUT.drift, more_drifts=HELD_OUT.more_drifts) for kind in HOSPITALS]
    return [replace(scaled(kind, scale), name=f"{kind.name}-{number}") for kind in kinds for number in (1, 2)]


def build(folder: Path, *, seed: int, scale: float, held_out: int, settings: dict[str, object], unlike: bool = False) -> World:
    path = find_scenario("demo")
    scenario = load_scenario(path)
    protocol = replace_settings(load_protocol(protocol_path(scenario, path)), SETTINGS | settings)
    SigningKey.generate().save(folder / "coordinator.key")
    (folder / "protocol.toml").write_bytes(render_protocol(protocol))
    sizes = {}
    for hospital in hospitals(scale, unlike=unlike):
        write_hospital(hospital, folder / "data" / hospital.name, seed=seed)
        sizes[hospital.name] = _open(folder, hospital.name, hospital.n_patients, scenario)
        if hospital.name in POISONED:
            _flip(folder / "data" / hospital.name)
            _open(folder, hospital.name, hospital.n_patients, scenario, home=f"{hospital.name}-flipped")
    write_hospital(scaled(HELD_OUT, held_out / HELD_OUT.n_patients), folder / "data" / "held-out", seed=seed)
    return World(folder, protocol, sizes, seed)


def _open(folder: Path, name: str, n_patients: int, scenario: Scenario, *, home: str = "") -> int:
    """A hospital's own verbs; returns its declared size."""
    hospital, key = Hospital(name, folder / "data" / name, n_patients), SigningKey.load(folder / "coordinator.key")
    place = folder / "sites" / (home or name)
    return open_hospital(hospital, place, scenario=scenario, protocol=folder / "protocol.toml", key=key, say=lambda line: None)


def _flip(data: Path) -> None:
    """What a hospital that lies about every label hands to its own ingest."""
    rows = list(csv.DictReader(io.StringIO((data / "labels.csv").read_text())))
    for row in rows:
        row[LABEL] = "0" if row[LABEL] == "1" else "1"
    with (data / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def play(world: World, strategy: str, attack: str, part: str = "held-out") -> float:
    """AUC of the released model of one run; of one that pauses, because a broken model is no longer trained on, where it stopped."""
    from fedrad_common.models import initial_vector
    from fedrad_sim.evaluate import score
    from fedrad_sim.scoring_data import load_part, prepare_folder

    use_one_core()
    protocol = replace_settings(world.protocol, {"aggregation.strategy": strategy} | STRATEGIES[strategy])
    with tempfile.TemporaryDirectory(prefix="run-", dir=world.folder) as scratch:
        declared = {name: size * (ATTACKS[attack].claims if name in POISONED else 1) for name, size in world.sizes.items()}
        homes = {name: _home(world, Path(scratch), name, attack, size) for name, size in declared.items()}
        content = render_protocol(protocol)
        for name, home in homes.items():
            with open_site(home) as site:
                approve(site, content, declared_size=declared[name])
        roster = {name: Home(home).envelope_key.public.hex for name, home in homes.items()}
        run = Path(scratch) / "run"
        initial = initial_vector(protocol)
        with Run.create(run, content, roster=roster, key=world.key, initial=initial, seeded=True, run="poisoning") as opened:
            _play(opened, homes, attack, world.seed)
        records = read_run(run)
        if part == "validation":
            datasets = [load_part(world.folder / "sites" / name / "cohort", part=part, protocol=protocol) for name in world.sizes]
        else:
            data = world.folder / "data" / "held-out"
            datasets = [prepare_folder(data / "dicom", data / "labels.csv", Path(scratch) / "cohort", protocol=protocol)]
        found = score(protocol, records.released(records.round), datasets, label=LABEL).auc
    assert found is not None
    return found


def _home(world: World, scratch: Path, name: str, attack: str, declared: int) -> Path:
    home = scratch / "sites" / name
    cohort = world.folder / "sites" / (f"{name}-flipped" if ATTACKS[attack].flipped and name in POISONED else name) / "cohort"
    toml = render(
        name=name, epsilon=10.0, delta=delta_for(declared), validation_fraction=0.2, max_epsilon=1000.0, unbounded=True,
        cohort=os.path.relpath(cohort, home),
    )  # fmt: skip
    create_site(home, parse_toml(toml.encode(), SiteConfig, name="site.toml"), toml=toml, coordinator=world.key.public)
    return home


def _play(run: Run, homes: dict[str, Path], attack: str, seed: int) -> None:
    from fedrad_client.app import handle
    from fedrad_server.app import play_on
    from fedrad_sim.entropy import run_seeded, seeded_entropy
    from fedrad_sim.localgrid import LocalGrid, SimulatedClock

    with ExitStack() as stack:
        sites = {name: stack.enter_context(open_site(home)) for name, home in homes.items()}
        entropy = {name: seeded_entropy(seed, name) for name in sites}
        works = {name: lying(run_seeded, attack) if name in POISONED else run_seeded for name in sites}
        clock = SimulatedClock()
        grid = LocalGrid(sites, lambda name, message: handle(message, site=sites[name], work=works[name], entropy=entropy[name]))
        play_on(grid, run, clock=clock, sleep=clock.sleep)


def lying(work: Work, attack: str) -> Work:
    """The poisoned hospital's work: the honest update, then what the attack makes of it."""
    change = ATTACKS[attack].change

    def lie(job: Job, model: Vector) -> Vector:
        update = work(job, model)
        return update if change is None or job.kind != "train" else change(update, norm_bound(job.protocol, update.size))

    return lie


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scale", type=float, default=2.0, help="times the phantom's default patients")
    parser.add_argument("--held-out", type=int, default=1000, help="patients to score on")
    parser.add_argument("--unlike", action="store_true", help="hospitals with one machine each, of five kinds: harder to tell from a liar")
    parser.add_argument("--part", choices=["held-out", "validation"], default="held-out", help="validation: to tune on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a protocol setting, to tune")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    begun = time.monotonic()
    settings = {key: json.loads(value) for key, _, value in (entry.partition("=") for entry in options.set)}
    with tempfile.TemporaryDirectory(prefix="fedrad-poisoning-") as scratch, processes(max(2, options.jobs)) as pool:
        sizes = {"scale": options.scale, "held_out": options.held_out, "unlike": options.unlike}
        world = build(Path(scratch), seed=options.seed, settings=settings, **sizes)
        print(f"poisoning: hospitals ready after {time.monotonic() - begun:.0f} s", flush=True)
        assert pool is not None
        futures = {(s, a): pool.submit(play, world, s, a, options.part) for a in options.attacks for s in options.strategies}
        clean = futures["fedavg", "none"].result()
        print(f"poisoning: {len(POISONED)} of {len(world.sizes)} sites; AUC of FedAvg without an attack {clean:.3f} ({options.part})")
        print(f"{'AUC lost':<26}" + "".join(f"{strategy:>14}" for strategy in options.strategies))
        for attack in options.attacks:
            lost = [clean - futures[strategy, attack].result() for strategy in options.strategies]
            print(f"{attack:<26}" + "".join(f"{value:>14.3f}" for value in lost), flush=True)
    print(f"poisoning: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
