"""`run(scenario)`: hospitals, arms, scores, a table, tidy CSV and a report; the same from Python as from the command line."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedrad_client.config import SiteConfig
from fedrad_client.site import create_site
from fedrad_client.site_toml import render
from fedrad_common.config import parse_toml
from fedrad_common.errors import MisuseError
from fedrad_common.files import read_json, write_atomic, write_json
from fedrad_common.identity import SigningKey
from fedrad_common.protocol import TrainingProtocol, load_protocol, parse_protocol, render_protocol
from fedrad_sim.arms import ArmJob, ArmResult, play, use_one_core
from fedrad_sim.hospitals import Hospital, Hospitals, delta_for, make_hospitals, open_hospital
from fedrad_sim.pooling import pool_cohorts
from fedrad_sim.scenario import ArmName, Scenario, arm_protocol, find_scenario, load_scenario, protocol_path
from fedrad_sim.scoring_data import prepare_folder

FORMAT = "fedrad-simulation-1"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    out: Path
    unit: str  # what one patient of the account stands for
    arms: tuple[ArmResult, ...]
    report: Path

    @property
    def main(self) -> ArmResult:
        return self.arms[0]


def run(
    scenario: str | Path,
    out: Path,
    *,
    engine: str = "local",
    seed: int | None = None,
    settings: Mapping[str, Sequence[object]] | None = None,
    arms: Sequence[ArmName] | None = None,
    jobs: int = 1,
    say: Say = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Result:
    """Play a scenario.

    Args:
        scenario: a name that ships with fedrad, or a TOML file.
        out: a folder that does not exist yet, or an unfinished simulation of the same scenario, which then goes on.
        settings: protocol settings to sweep, `{"privacy.epsilon": [1, 3, 8]}`; every combination is one set of arms.
        arms: instead of the scenario's own.
        jobs: arms that are played at once, each in a process of one core.

    Raises:
        MisuseError: `out` holds something else.
    """
    path = find_scenario(str(scenario))
    wanted = load_scenario(path)
    changed = {} if seed is None else {"seed": seed}
    wanted = wanted.model_copy(update=changed | ({} if arms is None else {"arms": tuple(arms)}))
    protocol = load_protocol(protocol_path(wanted, path))
    for chosen in _combinations(settings or {}):
        for arm in wanted.arms:
            arm_protocol(wanted, protocol, arm, chosen)  # a mistake in a setting is told before anything is written
    _claim(out, wanted, engine)
    key = _coordinator(out)
    hospitals, sizes = _open_hospitals(wanted, path, out, protocol, key, say=say, progress=progress)
    plan = list(_jobs(wanted, protocol, hospitals, sizes, out=out, engine=engine, settings=settings or {}, key=key))
    results = tuple(_play_all(plan, jobs=jobs, progress=progress))
    main = results[0].job.run
    write_json(out / "simulation.json", {"format": FORMAT, "scenario": wanted.name, "main": str(main.relative_to(out))})
    from fedrad_sim.tables import comparison, write_csv

    write_json(main / "result" / "comparison.json", comparison(results, unit=hospitals.unit))
    write_csv(out / "results.csv", results, scenario=wanted)
    from fedrad_server.report import write_report

    write_report(main, out / "report.html")
    return Result(out, hospitals.unit, results, out / "report.html")


def _claim(out: Path, scenario: Scenario, engine: str) -> None:
    """A new folder, or one that the same scenario began."""
    stamp = {"format": "fedrad-scenario-stamp-1", "scenario": scenario.model_dump(mode="json"), "engine": engine}
    if (out / "scenario.json").exists():
        before = read_json(out / "scenario.json", expected_format="fedrad-scenario-stamp-1")
        if before["scenario"] != stamp["scenario"]:
            raise MisuseError(f"{out.name}: holds a simulation of another scenario or seed", hint="name a new folder with --out")
        return
    if out.exists() and any(out.iterdir()):
        raise MisuseError(f"{out.name}: is not empty", hint="name a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "scenario.json", stamp)


def _coordinator(out: Path) -> SigningKey:
    path = out / "coordinator.key"
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _open_hospitals(
    scenario: Scenario, beside: Path, out: Path, protocol: TrainingProtocol, key: SigningKey, *, say: Say, progress: Any
) -> tuple[Hospitals, dict[str, int]]:
    """Write the hospitals' files, then run their own verbs. Done once: a second start finds what the first one made."""
    marker = out / "hospitals.json"
    if marker.exists():
        made = read_json(marker, expected_format="fedrad-hospitals-1")
        sites = tuple(Hospital(name, out / "hospitals" / name, n_patients) for name, n_patients in made["sites"])
        held_out = Hospital(made["held_out"], out / "hospitals" / made["held_out"], 0) if made["held_out"] else None
        return Hospitals(sites, held_out, made["unit"]), made["sizes"]
    for unfinished in ("hospitals", "sites", "held-out", "pooled"):
        shutil.rmtree(out / unfinished, ignore_errors=True)
    hospitals = make_hospitals(scenario, beside, out / "hospitals", progress)
    write_atomic(out / "protocol.toml", render_protocol(protocol))
    sizes = {}
    for number, hospital in enumerate(hospitals.sites):
        home, shown = out / "sites" / hospital.name, say if number == 0 else _first_lines(say)
        sizes[hospital.name] = open_hospital(hospital, home, scenario=scenario, protocol=out / "protocol.toml", key=key, say=shown)
        progress("hospitals", number + 1, len(hospitals.sites))
    if hospitals.held_out is not None:
        folder = hospitals.held_out.folder
        prepare_folder(folder / "dicom", folder / "labels.csv", out / "held-out", protocol=protocol)
    if any(arm.startswith("pooled") for arm in scenario.arms):
        pool_cohorts([out / "sites" / hospital.name / "cohort" for hospital in hospitals.sites], out / "pooled")
    facts = {
        "format": "fedrad-hospitals-1",
        "unit": hospitals.unit,
        "sites": [[hospital.name, hospital.n_patients] for hospital in hospitals.sites],  # in order, which an object would lose
        "sizes": sizes,
        "held_out": hospitals.held_out.name if hospitals.held_out else None,
    }
    write_json(marker, facts)
    return hospitals, sizes


def _first_lines(say: Say) -> Say:
    """Of every hospital after the first, only the commands are shown."""
    return lambda line: say(line) if line.startswith("$") else None


def _jobs(
    scenario: Scenario,
    protocol: TrainingProtocol,
    hospitals: Hospitals,
    sizes: dict[str, int],
    *,
    out: Path,
    engine: str,
    settings: Mapping[str, Sequence[object]],
    key: SigningKey,
) -> Iterable[ArmJob]:
    names = [hospital.name for hospital in hospitals.sites]
    scored_on = _scored_on(out, hospitals)
    for number, chosen in enumerate(_combinations(settings)):
        suffix = "".join(f"-{name.split('.')[-1]}-{_as_name(value)}" for name, value in chosen.items())
        for arm in scenario.arms:
            kind, privacy = arm.split("-")
            if privacy == "plain" and number and set(chosen) == {"privacy.epsilon"}:
                continue  # without privacy there is nothing to sweep here
            content = render_protocol(arm_protocol(scenario, protocol, arm, chosen))
            for members in [[name] for name in names] if kind == "local" else [["pooled"]] if kind == "pooled" else [names]:
                label = f"{arm}-{members[0]}" if kind == "local" else arm
                folder = out / "arms" / f"{label}{suffix}"
                own = arm == "federated-private" and number == 0
                yield ArmJob(
                    name=f"{scenario.name}-{label}{suffix}",
                    kind=kind,  # type: ignore[arg-type] # the first half of an ArmName
                    private=privacy == "private",
                    site=members[0] if kind == "local" else None,
                    protocol=content,
                    label=scenario.label,
                    homes=_homes(members, sizes, scenario, out=out, folder=folder, own=own, key=key),
                    scored_on=scored_on,
                    run=folder / "run",
                    key=out / "coordinator.key",
                    engine=engine,
                    seed=scenario.seed,
                    settings=dict(chosen),
                )


def _as_name(value: object) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-")


def _scored_on(out: Path, hospitals: Hospitals) -> tuple[tuple[Path, str], ...]:
    """Held-out patients where there are any; else every hospital's own validation patients, who are never trained on."""
    if hospitals.held_out is not None:
        return ((out / "held-out", "training"),)
    return tuple((out / "sites" / hospital.name / "cohort", "validation") for hospital in hospitals.sites)


def _combinations(settings: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]


def _homes(
    members: list[str], sizes: dict[str, int], scenario: Scenario, *, out: Path, folder: Path, own: bool, key: SigningKey
) -> dict[str, tuple[Path, int]]:
    """The arm's site homes: the hospitals' own, or counterfactual ones on the same cohorts."""
    homes = {}
    for name in members:
        size = sizes[name] if name in sizes else sum(sizes.values())
        home = out / "sites" / name if own else folder / "sites" / name
        if not (home / "site.toml").exists():
            cohort = out / "pooled" if name == "pooled" else out / "sites" / name / "cohort"
            toml = render(
                name=name,
                epsilon=scenario.sites.epsilon,
                delta=delta_for(size),
                validation_fraction=scenario.sites.validation_fraction,
                max_epsilon=1000.0,
                exact_metrics=scenario.sites.exact_metrics,
                unbounded=True,
                cohort=os.path.relpath(cohort, home),
            )
            shutil.rmtree(home, ignore_errors=True)
            create_site(home, parse_toml(toml.encode(), SiteConfig, name="site.toml"), toml=toml, coordinator=key.public)
        homes[name] = (home, size)
    return homes


def _play_all(plan: list[ArmJob], *, jobs: int, progress: Any) -> Iterable[ArmResult]:
    """Every arm, in order; several at once where asked."""
    if jobs == 1 or len(plan) == 1:
        use_one_core()  # small networks gain nothing from a second thread, and wait for it
        for number, job in enumerate(plan):
            rounds = parse_protocol(job.protocol).privacy.rounds
            yield play(job, lambda at, site, what, name=job.name, total=rounds: progress(name, at, total))
            progress("arms", number + 1, len(plan))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=use_one_core) as pool:
        for number, result in enumerate(pool.map(play, plan)):
            progress("arms", number + 1, len(plan))
            yield result
