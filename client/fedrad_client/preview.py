"""A preview in words: everything that would leave the site, and what it would cost, for the person who approves."""

import textwrap
from collections.abc import Iterator
from typing import Any

from fedrad_client.approval import Preview
from fedrad_client.privacy.overview import NOT_COVERED
from fedrad_common.errors import REFUSAL_CODES
from fedrad_common.protocol import Lineage
from fedrad_common.records import Envelope, dtype_of

# Every field of the envelope that this approval does not fix, and what will stand there.
MEANING = {
    "format": "the version of this record",
    "site": "this site's name",
    "run": "the run's id, as the coordinator signed it",
    "epoch": "how often the run's server had been started",
    "round": "the round that is answered",
    "kind": "train or evaluate",
    "sequence": "how many answers this site has made, over all runs",
    "protocol": "hash of the protocol",
    "model": "hash of the model that the answer is to",
    "manifest": "hash of the coordinator's record that the order builds on",
    "dtype": "of the vector's numbers",
    "length": "how many numbers the vector has",
    "payload": "hash of the vector",
    "declared_size": "the number of patients that you typed",
    "privacy": "noise multiplier, sampling rate, steps and delta: constants of the plan; and whether the release is marked",
    "ledger": "head of this site's privacy ledger: a hash",
    "audit": "head of this site's audit log: a hash, with random bytes in every entry, so that nothing can be guessed from it",
}


def facts(seen: Preview) -> dict[str, Any]:
    plan, traffic = seen.plan, seen.traffic
    return {
        "protocol": seen.protocol.name,
        "hash": seen.protocol.hash,
        "rounds": seen.protocol.privacy.rounds,
        "leaves": {
            "update": {
                "name": "vector",
                "dtype": dtype_of("train", seen.protocol),
                "shape": [seen.n_parameters],
                "bytes": traffic.update_out,
            },
            "histogram": {
                "name": "vector",
                "release": plan.evaluation,
                "dtype": dtype_of("evaluate", seen.protocol),
                "shape": [len(seen.protocol.task.labels), 2, seen.protocol.evaluation.bins],
                "bytes": traffic.histogram_out,
                "rounds": list(seen.protocol.evaluation.rounds),
            },
            "envelope": envelope(seen),
            "refusals": list(REFUSAL_CODES),
            "slot_seconds": seen.protocol.rounds.slot_seconds,
        },
        "traffic": {
            "model_in": traffic.model_in,
            "update_out": traffic.update_out,
            "largest_round": traffic.largest,
            "whole_run": traffic.whole_run,
        },
        "initial": seen.protocol.model.initial.model_dump(mode="json", exclude_none=True),
        "trains": seen.protocol.model.trains,
        "rank": seen.protocol.model.rank,
        "n_weights": plan.n_whole or seen.n_parameters,
        "holds_weights": seen.holds_weights,
        "declared_size": plan.declared_size,
        "sampling_rate": plan.sampling_rate,
        "noise_multiplier": plan.noise_multiplier,
        "delta": plan.delta,
        "approval": {
            "runs": seen.approval.runs,
            "named": list(seen.approval.named),
            "begun": list(seen.grant.begun),
            "left": seen.grant.left,
        },
        "epsilon_of_run": plan.epsilon,
        "epsilon_before": seen.epsilon_before,
        "epsilon_after_one": seen.epsilon_after_one,
        "epsilon_after": seen.epsilon_after,
        "ceiling": seen.ceiling,
        "compared_with": None if seen.changes is None else seen.changes.before,
        "changes": [] if seen.changes is None else list(seen.changes.lines),
        "obstacles": list(seen.obstacles),
        "warnings": list(seen.warnings),
    }


def envelope(seen: Preview) -> dict[str, str]:
    """Every field of the signed record beside the vector: its value where that is known now, else what will stand there."""
    plan, protocol = seen.plan, seen.protocol
    fixed = {
        "format": str(Envelope.model_fields["format"].default),
        "protocol": protocol.hash,
        "dtype": f"{dtype_of('train', protocol)}; of a histogram {dtype_of('evaluate', protocol)}",
        "length": f"{seen.n_parameters}; of a histogram {len(protocol.task.labels) * 2 * protocol.evaluation.bins}",
        "declared_size": f"{plan.declared_size}",
        "privacy": f"noise multiplier {plan.noise_multiplier:g}, sampling rate {plan.sampling_rate:.4g}, "
        f"{protocol.privacy.steps_per_round} steps, delta {plan.delta:.3g}{_marked(seen)}; of a histogram, its own noise",
    }
    return {name: fixed.get(name, MEANING[name]) for name in Envelope.model_fields if name != "format"}


def lines(seen: Preview) -> list[str]:
    protocol, plan, traffic = seen.protocol, seen.plan, seen.traffic
    rows = [
        f"protocol {protocol.name}: {protocol.title or 'no title'}",
        f"  hash          {protocol.hash}",
        f"  learns        {', '.join(protocol.task.labels)} ({protocol.task.kind}, {protocol.model.name})",
        f"  starts from   {_start(protocol.model.initial, held=seen.holds_weights)}",
        *_part(seen),
        f"  rounds        {protocol.privacy.rounds} of {protocol.privacy.steps_per_round} steps",
        *changed(seen),
        "what would leave",
        _update(seen),
        _metrics(seen),
        *(f"  {'with it' if number == 0 else '':<14}{name}: {text}" for number, (name, text) in enumerate(envelope(seen).items())),
        f"  or else       one word: {', '.join(REFUSAL_CODES)}",
        f"  when          {_when(protocol.rounds.slot_seconds)}",
        "  nothing else  no image, no count, no date, no loss, no gradient norm",
        f"what would come: each round 1 model ({traffic.model_in} bytes), and what proves that all sites got the same",
        f"  both ways     {traffic.largest} bytes in the largest round, {traffic.whole_run} in a run",
        "what it would cost",
        *_costs(seen),
        f"  by            sampling rate {plan.sampling_rate:.4g}, noise multiplier {plan.noise_multiplier:g}",
    ]
    rows += textwrap.wrap(NOT_COVERED, width=118, initial_indent="  ", subsequent_indent="  ")
    rows += [f"  cannot be approved: {obstacle}" for obstacle in seen.obstacles]
    return rows + [f"  warning: {warning}" for warning in seen.warnings]


def _part(seen: Preview) -> list[str]:
    """Nothing where all of the network is trained."""
    model = seen.protocol.model
    if model.trains == "all":
        return []
    detours = f"detours of {model.rank} channels"
    beside = {"head": "", "lora": f", and {detours}", "lora-up": f", and the second halves of {detours}"}[model.trains]
    return [
        f"  trains        its last layer{beside}; all else stays as it is: what is sent holds nothing of it",
        f"                {seen.n_parameters} numbers beside a network of {seen.plan.n_whole} weights",
    ]


def _start(initial: Lineage, *, held: bool) -> str:
    if initial.kind == "random":
        return "random weights, which this site makes again and compares"
    if initial.kind == "run":
        return f"what a run of protocol {str(initial.protocol)[:16]} released (its unit: {initial.unit})"
    rest = f"; {initial.fresh} at random" if initial.fresh else ""
    who = "read from this site's own file; of" if held else "says the coordinator:"
    return f"public weights, {who} {initial.source} (SHA-256 {str(initial.weights)[:16]}…{rest})"


def changed(seen: Preview) -> list[str]:
    """What is different from the last approved protocol of this name; nothing where there is none."""
    if seen.changes is None:
        return []
    rows = [f"changed since {seen.changes.before[:16]}, the last protocol of this name that was approved here"]
    return rows + [f"  {line}" for line in seen.changes.lines]


def approved_for(seen: Preview) -> str:
    """The runs that the yes would hold for, those approved before among them."""
    count = seen.approval.runs
    some = [f"{count} {'run' if count == 1 else 'runs'} in all"] if count else []
    return ", ".join((*some, *(f"the run {name}" for name in seen.approval.named)))


def _update(seen: Preview) -> str:
    size = f"{seen.n_parameters} {dtype_of('train', seen.protocol)} ({seen.traffic.update_out} bytes)"
    return f"  each round    1 vector of {size}: the noisy difference to the model"


def _costs(seen: Preview) -> Iterator[str]:
    plan, runs = seen.plan, seen.runs
    each = "no bound" if plan.epsilon is None else f"epsilon {plan.epsilon:g} (PRV, upper)"
    begun = f"; {seen.grant.used} of them begun" if seen.grant.used else ""
    yield f"  a run of it   {each} at delta {plan.delta:.3g}"
    yield f"  approval for  {approved_for(seen)}{begun}"
    yield (
        f"  lifetime      {seen.epsilon_before:.3f} before, {_bound(seen.epsilon_after_one)} after; ceiling {seen.ceiling:g} "
        "(Rényi filter, holds whatever happens)"
    )
    if runs > 1:
        yield f"                {_bound(seen.epsilon_after)} after all {runs} runs that may still begin"


def _bound(epsilon: float | None) -> str:
    return "no bound" if epsilon is None else f"{epsilon:.3f}"


def _marked(seen: Preview) -> str:
    return ", marked: no bound" if seen.plan.noise_multiplier == 0 else ""


def _metrics(seen: Preview) -> str:
    evaluation = seen.protocol.evaluation
    if not seen.evaluation_bytes:
        return "  metrics       none"
    shown = {"noised": "noised", "exact": "exact: marked, no bound"}[seen.plan.evaluation]
    shape = f"{len(seen.protocol.task.labels)} × 2 × {evaluation.bins} {dtype_of('evaluate', seen.protocol)}"
    rounds = ", ".join(map(str, evaluation.rounds))
    return f"  after rounds  {rounds}: 1 histogram of validation scores ({shape}, {seen.evaluation_bytes} bytes; {shown})"


def _when(slot: float) -> str:
    if slot == 0:
        return "as soon as it is made: how long this site worked is not hidden (the protocol names no time slot)"
    return f"replies leave at multiples of {slot:g} s after the order came; work that takes longer shows in how many"
