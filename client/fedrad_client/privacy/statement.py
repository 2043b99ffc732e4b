"""The ledger in words and figures: ceiling, reserved, left, run by run; "no bound" where one is due."""

import math
from typing import Any

from fedrad_client.privacy.ledger import Account, Opening, epsilon_at

_BAR = 30  # characters


def facts(opening: Opening, account: Account, head: str) -> dict[str, Any]:
    return {
        "site": opening.site,
        "ceiling": {"epsilon": opening.epsilon, "delta": opening.delta, "order": opening.order},
        "reserved": _rounded_up(epsilon_at(account.training, order=opening.order, delta=opening.delta)),
        "share": account.training / opening.budget,
        "validation": {
            "ceiling": opening.validation_epsilon,
            "reserved": _rounded_up(epsilon_at(account.validation, order=opening.order, delta=opening.delta)),
            "marked_runs": account.marked_validation_runs,
        },
        "bound": account.unbounded_runs == 0,
        "answers": account.answers,
        "extra_answers": account.extra_answers,
        "runs": [
            {key: run[key] for key in ("run", "protocol", "epsilon", "noise_multiplier", "sampling_rate", "steps", "unbounded")}
            for run in account.runs
        ],
        "head": head,
    }


def lines(opening: Opening, account: Account, head: str) -> list[str]:
    share = min(1.0, account.training / opening.budget)
    filled = math.ceil(share * _BAR)
    reserved = _rounded_up(epsilon_at(account.training, order=opening.order, delta=opening.delta))
    bound = "" if account.unbounded_runs == 0 else f"   NO BOUND: {account.unbounded_runs} run(s) without privacy"
    rows = [
        f"privacy ledger of {opening.site}, per patient, over the site's lifetime",
        f"  ceiling     epsilon {opening.epsilon:g} at delta {opening.delta:.3g}: holds whatever happens",
        f"              (Rényi filter, order {opening.order:g})",
        f"  reserved    {'█' * filled}{'░' * (_BAR - filled)} {share:.0%} of the filter; epsilon {reserved:.3f}{bound}",
        f"  left        {1 - share:.0%} of the filter",
    ]
    validation = _rounded_up(epsilon_at(account.validation, order=opening.order, delta=opening.delta))
    marked = f"; {account.marked_validation_runs} run(s) released exact histograms: no bound" if account.marked_validation_runs else ""
    rows.append(f"  validation  epsilon {validation:.3f} of {opening.validation_epsilon:g}, patients never trained on{marked}")
    if account.runs:
        width = max(len(run["run"]) for run in account.runs)
        rows.append(f"  {'run':<{width}} protocol    epsilon (PRV)  noise    rate    steps")
    for run in account.runs:
        epsilon = "no bound" if run["unbounded"] else f"{run['epsilon']:.3f}"
        drawn = f"{run['noise_multiplier']:<7g}  {run['sampling_rate']:<6.3g}  {run['steps']}"
        rows.append(f"  {run['run']:<{width}} {run['protocol'][:10]}  {epsilon:>13}  {drawn}")
    rows.append(f"  answers     {account.answers}, of which {account.extra_answers} charged beyond their run")
    rows.append(f"  head        {head}")
    return rows


def _rounded_up(epsilon: float) -> float:
    return math.ceil(epsilon * 1000) / 1000
