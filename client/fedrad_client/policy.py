"""The site's veto: what it accepts, checked before anything is spent. Unknown means no, and nothing sent can widen it."""

from collections.abc import Collection, Iterator
from typing import NoReturn

from fedrad_client.config import Policy
from fedrad_client.privacy.account import UNKNOWN
from fedrad_client.privacy.plan import Plan
from fedrad_common.errors import Refusal, RefusalCode
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Order

# Every reason why an order is not answered: the code that leaves, and the sentence that stays.
REASONS: dict[str, tuple[RefusalCode, str]] = {
    "paused": ("paused", "this site is paused"),
    "busy": ("busy", "another answer is being made"),
    "not-signed": ("policy", "the order is not signed by this site's coordinator"),
    "not-approved": ("policy", "the order's protocol was not approved here"),
    "other-model": ("policy", "the model's bytes are not those that the order names"),
    "stale-epoch": ("policy", "the order comes from an older epoch of the run"),
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
    "work-failed": ("internal", "the work failed; nothing left the site"),
}


def refuse(reason: str) -> NoReturn:
    code, sentence = REASONS[reason]
    raise Refusal(code, sentence, hint=reason)


def check_order(order: Order, protocol: TrainingProtocol, plan: Plan, policy: Policy, *, tainted: Collection[str]) -> None:
    """Refuse an order that the approved protocol does not contain, or that the policy, as it is now, would not approve.

    Args:
        tainted: hashes of the protocols that were trained without privacy here.
    """
    private = protocol.privacy.unit == "patient"
    if any(refusals(protocol, policy, plan.n_parameters, tainted=tainted)) or (
        private and plan.noise_multiplier < policy.min_noise_multiplier
    ):
        refuse("tightened")
    if order.round > protocol.privacy.rounds:
        refuse("no-such-round")
    if order.round == 1 and order.kind == "train" and protocol.model.initial.model not in (None, order.model):
        refuse("other-initial")
    if order.kind == "evaluate":
        if order.round not in protocol.evaluation.rounds:
            refuse("no-such-round")
        if plan.evaluation == "none":
            refuse("no-evaluation")


def refusals(protocol: TrainingProtocol, policy: Policy, n_parameters: int, *, tainted: Collection[str] = ()) -> Iterator[str]:
    """Every field of a protocol that this policy does not accept, in words."""
    asked = protocol.privacy.epsilon
    if asked is not None and _is_tainted(protocol, tainted):
        yield "model.initial: weights that were trained without privacy: no private run may start from them, whatever the policy says"
    limits = (
        (protocol.task.kind in policy.tasks, f"task {protocol.task.kind!r}", "tasks", ", ".join(policy.tasks)),
        (not policy.models or protocol.model.name in policy.models, f"model {protocol.model.name!r}", "models", ", ".join(policy.models)),
        (n_parameters <= policy.max_parameters, f"{n_parameters} parameters", "max_parameters", str(policy.max_parameters)),
        (asked is not None or policy.unbounded, "a run without privacy", "unbounded", "runs with epsilon only"),
        (
            asked is None or asked <= policy.max_epsilon_per_run,
            f"epsilon {asked}",
            "max_epsilon_per_run",
            f"{policy.max_epsilon_per_run:g}",
        ),
        (_metrics_are_accepted(protocol, policy), "exact metrics", "exact_metrics", "noised ones only"),
    )
    for accepted, what, key, limit in limits:
        if not accepted:
            yield f"{what} is not accepted here: policy.{key} allows {limit}"


def _is_tainted(protocol: TrainingProtocol, tainted: Collection[str]) -> bool:
    """By what the protocol says of the lineage, or, should that be a lie, by what this site's own ledger knows of it."""
    initial = protocol.model.initial
    unknown = UNKNOWN in tainted and initial.kind == "run"
    return unknown or initial.unit == "none" or initial.protocol in tainted


def _metrics_are_accepted(protocol: TrainingProtocol, policy: Policy) -> bool:
    return policy.exact_metrics or not (protocol.evaluation.rounds and protocol.evaluation.release == "exact")
