"""What a sweep found, as values: the curve, its band and its reference, the plans, and what each epsilon means at one hospital."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fedrad_common.protocol import TrainingProtocol
from fedrad_sim.privacy_utility.points import Estimate, Point, SitePlan
from fedrad_sim.privacy_utility.reading import Attack, by_epsilon, by_plan, images_epsilon
from fedrad_sim.scenario import Scenario

Kind = Literal["scored", "released"]
_MOST_IMAGES = 8  # of one patient, in the table of what accounting by images hides


@dataclass(frozen=True)
class Band:
    """All seeds at one epsilon."""

    epsilon: float | None  # None: without privacy
    median: float
    low: float  # the lowest and the highest end of the seeds' 95 % intervals: no interval of its own
    high: float
    n_seeds: int


@dataclass(frozen=True)
class Loss:
    """How far below no privacy an epsilon is, seed by seed: both of a seed are scored on the same patients."""

    median: float
    low: float  # the least and the greatest difference of a seed
    high: float
    n_seeds: int


@dataclass(frozen=True)
class Reading:
    """What one epsilon means at the hospital of the example."""

    plan: SitePlan
    by_epsilon: Attack
    by_plan: Attack
    images: tuple[tuple[int, float], ...]  # images of one patient, and the epsilon they would have under accounting by images


@dataclass(frozen=True)
class Utility:
    scenario: Scenario
    protocol: TrainingProtocol  # of the private arm, but for the epsilon of each point
    unit: str  # "image" where the data name no patients
    points: tuple[Point, ...]

    @property
    def epsilons(self) -> tuple[float, ...]:
        return tuple(sorted({point.epsilon for point in self.points if point.epsilon is not None}))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({point.seed for point in self.points}))

    @property
    def held_out(self) -> bool:
        """Scored on patients of no hospital; else on the hospitals' own validation patients."""
        return self.scenario.phantom is not None

    def curve(self, kind: Kind) -> tuple[Band, ...]:
        bands = (_band(epsilon, self._estimates(epsilon, kind)) for epsilon in self.epsilons)
        return tuple(band for band in bands if band is not None)

    def reference(self, kind: Kind) -> Band | None:
        return _band(None, self._estimates(None, kind))

    def loss(self, epsilon: float, kind: Kind) -> Loss | None:
        """None: no seed has both."""
        found = {(point.epsilon, point.seed): getattr(point, kind) for point in self.points}
        pairs = [(found.get((None, seed)), found.get((epsilon, seed))) for seed in self.seeds]
        lost = [without.auc - private.auc for without, private in pairs if without is not None and private is not None]
        return Loss(statistics.median(lost), min(lost), max(lost), len(lost)) if lost else None

    def _estimates(self, epsilon: float | None, kind: Kind) -> list[Estimate]:
        found = (getattr(point, kind) for point in self.points if point.epsilon == epsilon)
        return [estimate for estimate in found if estimate is not None]

    def plans(self, epsilon: float, seed: int) -> tuple[SitePlan, ...]:
        return next(point.plans for point in self.points if (point.epsilon, point.seed) == (epsilon, seed))

    @property
    def example(self) -> str:
        """The smallest hospital of the first seed: there a patient is drawn most often, and needs the most noise."""
        plans = self.plans(self.epsilons[0], self.seeds[0])
        return min(plans, key=lambda plan: (plan.declared_size, plan.site)).site

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        most = max(3, min(self.protocol.privacy.max_images, _MOST_IMAGES))
        chosen = [next(plan for plan in self.plans(epsilon, self.seeds[0]) if plan.site == self.example) for epsilon in self.epsilons]
        return tuple(
            Reading(plan, by_epsilon(plan), by_plan(plan), tuple((count, images_epsilon(plan, count)) for count in range(2, most + 1)))
            for plan in chosen
        )

    def facts(self) -> dict[str, Any]:
        """The whole of it for a program (format fedrad-privacy-utility-1); the page shows the same numbers."""
        return {
            "format": "fedrad-privacy-utility-1",
            "scenario": self.scenario.name,
            "protocol": {"name": self.protocol.name, "hash": self.protocol.hash},
            "label": self.scenario.label,
            "unit": self.unit,
            "scored_on": "held-out patients" if self.held_out else "validation patients",
            "seeded": True,
            "epsilons": list(self.epsilons),
            "seeds": list(self.seeds),
            "points": [point.model_dump(mode="json") for point in self.points],
            "curve": [self._with_loss(band, "scored") for band in self.curve("scored")],
            "reference": _facts(self.reference("scored")),
            "released_curve": [self._with_loss(band, "released") for band in self.curve("released")],
            "released_reference": _facts(self.reference("released")),
            "readings": [_reading(epsilon, reading) for epsilon, reading in zip(self.epsilons, self.readings, strict=True)],
        }

    def _with_loss(self, band: Band, kind: Kind) -> dict[str, Any]:
        assert band.epsilon is not None
        loss = self.loss(band.epsilon, kind)
        lost = None if loss is None else {"median": loss.median, "low": loss.low, "high": loss.high, "n": loss.n_seeds}
        return {**(_facts(band) or {}), "lost": lost}


def _band(epsilon: float | None, estimates: Sequence[Estimate]) -> Band | None:
    if not estimates:
        return None
    median = statistics.median(estimate.auc for estimate in estimates)
    low, high = min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)
    return Band(epsilon, median, low, high, len(estimates))


def _facts(band: Band | None) -> dict[str, Any] | None:
    return None if band is None else {"epsilon": band.epsilon, "median": band.median, "low": band.low, "high": band.high, "n": band.n_seeds}


def _reading(epsilon: float, reading: Reading) -> dict[str, Any]:
    return {
        "epsilon": epsilon,
        "site": reading.plan.site,
        "by_epsilon": {"advantage": reading.by_epsilon.advantage, "auc": reading.by_epsilon.auc},
        "by_plan": {"advantage": reading.by_plan.advantage, "auc": reading.by_plan.auc},
        "images": [{"images": count, "epsilon": cost} for count, cost in reading.images],
    }
