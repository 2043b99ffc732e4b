"""What a simulation found, as rows: for the terminal, for a tidy CSV, and for the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrad_common.files import write_atomic
from fedrad_common.protocol import parse_protocol
from fedrad_sim.arms import ArmResult, bound
from fedrad_sim.scenario import Scenario


def rows(results: Sequence[ArmResult]) -> list[tuple[str, ...]]:
    """One row an arm: what, privacy, AUC, interval, epsilon of its hospitals, steps, bytes that left."""
    table: list[tuple[str, ...]] = [("arm", "privacy", "AUC", "95 % interval", "epsilon", "steps", "bytes that left")]
    for result in results:
        job, score = result.job, result.score
        name = job.kind if job.site is None else f"{job.site} alone"
        table.append(
            (
                name + "".join(f" {key}={value}" for key, value in job.settings.items()),
                "yes" if job.private else "no",
                "one class" if score.auc is None else f"{score.auc:.3f}",
                "" if score.auc_ci is None else f"{score.auc_ci[0]:.3f} … {score.auc_ci[1]:.3f}",
                _epsilons(result),
                str(result.steps),
                f"{sum(result.bytes_out.values()):,}",
            )
        )
    return table


def _epsilons(result: ArmResult) -> str:
    """One number where all hospitals' agree, as printed; else the smallest and the largest."""
    printed = [bound(value) for value in sorted(result.epsilon.values(), key=lambda value: math.inf if value is None else value)]
    return printed[0] if printed[0] == printed[-1] else f"{printed[0]} … {printed[-1]}"


def comparison(results: Sequence[ArmResult], *, unit: str) -> dict[str, Any]:
    """What the report draws (format fedrad-comparison-1)."""
    return {"format": "fedrad-comparison-1", "unit": unit, "seeded": True, "arms": [_arm(result) for result in results]}


def _arm(result: ArmResult) -> dict[str, Any]:
    job, score = result.job, result.score
    return {
        "name": job.name,
        "kind": job.kind,
        "private": job.private,
        "site": job.site,
        "n": score.n,
        "auc": score.auc,
        "auc_ci": None if score.auc_ci is None else list(score.auc_ci),
        "brier": score.brier,
        "epsilon": result.worst_epsilon,
        "delta": max(result.delta.values()),
        "steps": result.steps,
        "bytes_out": sum(result.bytes_out.values()),
        "roc": [list(point) for point in score.roc],
        "reliability": [list(point) for point in score.reliability],
    }


def write_csv(path: Path, results: Sequence[ArmResult], *, scenario: Scenario) -> None:
    """Tidy: one row an arm and hospital, one column a variable; every swept setting is a column."""
    swept = sorted({key for result in results for key in result.job.settings})
    stream = io.StringIO()
    writer = csv.writer(stream)
    header = ["scenario", "seed", "arm", "private", "site", "state", "epsilon", "delta", "steps", "rounds", "bytes_out"]
    writer.writerow([*header, "n", "n_patients", "auc", "auc_low", "auc_high", "brier", "seconds", *swept])
    for result in results:
        job, score = result.job, result.score
        low, high = score.auc_ci or ("", "")
        rounds = parse_protocol(job.protocol).privacy.rounds
        for site, epsilon in result.epsilon.items():
            about = [
                scenario.name,
                job.seed,
                job.kind,
                job.private,
                site,
                result.state,
                "" if epsilon is None else epsilon,
                result.delta[site],
            ]
            spent = [result.steps, rounds, result.bytes_out[site]]
            found = [score.n, score.n_patients, _cell(score.auc), low, high, _cell(score.brier), f"{result.seconds:.2f}"]
            writer.writerow([*about, *spent, *found, *(job.settings.get(key, "") for key in swept)])
    write_atomic(path, stream.getvalue().encode(), mode=0o644)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
