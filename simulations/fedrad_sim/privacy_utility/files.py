"""The three files of a sweep: a tidy table, the same numbers for a program, and the page. Each is whole or absent."""

import csv
import io
from pathlib import Path

from fedrad_common.files import write_atomic, write_json
from fedrad_sim.privacy_utility.outcome import Utility
from fedrad_sim.privacy_utility.page import page
from fedrad_sim.privacy_utility.points import Estimate, Point, SitePlan

NAME = "privacy-utility"
_POINT = ("seed", "private", "epsilon", "n", "n_patients", "auc", "auc_low", "auc_high", "released_auc", "released_low", "released_high")
_PLAN = ("site", "declared_size", "sampling_rate", "steps", "noise_multiplier", "delta", "epsilon_planned")


def write_files(found: Utility, out: Path) -> Path:
    """Write `privacy-utility.csv`, `.json` and `.html` into `out`; returns the page's path."""
    write_atomic(out / f"{NAME}.csv", _csv(found).encode(), mode=0o644)
    write_json(out / f"{NAME}.json", found.facts(), mode=0o644)
    write_atomic(out / f"{NAME}.html", page(found).encode(), mode=0o644)
    return out / f"{NAME}.html"


def _csv(found: Utility) -> str:
    """One row a point and hospital; a point without privacy has one row and no hospital."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scenario", "protocol", *_POINT, *_PLAN])
    for point in sorted(found.points, key=lambda point: (point.seed, point.epsilon or float("inf"))):
        for plan in point.plans or (None,):
            writer.writerow([found.scenario.name, found.protocol.name, *_about(point), *_plan(plan)])
    return stream.getvalue()


def _about(point: Point) -> list[object]:
    epsilon = "" if point.epsilon is None else point.epsilon
    return [point.seed, point.epsilon is not None, epsilon, point.n, point.n_patients, *_cells(point.scored), *_cells(point.released)]


def _cells(estimate: Estimate | None) -> list[object]:
    return ["", "", ""] if estimate is None else [estimate.auc, estimate.low, estimate.high]


def _plan(plan: SitePlan | None) -> list[object]:
    if plan is None:
        return [""] * len(_PLAN)
    return [plan.site, plan.declared_size, plan.sampling_rate, plan.steps, plan.noise_multiplier, plan.delta, plan.epsilon]
