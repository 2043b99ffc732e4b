"""The site's veto: what it accepts, checked before anything is spent. Unknown means no, and nothing sent can widen it."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from fedrad_client.config import ANY, Policy
from fedrad_client.grants import Grant
from fedrad_client.hours import within
from fedrad_client.privacy.account import UNKNOWN
from fedrad_client.privacy.plan import Plan
from fedrad_client.traffic import bytes_a_round
from fedrad_common.errors import Refusal, RefusalCode
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Order

# Every reason why an order is not answered: the code that leaves, and the sentence that stays.
REASONS: dict[str, tuple[RefusalCode, str]] = {
    "paused": ("paused", "this site is paused"),
    "hours": ("hours", "it is not the time at which this site answers"),
    "busy": ("busy", "another answer is being made"),
    "not-signed": ("policy", "the order is not signed by this site's coordinator"),
    "not-approved": ("policy", "the order's protocol was not approved here"),
    "run-not-named": ("policy", "the run must be approved by name, and nobody has done so"),
    "no-run-left": ("policy", "the approval was for fewer runs"),
    "other-model": ("policy", "the model's bytes are not those that the order names"),
    "stale-epoch": ("policy", "the order comes from an older epoch of the run"),
    "evidence": ("policy", "what came with the order does not prove that all sites are shown the same"),
    "not-in-roster": ("policy", "the run was launched without this site's key"),
    "two-models": ("policy", "the coordinator showed this site another model than it showed before, or shows others"),
    "back-in-time": ("policy", "the order builds on an older round than this site was shown"),
    "forgotten": ("policy", "an answer of this site is neither counted nor reported missing"),
    "invented": ("policy", "an answer is counted that this site's audit log does not know"),
    "other-initial": ("policy", "the first round's model is not the one whose lineage the protocol names"),
    "other-run": ("policy", "the run was begun here with another protocol or another plan"),
    "malformed-model": ("policy", "the model has another length than the protocol's network, or is not finite"),
    "tightened": ("policy", "the site's policy no longer accepts this protocol"),
    "no-such-round": ("policy", "the protocol has no such round, or no evaluation after it"),
    "no-evaluation": ("policy", "this site does not evaluate for this protocol"),
    "answered": ("policy", "this round was answered already, for another model"),
    "budget": ("budget", "the privacy ceiling would be crossed"),
    "disk": ("disk", "the disk is full"),
    "version": ("version", "the order or a file is of another version"),
    "contradicted": (
        "internal",
        "somebody holds an answer that this ledger does not know: an older copy, or a clone",
    ),
    "withdrawals-lost": ("internal", "the list of withdrawn patients is missing or shorter than it was"),
    "weights-lost": ("internal", "the public weights that the protocol builds on are gone from here, changed, or cannot be read"),
    "unconfined": ("internal", "this machine cannot shut in the process that works, as site.toml requires; nothing was computed"),
    "work-failed": ("internal", "the work failed; nothing left the site"),
}

# What the hospital's own people can do about it, where there is something.
REMEDIES: dict[str, str] = {
    "paused": "fedrad-site resume",
    "not-approved": "look at the protocol with fedrad-site preview, and fedrad-site approve it if you agree",
    "run-not-named": "fedrad-site approve PROTOCOL --run NAME",
    "no-run-left": "fedrad-site approve PROTOCOL once more, if you agree to another run",
    "tightened": "widen site.toml, or tell the coordinator that you do not take part",
    "budget": "fedrad-site ledger shows what is left; what is spent stays spent",
    "disk": "free space",
    "contradicted": "fedrad-site ledger verify; docs/deployment.md, when the ledger is lost",
    "withdrawals-lost": "restore cohort/withdrawn.jsonl from the backup",
    "weights-lost": "fedrad-site weights PROTOCOL FILE",
    "unconfined": "fedrad-site doctor names what forbids it",
}


def refuse(reason: str) -> NoReturn:
    code, sentence = REASONS[reason]
    raise Refusal(code, sentence, hint=reason)


@dataclass(frozen=True)
class Judged:
    """All that an order is judged by, besides its bytes."""

    order: Order
    protocol: TrainingProtocol
    plan: Plan
    policy: Policy
    tainted: Collection[str]
    now: datetime
    grant: Grant


def check_order(
    order: Order, protocol: TrainingProtocol, plan: Plan, policy: Policy, *, tainted: Collection[str], now: datetime, grant: Grant
) -> None:  # fmt: skip
    """Refuse an order that the approval does not cover, or that the policy, as it is now, would not approve.

    Args:
        tainted: hashes of the protocols that were trained without privacy here.
        now: by this machine's clock, in local time.
        grant: for which runs the protocol was approved.
    """
    judged = Judged(order, protocol, plan, policy, tainted, now, grant)
    for find in ORDER_LIMITS.values():
        if reason := find(judged):
            refuse(reason)


def _run_reason(judged: Judged) -> str | None:
    return judged.grant.why_not(judged.order.run, by_name=judged.policy.approval == "run")


def _tightened(judged: Judged) -> str | None:
    found = any(refusals(judged.protocol, judged.policy, judged.plan.n_parameters, tainted=judged.tainted))
    return "tightened" if found or any(plan_refusals(judged.protocol, judged.plan, judged.policy)) else None


def _round_reason(judged: Judged) -> str | None:
    protocol, order = judged.protocol, judged.order
    known = range(1, protocol.privacy.rounds + 1) if order.kind == "train" else protocol.evaluation.rounds
    return None if order.round in known else "no-such-round"


def _initial_reason(judged: Judged) -> str | None:
    order, wanted = judged.order, judged.protocol.model.initial.model
    return "other-initial" if order.round == 1 and order.kind == "train" and wanted not in (None, order.model) else None


def _evaluation_reason(judged: Judged) -> str | None:
    none = "none" in (judged.plan.evaluation, judged.policy.metrics)
    return "no-evaluation" if judged.order.kind == "evaluate" and none else None


# In this order: what is found first is what the audit log says, and only its code leaves.
ORDER_LIMITS: dict[str, Callable[[Judged], str | None]] = {
    "hours": lambda judged: None if within(judged.policy.hours, judged.now) else "hours",
    "approval": _run_reason,
    "policy": _tightened,
    "round": _round_reason,
    "initial": _initial_reason,
    "metrics": _evaluation_reason,
}


def refusals(protocol: TrainingProtocol, policy: Policy, n_parameters: int, *, tainted: Collection[str] = ()) -> Iterator[str]:
    """Every field of a protocol that this policy does not accept, in words."""
    if protocol.privacy.epsilon is not None and _is_tainted(protocol, tainted):
        yield "model.initial: weights that were trained without privacy: no private run may start from them, whatever the policy says"
    for key, find in LIMITS.items():
        if found := find(protocol, policy, n_parameters):
            what, allowed = found
            yield f"{what} is not accepted here: policy.{key} allows {allowed}"


def plan_refusals(protocol: TrainingProtocol, plan: Plan, policy: Policy) -> Iterator[str]:
    """The same for what this site computed for a protocol: it was fixed at approval, and the policy may have been tightened since."""
    for key, find in PLAN_LIMITS.items():
        if found := find(protocol, plan, policy):
            what, allowed = found
            yield f"{what} is not accepted here: policy.{key} allows {allowed}"


Found = tuple[str, str] | None  # what is not accepted, and what would be


def _beyond(what: str, asked: float, most: float) -> Found:
    return (what, f"{most:.12g}") if asked > most else None


def _unlisted(what: str, asked: str, listed: Collection[str]) -> Found:
    return None if asked in listed or ANY in listed else (f"{what} {asked!r}", ", ".join(listed) or "none")


def _bytes(asked: int, most: int) -> Found:
    return _beyond(f"{asked} bytes a round", asked, most)


def _epsilon(asked: float | None, most: float) -> Found:
    return _beyond(f"epsilon {asked}", asked, most) if asked is not None else None


def _metrics(protocol: TrainingProtocol, policy: Policy) -> Found:
    exact = bool(protocol.evaluation.rounds) and protocol.evaluation.release == "exact"
    return ("an exact evaluation", policy.metrics) if exact and policy.metrics != "exact" else None


def _unbounded(protocol: TrainingProtocol, policy: Policy) -> Found:
    return ("a run without privacy", "runs with epsilon only") if protocol.privacy.epsilon is None and not policy.unbounded else None


# Each limit by the key of the policy that sets it: what a protocol asks for, compared with what the hospital wrote.
LIMITS: dict[str, Callable[[TrainingProtocol, Policy, int], Found]] = {
    "tasks": lambda protocol, policy, n: _unlisted("task", protocol.task.kind, policy.tasks),
    "models": lambda protocol, policy, n: _unlisted("model", protocol.model.name, policy.models),
    "strategies": lambda protocol, policy, n: _unlisted("aggregation", protocol.aggregation.strategy, policy.strategies),
    "initial": lambda protocol, policy, n: _unlisted("a start of kind", protocol.model.initial.kind, policy.initial),
    "max_parameters": lambda protocol, policy, n: _beyond(f"{n} parameters", n, policy.max_parameters),
    "max_rounds": lambda protocol, policy, n: _beyond(f"{protocol.privacy.rounds} rounds", protocol.privacy.rounds, policy.max_rounds),
    "max_bytes_per_round": lambda protocol, policy, n: _bytes(bytes_a_round(protocol, n).largest, policy.max_bytes_per_round),
    "max_epsilon_per_run": lambda protocol, policy, n: _epsilon(protocol.privacy.epsilon, policy.max_epsilon_per_run),
    "metrics": lambda protocol, policy, n: _metrics(protocol, policy),
    "unbounded": lambda protocol, policy, n: _unbounded(protocol, policy),
}  # fmt: skip


def _noise(protocol: TrainingProtocol, plan: Plan, policy: Policy) -> Found:
    short = protocol.privacy.unit == "patient" and plan.noise_multiplier < policy.min_noise_multiplier
    return (f"a noise multiplier of {plan.noise_multiplier:g}", f"{policy.min_noise_multiplier:g} at least") if short else None


def _size(plan: Plan, policy: Policy) -> Found:
    other = policy.declared_size not in (0, plan.declared_size)
    return (f"a declared size of {plan.declared_size}", f"{policy.declared_size} only") if other else None


def _whole(plan: Plan, policy: Policy) -> Found:
    """What is not trained is computed with all the same."""
    return _beyond(f"{plan.n_whole} weights of the whole network", plan.n_whole or 0, policy.max_parameters)


PLAN_LIMITS: dict[str, Callable[[TrainingProtocol, Plan, Policy], Found]] = {
    "min_noise_multiplier": _noise,
    "declared_size": lambda protocol, plan, policy: _size(plan, policy),
    "max_parameters": lambda protocol, plan, policy: _whole(plan, policy),
}


def _is_tainted(protocol: TrainingProtocol, tainted: Collection[str]) -> bool:
    """By what the protocol says of the lineage, or, should that be a lie, by what this site's own ledger knows of it."""
    initial = protocol.model.initial
    unknown = UNKNOWN in tainted and initial.kind != "random"  # "public" is what the coordinator says
    return unknown or initial.unit == "none" or initial.protocol in tainted
