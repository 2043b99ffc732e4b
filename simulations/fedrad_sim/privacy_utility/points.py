"""One point of the curve: what one seed reached at one epsilon, and what each hospital's own plan was for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedrad_common.config import Section, parse_json

if TYPE_CHECKING:
    from fedrad_sim.arms import ArmResult


class Estimate(Section):
    """An AUC and its 95 % interval, with patients as units."""

    auc: float
    low: float
    high: float


class SitePlan(Section):
    """What one hospital fixed at approval, from its declared size alone."""

    site: str
    declared_size: int  # N
    sampling_rate: float  # q of each step
    steps: int  # of the whole run
    noise_multiplier: float  # sigma
    delta: float
    epsilon: float  # of the whole run (PRV, upper bound); at most what was asked


class Point(Section):
    """One played run. The score is the simulation's own; the release is what the hospitals would have sent."""

    seed: int
    epsilon: float | None  # asked; None: without privacy
    state: str  # finished, or why not
    n: int  # images scored
    n_patients: int
    scored: Estimate | None  # None: one class only
    released: Estimate | None  # last evaluated round, noise included; None: no release, or too few patients to tell from its noise
    release_noise: float  # standard deviation of each cell of the pooled histogram, in patients; 0: exact, or none
    plans: tuple[SitePlan, ...]  # empty without privacy


class Points(Section):
    """The finished points of one seed, as they are kept on disk."""

    format: Literal["fedrad-privacy-utility-points-1"] = "fedrad-privacy-utility-points-1"
    unit: str  # "image" where the data name no patients
    points: tuple[Point, ...]


def read_points(path: Path) -> Points:
    return parse_json(path.read_bytes(), Points, name=path.name)


def point_of(result: ArmResult) -> Point:
    """What there is to keep of a played arm. The plans are read where the hospitals wrote them at approval."""
    score, job = result.score, result.job
    scored = None if score.auc is None or score.auc_ci is None else Estimate(auc=score.auc, low=score.auc_ci[0], high=score.auc_ci[1])
    released, noise = _released(job.run, job.label)
    return Point(
        seed=job.seed,
        epsilon=float(job.settings["privacy.epsilon"]) if job.private else None,
        state=result.state,
        n=score.n,
        n_patients=score.n_patients,
        scored=scored,
        released=released,
        release_noise=noise,
        plans=_plans(result) if job.private else (),
    )


def _plans(result: ArmResult) -> tuple[SitePlan, ...]:
    from fedrad_client.site import Home
    from fedrad_common.protocol import parse_protocol

    protocol = parse_protocol(result.job.protocol)
    plans = []
    for name, (home, _) in result.job.homes.items():
        approved = Home(home).approved(protocol.hash)
        assert approved is not None
        plan = approved[1]
        assert plan.epsilon is not None
        plans.append(
            SitePlan(
                site=name, declared_size=plan.declared_size, sampling_rate=plan.sampling_rate, steps=protocol.privacy.steps,
                noise_multiplier=plan.noise_multiplier, delta=plan.delta, epsilon=plan.epsilon,
            )
        )  # fmt: skip
    return tuple(plans)


def _released(run: Path, label: str) -> tuple[Estimate | None, float]:
    """From the histograms that left the hospitals after the last evaluated round, pooled: their noise widens the interval."""
    from fedrad_common import metrics
    from fedrad_server.report.records import read_input

    values = read_input(run)
    if not values.pooled:
        return None, 0.0
    last, column = values.pooled[-1], values.labels.index(label)
    area = metrics.auc(last.counts[column], noise=last.noise, least=metrics.MIN_PATIENTS)
    bounds = metrics.auc_interval(last.counts[column], noise=last.noise)
    return (None if area is None or bounds is None else Estimate(auc=area, low=bounds[0], high=bounds[1])), last.noise
