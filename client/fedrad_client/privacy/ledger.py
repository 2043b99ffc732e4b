"""Privacy spent so far, on disk, by event. Refuses before the ceiling is crossed.

Two lines are kept. *training*: update bytes, held by a Rényi filter at one order that is fixed when the ledger is opened (Feldman and
Zrnic 2021): the sum of every reserved step's divergence never exceeds the budget that the ceiling (epsilon, delta) leaves at that
order. *validation*: noised histograms of patients who are never trained on. A release without a bound is recorded as marked, and from
then on the ledger prints "no bound" beside its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedrad_common.chain import Chain, Clock, Entry, read, utc_now
from fedrad_common.errors import BudgetError, ChainError

if TYPE_CHECKING:
    from fedrad_client.privacy.plan import Plan
    from fedrad_common.protocol import TrainingProtocol
    from fedrad_common.records import Kind, Order

KIND = "ledger"


@dataclass(frozen=True)
class Opening:
    """What was fixed when the ledger was opened, for the site's lifetime."""

    site: str
    epsilon: float
    delta: float
    order: float  # of the Rényi filter
    budget: float  # Rényi divergence at that order that the ceiling allows
    validation_budget: float  # the same for the validation line, at the same order
    validation_epsilon: float
    validation_fraction: float


class Ledger:
    """One per site, over all cohorts, projects and coordinators (privacy.md, rule 1). Nothing is ever refunded."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.opening = opening_of(chain.entries[0])

    @classmethod
    def create(cls, path: Path, opening: Opening, *, clock: Clock = utc_now) -> Self:
        return cls(Chain.create(path, KIND, vars(opening), clock=clock))

    @classmethod
    def open(cls, path: Path, *, clock: Clock = utc_now) -> Self:
        return cls(Chain.open(path, KIND, clock=clock))

    def close(self) -> None:
        self.chain.close()

    @property
    def account(self) -> Account:
        return account_of(self.chain.entries)

    def run(self, run: str) -> dict[str, Any] | None:
        """What was reserved for a run at its first order; None before it."""
        return next((entry.body for entry in self.chain.entries if entry.type == "run" and entry.body["run"] == run), None)

    def generation_of(self, run: str) -> int | None:
        """The cohort generation that a run was pinned to at its first order; None before it."""
        begun = self.run(run)
        return None if begun is None else int(begun["generation"])

    def reserve_run(self, run: str, *, protocol: TrainingProtocol, plan: Plan, generation: int) -> None:
        """Reserve a whole run, at its first round, all of its steps and evaluations; an early end gives nothing back.

        Raises:
            BudgetError: the run does not fit below the ceiling; nothing was reserved.
        """
        cost = plan.step_cost * protocol.privacy.steps
        validation_cost = evaluation_cost(protocol, plan, self.opening.order)
        self._must_fit("training", cost, self.account.training, self.opening.budget)
        self._must_fit("validation", validation_cost, self.account.validation, self.opening.validation_budget)
        body = {
            "cost": cost,
            "epsilon": plan.epsilon,
            "generation": generation,
            "noise_multiplier": plan.noise_multiplier,
            "protocol": protocol.hash,
            "run": run,
            "sampling_rate": plan.sampling_rate,
            "steps": protocol.privacy.steps,
            "unbounded": plan.noise_multiplier == 0,
            "validation_cost": validation_cost,
            "validation_marked": plan.evaluation == "exact",
        }
        self.chain.append("run", body)

    def reserve_answer(self, order: Order, *, protocol: TrainingProtocol, plan: Plan) -> int:
        """Reserve one answer and return its sequence number. The first to a round is paid by the run; another one is paid anew.

        Raises:
            BudgetError: a second answer to the round does not fit below the ceiling.
        """
        begun = self.run(order.run)
        if begun is None or not covers(begun, protocol, plan):
            raise BudgetError("ledger: nothing was reserved for this run with this protocol and plan")
        again = any(e.type == "answer" and _same_round(e.body, order.run, order.round, order.kind) for e in self.chain.entries)
        cost = validation_cost = 0.0
        if again and order.kind == "train":
            cost = plan.step_cost * protocol.privacy.steps_per_round
            self._must_fit("training", cost, self.account.training, self.opening.budget)
        elif again:
            validation_cost = evaluation_cost(protocol, plan, self.opening.order) / len(protocol.evaluation.rounds)
            self._must_fit("validation", validation_cost, self.account.validation, self.opening.validation_budget)
        sequence = self.account.answers + 1
        body = {
            "cost": cost,
            "kind": order.kind,
            "question": order.question,
            "round": order.round,
            "run": order.run,
            "sequence": sequence,
            "validation_cost": validation_cost,
        }
        self.chain.append("answer", body)
        return sequence

    def _must_fit(self, line: str, cost: float, spent: float, budget: float) -> None:
        if spent + cost > budget:
            raise BudgetError(
                f"ledger: {line}: {cost:.4g} more Rényi divergence on top of {spent:.4g} would cross the budget of {budget:.4g}",
                hint=f"the ceiling epsilon {self.opening.epsilon:g} holds for the site's lifetime; ask for a protocol with less epsilon",
            )


def covers(begun: dict[str, Any], protocol: TrainingProtocol, plan: Plan) -> bool:
    """Whether a `run` entry paid for this protocol with these parameters: an id alone is the coordinator's to choose."""
    wanted = {
        "noise_multiplier": plan.noise_multiplier,
        "protocol": protocol.hash,
        "sampling_rate": plan.sampling_rate,
        "steps": protocol.privacy.steps,
        "unbounded": plan.noise_multiplier == 0,
        "validation_marked": plan.evaluation == "exact",
    }
    return all(begun[key] == value for key, value in wanted.items())


@dataclass(frozen=True)
class Account:
    """What all entries add up to. Rényi divergence at the ledger's order."""

    training: float
    validation: float
    answers: int
    runs: tuple[dict[str, Any], ...]  # the `run` entries, in order
    extra_answers: int  # answers that were paid beyond their run
    unbounded_runs: int
    marked_validation_runs: int


def account_of(entries: list[Entry]) -> Account:
    runs = tuple(entry.body for entry in entries if entry.type == "run")
    answers = [entry.body for entry in entries if entry.type == "answer"]
    return Account(
        training=math.fsum(body["cost"] for body in (*runs, *answers)),
        validation=math.fsum(body["validation_cost"] for body in (*runs, *answers)),
        answers=len(answers),
        runs=runs,
        extra_answers=sum(body["cost"] > 0 or body["validation_cost"] > 0 for body in answers),
        unbounded_runs=sum(body["unbounded"] for body in runs),
        marked_validation_runs=sum(body["validation_marked"] for body in runs),
    )


def opening_of(entry: Entry) -> Opening:
    try:
        return Opening(**{name: entry.body[name] for name in Opening.__dataclass_fields__})
    except KeyError as error:
        raise ChainError(f"ledger.chain: the opening lacks {error.args[0]}", hint="it was written by another version") from None


def read_ledger(path: Path) -> tuple[Opening, Account, str]:
    """Opening, account and head of a ledger, verified but not locked: for commands that only show it."""
    entries = read(path, KIND)
    return opening_of(entries[0]), account_of(entries), entries[-1].hash


def epsilon_at(divergence: float, *, order: float, delta: float) -> float:
    """The (epsilon, delta) that a Rényi divergence at `order` implies (Canonne, Kamath, Steinke 2020, proposition 12)."""
    if divergence == 0:
        return 0.0
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def evaluation_cost(protocol: TrainingProtocol, plan: Plan, order: float) -> float:
    """Rényi divergence of all evaluation rounds: order × L2 sensitivity² / (2 sigma²) each, for the discrete Gaussian too."""
    if plan.evaluation != "noised":
        return 0.0
    return len(protocol.evaluation.rounds) * order * len(protocol.task.labels) / (2 * plan.evaluation_noise**2)


def _same_round(body: dict[str, Any], run: str, round_number: int, kind: Kind) -> bool:
    return bool(body["run"] == run and body["round"] == round_number and body["kind"] == kind)
