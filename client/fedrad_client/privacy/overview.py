"""The ledger in words and figures: ceiling, reserved, left, run by run; "no bound" where one is due."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from fedrad_client.privacy.account import UNKNOWN, Account, Opening, account_of, epsilon_at, epsilon_in_advance, opening_of
from fedrad_common.accounting import rounded_up
from fedrad_common.chain import Entry

_BAR, _SPARKS = 30, 40  # characters
_LEVELS = "▁▂▃▄▅▆▇█"
NOT_COVERED = (
    "Not covered: the decisions of people (enrol, approve, pause, withdraw); when and whether a site answers, beyond the listed codes and "
    "time slots; what is not about one patient (a hospital's prevalence); attacks on the site's own machine."
)
Moment = tuple[str, float]  # time of an entry, share of the filter that is reserved after it


def facts(opening: Opening, entries: Sequence[Entry]) -> dict[str, Any]:
    """opening: the ceiling in force. Epsilons are upper bounds, rounded up; None is no bound."""
    account = account_of(list(entries))
    return {
        "site": opening.site,
        "identity": opening.identity,
        "ceiling": {
            "epsilon": opening.epsilon,
            "delta": opening.delta,
            "numeric_delta": opening.numeric_delta,
            "order": opening.order,
            "opened_with": opening_of(entries[0]).epsilon,
            "earlier_epsilon": opening.earlier_epsilon,
            "earlier_delta": opening.earlier_delta,
            "earlier_validation_epsilon": opening.earlier_validation_epsilon,
        },
        "reserved": rounded_up(epsilon_at(account.training, order=opening.order, delta=opening.filter_delta)),
        "share": share(opening, account.training),
        "left": 1 - share(opening, account.training),
        "in_advance": _finite(epsilon_in_advance(opening, account)),
        "numeric_delta": account.numeric_delta,
        "validation": {
            "ceiling": opening.validation_epsilon,
            "reserved": rounded_up(epsilon_at(account.validation, order=opening.order, delta=opening.filter_delta)),
            "marked_runs": account.marked_validation_runs,
        },
        "bound": account.unbounded_runs == 0 and not opening.earlier_unbounded,
        "assumed_spent": bool(account.assumed),
        "contradicted": account.contradicted,
        "answers": account.answers,
        "repeated": len(account.repeated),
        "marked": marked(opening, account),
        "runs": [_run(opening, account, run) for run in account.runs],
        "head": entries[-1].hash,
    }


def _run(opening: Opening, account: Account, run: dict[str, Any]) -> dict[str, Any]:
    kept = ("run", "protocol", "noise_multiplier", "sampling_rate", "steps", "unbounded")
    again = sum(body["steps"] for body in account.repeated if body["run"] == run["run"])
    return {**{key: run[key] for key in kept}, "epsilon": _finite(epsilon_in_advance(opening, account, run["run"])), "steps_again": again}


def marked(opening: Opening, account: Account) -> list[dict[str, str]]:
    """Every release without a bound, by run: which patients it concerns, and why."""
    rows = []
    for protocol in opening.earlier_unbounded:
        known = f"protocol {protocol[:10]} without privacy was approved"
        why = "its audit log was lost, too: nobody knows what left" if protocol == UNKNOWN else known
        rows.append({"run": "a lost ledger", "concerns": "training", "why": why})
    for run in account.runs:
        if run["unbounded"]:
            rows.append({"run": run["run"], "concerns": "training", "why": "trained without privacy"})
        if run["validation_marked"]:
            why = "metrics of a model trained without privacy" if run["unbounded"] else "exact histograms"
            rows.append({"run": run["run"], "concerns": "validation", "why": why})
    return rows


def share(opening: Opening, divergence: float) -> float:
    """Of the filter's budget, 0 … 1; a ceiling tightened below what is spent leaves nothing."""
    return min(1.0, divergence / opening.budget) if opening.budget > 0 else 1.0


def history(opening: Opening, entries: Sequence[Entry]) -> list[Moment]:
    """How the filter filled up, one moment for each entry that was charged."""
    total, moments = 0.0, [(entries[0].at, 0.0)]
    for entry in entries[1:]:
        cost = float(entry.body.get("cost", 0.0))
        if cost > 0:
            total += cost
            moments.append((entry.at, share(opening, total)))
    return moments


def lines(opening: Opening, entries: Sequence[Entry]) -> list[str]:
    value = facts(opening, entries)
    filled = math.ceil(value["share"] * _BAR)
    concerned = sum(row["concerns"] == "training" for row in value["marked"])
    bound = "" if value["bound"] else f"   NO BOUND: {concerned} release(s) without privacy, see `marked`"
    advance = "no bound" if value["in_advance"] is None else f"{value['in_advance']:.3f}"
    bar = "█" * filled + "░" * (_BAR - filled)
    rows = [
        f"privacy ledger of {opening.site}, per patient, over the site's lifetime",
        f"  ceiling     epsilon {opening.epsilon:g} at delta {opening.delta:.3g}: holds whatever happens",
        f"              (Rényi filter, order {opening.order:g})",
        f"  arithmetic  delta {value['numeric_delta']:.2g} charged of {opening.numeric_delta:.2g} set aside",
        f"  reserved    {bar} {percent(value['share'])} of the filter; epsilon {value['reserved']:.3f}{bound}",
        f"  in advance  epsilon {advance} if all of this had been fixed in advance (PRV, upper)",
        f"  left        {100 - math.ceil(100 * value['share'])}% of the filter",
    ]
    if len(moments := history(opening, entries)) > 1:
        rows.append(f"  history     {_sparks(moments)} {moments[0][0][:10]} … {moments[-1][0][:10]}")
    rows += [*_warnings(opening, value), _validation(value)]
    if value["runs"]:
        rows += _runs(value["runs"])
    rows += [f"  marked      {row['run']}: {row['concerns']} patients, {row['why']}: no bound" for row in value["marked"]]
    rows.append(f"  answers     {value['answers']}, of which {value['repeated']} charged beyond their run")
    rows.append(f"  head        {value['head']}  (write it down: a witness)")
    return rows + textwrap.wrap(NOT_COVERED, width=118, initial_indent="  ", subsequent_indent="  ")


def percent(share: float) -> str:
    """Of what is spent: rounded up."""
    return f"{math.ceil(100 * share)}%"


def _warnings(opening: Opening, value: dict[str, Any]) -> list[str]:
    rows = []
    if value["contradicted"]:
        rows.append("  STOPPED     somebody holds an answer that this ledger does not know: it is an older copy, or the site was cloned")
        rows.append("              nothing leaves any more; put the newest copy back, or fedrad-site ledger recover --assume-spent")
    if opening.earlier_epsilon:
        rows.append(f"  earlier     epsilon {opening.earlier_epsilon:g} of a lost ledger is assumed spent, on top of this one")
        rows.append(f"              and {opening.earlier_validation_epsilon:g} of the validation patients' line")
    if value["assumed_spent"]:
        rows.append("  spent       this ledger replaced a lost one and allows nothing more")
    return rows


def _validation(value: dict[str, Any]) -> str:
    line = value["validation"]
    extra = f"; {line['marked_runs']} run(s) released marked histograms: no bound" if line["marked_runs"] else ""
    return f"  validation  epsilon {line['reserved']:.3f} of {line['ceiling']:g}, patients never trained on{extra}"


def _runs(runs: list[dict[str, Any]]) -> list[str]:
    width = max(len(run["run"]) for run in runs)
    rows = [f"  {'run':<{width}} protocol    epsilon (PRV)  noise    rate    steps"]
    for run in runs:
        epsilon = "no bound" if run["epsilon"] is None else f"{run['epsilon']:.3f}"
        steps = f"{run['steps']}" + (f" + {run['steps_again']} again" if run["steps_again"] else "")
        drawn = f"{run['noise_multiplier']:<7g}  {run['sampling_rate']:<6.3g}  {steps}"
        rows.append(f"  {run['run']:<{width}} {run['protocol'][:10]}  {epsilon:>13}  {drawn}")
    return rows


def _sparks(moments: Sequence[Moment]) -> str:
    shown = moments[1:]
    if len(shown) > _SPARKS:  # the last of each group: the line never falls
        shown = [shown[(number + 1) * len(shown) // _SPARKS - 1] for number in range(_SPARKS)]
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(value * len(_LEVELS)))] for _, value in shown)


def _finite(epsilon: float) -> float | None:
    return None if math.isinf(epsilon) else rounded_up(epsilon)
