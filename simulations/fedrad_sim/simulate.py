"""`run(scenario)`: hospitals, arms, scores, a table, tidy CSV and a report; the same from Python as from the command line."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client.config import SiteConfig
from fedrad_client.site import create_site
from fedrad_client.site_toml import render
from fedrad_common.config import parse_toml
from fedrad_common.files import read_json, write_atomic, write_json
from fedrad_common.identity import SigningKey
from fedrad_common.protocol import TrainingProtocol, load_protocol, parse_protocol, render_protocol
from fedrad_sim.arms import ArmJob, ArmResult, play
from fedrad_sim.claim import check, claimed, combinations
from fedrad_sim.hospitals import Hospital, Hospitals, Opening, delta_for, make_hospitals, opened, publish, site
from fedrad_sim.pooling import pool_cohorts
from fedrad_sim.processes import processes, use_one_core
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
    own_sites: bool = True,
    say: Say = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Result:
    """Play a scenario.

    Args:
        scenario: a name that ships with fedrad, or a TOML file.
        out: a folder that does not exist yet, or an unfinished simulation of the same scenario, which then goes on.
        settings: protocol settings to sweep, `{"privacy.epsilon": [1, 3, 8]}`; every combination is one set of arms.
        arms: instead of the scenario's own.
        jobs: hospitals that are made, and arms that are played, at once, each in a process of one core.
        own_sites: the first private federated arm is played on the hospitals' own sites; without, every arm has sites of its own.

    Raises:
        MisuseError: `out` holds something else.
    """
    path = find_scenario(str(scenario))
    wanted = load_scenario(path)
    changed = {} if seed is None else {"seed": seed}
    wanted = wanted.model_copy(update=changed | ({} if arms is None else {"arms": tuple(arms)}))
    protocol = load_protocol(protocol_path(wanted, path))
    check(wanted, protocol, path, settings or {})
    with claimed(out, wanted, engine=engine), processes(jobs) as pool:
        key = _coordinator(out)
        hospitals, sizes = _open_hospitals(wanted, path, out, protocol, key, pool=pool, say=say, progress=progress)
        plan = list(
            _jobs(wanted, protocol, hospitals, sizes, out=out, engine=engine, settings=settings or {}, key=key, own_sites=own_sites)
        )
        say(f"{len(plan)} {'run' if len(plan) == 1 else 'runs'}, each a world of its own")
        results = tuple(_play_all(plan, pool, say=say, progress=progress))
    main = results[0].job.run
    write_json(out / "simulation.json", {"format": FORMAT, "scenario": wanted.name, "main": str(main.relative_to(out))})
    from fedrad_sim.tables import comparison, write_csv

    write_json(main / "result" / "comparison.json", comparison(results, unit=hospitals.unit))
    write_csv(out / "results.csv", results, scenario=wanted)
    from fedrad_server.report import write_report

    write_report(main, out / "report.html")
    _show_ledger(results, out, say)
    return Result(out, hospitals.unit, results, out / "report.html")


def _coordinator(out: Path) -> SigningKey:
    path = out / "coordinator.key"
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _open_hospitals(
    scenario: Scenario, beside: Path, out: Path, protocol: TrainingProtocol, key: SigningKey, *,
    pool: Executor | None, say: Say, progress: Any,
) -> tuple[Hospitals, dict[str, int]]:  # fmt: skip
    """Write the hospitals' files, then run their own verbs. Done once: a second start finds what the first one made."""
    marker = out / "hospitals.json"
    if marker.exists():
        made = read_json(marker, expected_format="fedrad-hospitals-1")
        sites = tuple(Hospital(name, out / "hospitals" / name, n_patients) for name, n_patients in made["sites"])
        held_out = Hospital(made["held_out"], out / "hospitals" / made["held_out"], 0) if made["held_out"] else None
        return Hospitals(sites, held_out, made["unit"]), made["sizes"]
    for unfinished in ("hospitals", "sites", "held-out", "pooled"):
        shutil.rmtree(out / unfinished, ignore_errors=True)
    hospitals = make_hospitals(scenario, beside, out / "hospitals", progress, pool)
    write_atomic(out / "protocol.toml", render_protocol(protocol))
    publish(key, out / "sites")
    homes = [
        Opening(hospital, out / "sites" / hospital.name, scenario, out / "protocol.toml", out / "coordinator.key")
        for hospital in hospitals.sites
    ]
    answers = map(opened, homes) if pool is None else pool.map(opened, homes)
    prepare = functools.partial(_prepare, hospitals.held_out, out / "held-out", protocol)
    prepared = prepare if pool is None else pool.submit(prepare).result
    sizes = {}
    for number, (hospital, (size, lines)) in enumerate(zip(hospitals.sites, answers, strict=True), start=1):
        sizes[hospital.name] = size
        for line in lines:
            if number == 1 or line.startswith("$"):  # of every hospital after the first, only the commands are shown
                say(line)
        progress("hospitals' own commands", number, len(hospitals.sites))
    prepared()
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


def _prepare(held_out: Hospital | None, cohort: Path, protocol: TrainingProtocol) -> None:
    if held_out is not None:
        prepare_folder(held_out.folder / "dicom", held_out.folder / "labels.csv", cohort, protocol=protocol)


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
    own_sites: bool,
) -> Iterable[ArmJob]:
    names = [hospital.name for hospital in hospitals.sites]
    scored_on = _scored_on(out, hospitals)
    for number, chosen in enumerate(combinations(settings)):
        suffix = "".join(f"-{name.split('.')[-1]}-{_as_name(value)}" for name, value in chosen.items())
        for arm in scenario.arms:
            kind, privacy = arm.split("-")
            if privacy == "plain" and number and set(chosen) == {"privacy.epsilon"}:
                continue  # without privacy there is nothing to sweep here
            content = render_protocol(arm_protocol(scenario, protocol, arm, chosen))
            for members in [[name] for name in names] if kind == "local" else [["pooled"]] if kind == "pooled" else [names]:
                label = f"{arm}-{members[0]}" if kind == "local" else arm
                folder = out / "arms" / f"{label}{suffix}"
                own = own_sites and arm == "federated-private" and number == 0
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
                metrics=scenario.sites.metrics,
                unbounded=True,
                cohort=os.path.relpath(cohort, home),
            )
            shutil.rmtree(home, ignore_errors=True)
            create_site(home, parse_toml(toml.encode(), SiteConfig, name="site.toml"), toml=toml, coordinator=key.public)
        homes[name] = (home, size)
    return homes


def _play_all(plan: list[ArmJob], pool: Executor | None, *, say: Say, progress: Any) -> list[ArmResult]:
    """Every arm, in order; several at once where there are processes for it, the long ones first."""
    if pool is None or len(plan) == 1:
        use_one_core()  # small networks gain nothing from a second thread, and wait for it
        return [_play_here(job, say, progress) for job in plan]
    longest = sorted(range(len(plan)), key=lambda index: _patients(plan[index]), reverse=True)
    futures = {pool.submit(play, plan[index]): index for index in longest}
    results: dict[int, ArmResult] = {}
    for number, future in enumerate(as_completed(futures), start=1):
        results[futures[future]] = future.result()
        say(_line(results[futures[future]]))
        progress("runs", number, len(plan))
    return [results[index] for index in range(len(plan))]


def _play_here(job: ArmJob, say: Say, progress: Any) -> ArmResult:
    rounds = parse_protocol(job.protocol).privacy.rounds
    result = play(job, lambda at, site, what: progress(f"{job.name}: rounds", at, rounds))
    say(_line(result))
    return result


def _patients(job: ArmJob) -> tuple[int, bool, int]:
    """What makes an arm long: its patients, a gradient for each of them, and the sites that answer."""
    return sum(size for _, size in job.homes.values()), job.private, len(job.homes)


def _line(result: ArmResult) -> str:
    auc = "one class only" if result.score.auc is None else f"AUC {result.score.auc:.3f}"
    return f"  {result.state}  {result.job.name:<32}  {auc:>9}  {result.seconds:5.1f} s"


def _show_ledger(results: Sequence[ArmResult], out: Path, say: Say) -> None:
    """What the first hospital's own account holds now, where an arm was played on the hospitals' own sites."""
    own = [home for result in results for home, _ in result.job.homes.values() if home.parent == out / "sites"]
    for home in own[:1]:
        site(["ledger", "--home", str(home)], say=say)
