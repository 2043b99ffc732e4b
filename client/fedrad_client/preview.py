"""A preview in words: everything that would leave the site, and what it would cost, for the person who approves."""

import textwrap
from typing import Any

from fedrad_client.approval import Preview
from fedrad_client.privacy.overview import NOT_COVERED


def facts(seen: Preview) -> dict[str, Any]:
    plan = seen.plan
    return {
        "protocol": seen.protocol.name,
        "hash": seen.protocol.hash,
        "rounds": seen.protocol.privacy.rounds,
        "leaves": {
            "update": {"dtype": "float32", "shape": [seen.n_parameters], "bytes": seen.bytes_a_round},
            "histogram": {
                "release": plan.evaluation,
                "shape": [len(seen.protocol.task.labels), 2, seen.protocol.evaluation.bins],
                "bytes": seen.evaluation_bytes,
                "rounds": list(seen.protocol.evaluation.rounds),
            },
            "envelope": [
                "site", "run", "epoch", "round", "kind", "sequence", "protocol", "model", "dtype", "length", "payload",
                "declared_size", "privacy", "ledger",
            ],
            "slot_seconds": seen.protocol.rounds.slot_seconds,
        },
        "declared_size": plan.declared_size,
        "sampling_rate": plan.sampling_rate,
        "noise_multiplier": plan.noise_multiplier,
        "delta": plan.delta,
        "epsilon_of_run": plan.epsilon,
        "epsilon_before": seen.epsilon_before,
        "epsilon_after": seen.epsilon_after,
        "ceiling": seen.ceiling,
        "obstacles": list(seen.obstacles),
        "warnings": list(seen.warnings),
    }  # fmt: skip


def lines(seen: Preview) -> list[str]:
    protocol, plan = seen.protocol, seen.plan
    run = "no bound" if plan.epsilon is None else f"epsilon {plan.epsilon:g} (PRV, upper)"
    after = "no bound" if seen.epsilon_after is None else f"{seen.epsilon_after:.3f}"
    shown = {"noised": "noised", "exact": "exact: marked, no bound", "none": "not evaluated here"}[plan.evaluation]
    rows = [
        f"protocol {protocol.name}: {protocol.title or 'no title'}",
        f"  hash          {protocol.hash}",
        f"  learns        {', '.join(protocol.task.labels)} ({protocol.task.kind}, {protocol.model.name})",
        f"  rounds        {protocol.privacy.rounds} of {protocol.privacy.steps_per_round} steps",
        "what would leave",
        f"  each round    1 vector of {seen.n_parameters} float32 ({seen.bytes_a_round} bytes): the noisy difference to the model",
    ]
    if seen.evaluation_bytes:
        rounds = ", ".join(map(str, protocol.evaluation.rounds))
        rows.append(f"  after rounds  {rounds}: 1 histogram of validation scores ({seen.evaluation_bytes} bytes; {shown})")
    else:
        rows.append("  metrics       none")
    rows += [
        "  with it       name, declared size, sampling rate, noise, delta, sequence, hashes of model, protocol and ledger; signed",
        f"  when          {_when(protocol.rounds.slot_seconds)}",
        "  nothing else  no image, no count, no date, no loss, no gradient norm",
        "what it would cost",
        f"  a run of it   {run} at delta {plan.delta:.3g}; an approval holds for each run that is begun, until it is taken back",
        f"  by            sampling rate {plan.sampling_rate:.4g}, noise multiplier {plan.noise_multiplier:g}",
        f"  lifetime      {seen.epsilon_before:.3f} before, {after} after; ceiling {seen.ceiling:g} (Rényi filter, holds whatever happens)",
    ]
    rows += textwrap.wrap(NOT_COVERED, width=118, initial_indent="  ", subsequent_indent="  ")
    rows += [f"  cannot be approved: {obstacle}" for obstacle in seen.obstacles]
    return rows + [f"  warning: {warning}" for warning in seen.warnings]


def _when(slot: float) -> str:
    if slot == 0:
        return "as soon as it is made: how long this site worked is not hidden (the protocol names no time slot)"
    return f"replies leave at multiples of {slot:g} s after the order came; work that takes longer shows in how many"
