"""The worlds that a scenario compares: each hospital alone, all federated, all pooled; each with and without privacy.

An arm is a run of its own. The federated private arm is played on the hospitals' own sites; every other arm is a counterfactual and gets
sites of its own (own keys, own ledger) on the same cohorts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedrad_common.identity import SigningKey
from fedrad_common.protocol import parse_protocol
from fedrad_sim.evaluate import Score

Kind = Literal["local", "federated", "pooled"]


@dataclass(frozen=True)
class ArmJob:
    """All that one arm needs, by value, so that another process can play it."""

    name: str
    kind: Kind
    private: bool
    site: str | None  # of a local arm
    protocol: bytes  # TOML
    label: str
    homes: dict[str, tuple[Path, int]]  # site home and declared size, by name
    scored_on: tuple[tuple[Path, str], ...]  # cohort and part
    run: Path
    key: Path  # the coordinator's signing key
    engine: str
    seed: int
    settings: dict[str, Any]  # what --set changed


@dataclass(frozen=True)
class ArmResult:
    job: ArmJob
    state: str  # finished, or why not
    score: Score
    epsilon: dict[str, float | None]  # of each site, PRV of the whole run; None is no bound
    delta: dict[str, float]
    steps: int
    bytes_out: dict[str, int]
    seconds: float

    @property
    def worst_epsilon(self) -> float | None:
        values = list(self.epsilon.values())
        return None if None in values or not values else max(value for value in values if value is not None)


def play(job: ArmJob, progress: Callable[..., None] | None = None) -> ArmResult:
    """Approve at every site, launch, run to the end, score the released model."""
    from fedrad_common.models import initial_vector
    from fedrad_server.runs import Run, read_run
    from fedrad_sim.engines import engine
    from fedrad_sim.evaluate import score
    from fedrad_sim.scoring_data import load_part

    start = time.monotonic()
    protocol = parse_protocol(job.protocol)
    plans = {name: _approve(home, job.protocol, size) for name, (home, size) in job.homes.items()}
    key = SigningKey.load(job.key)
    if (job.run / "launch.json").exists():
        run = Run.open(job.run, key)  # a simulation that was stopped goes on where it was
    else:
        roster = {name: _public(home) for name, (home, _) in job.homes.items()}
        run = Run.create(job.run, job.protocol, roster=roster, key=key, initial=initial_vector(protocol), seeded=True, run=_run_id(job))
    try:
        outcome = engine(job.engine)(run, {name: home for name, (home, _) in job.homes.items()}, seed=job.seed, progress=progress)
    finally:
        run.close()
    records = read_run(job.run)
    datasets = [load_part(cohort, part=part, protocol=protocol) for cohort, part in job.scored_on]
    return ArmResult(
        job=job,
        state=outcome.value,
        score=score(protocol, records.released(records.round), datasets, label=job.label),
        epsilon={name: plan.epsilon for name, plan in plans.items()},
        delta={name: plan.delta for name, plan in plans.items()},
        steps=records.round * protocol.privacy.steps_per_round,
        bytes_out={name: _bytes_out(home) for name, (home, _) in job.homes.items()},
        seconds=time.monotonic() - start,
    )


def _approve(home: Path, protocol: bytes, size: int) -> Any:
    from fedrad_client.approval import approve
    from fedrad_client.site import open_site

    with open_site(home) as site:
        return approve(site, protocol, declared_size=size).plan


def _public(home: Path) -> str:
    from fedrad_client.site import Home

    return Home(home).envelope_key.public.hex


def _bytes_out(home: Path) -> int:
    """From the site's own audit log: what left, to the byte."""
    from fedrad_client import audit
    from fedrad_client.site import AUDIT
    from fedrad_common.chain import read

    return sum(int(entry.body["bytes"]) for entry in read(home / AUDIT, audit.KIND) if entry.type in ("release", "resend"))


def _run_id(job: ArmJob) -> str:
    """The same scenario and seed give the same id, and with it the same noise."""
    digits = "".join(character if character.isalnum() else "-" for character in job.name.lower())
    return f"sim-{digits[:40]}-{job.seed}".strip("-")


def bound(epsilon: float | None) -> str:
    return "no bound" if epsilon is None or math.isinf(epsilon) else f"{epsilon:.2f}"
