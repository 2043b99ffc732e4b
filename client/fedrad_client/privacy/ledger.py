"""Privacy spent so far, on disk, by event. Refuses before the ceiling is crossed.

Two lines are kept. *training*: update bytes, held by a Rényi filter at one order that is fixed when the ledger is opened (Feldman and
Zrnic 2021): the sum of every reserved step's divergence never exceeds the budget that the ceiling (epsilon, delta) leaves at that
order. *validation*: noised histograms of patients who are never trained on. A release without a bound is recorded as marked, and from
then on the ledger prints "no bound" beside its number.

Entries: `open` · `run` a whole run, reserved at its first order · `answer` one answer, paid by its run or charged anew · `assumed` an
earlier ledger was lost · `contradicted` a witness holds an answer that is not here · `clock` a person accepted the clock.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedrad_client.privacy.account import Account, Opening, account_of, opening_of
from fedrad_common.chain import Chain, Clock, Entry, read, utc_now
from fedrad_common.errors import BudgetError, ChainError, ConfigError

if TYPE_CHECKING:
    from fedrad_client.config import Budget
    from fedrad_client.privacy.plan import Plan
    from fedrad_common.protocol import TrainingProtocol
    from fedrad_common.records import Kind, Order

KIND = "ledger"


class Ledger:
    """One per site, over all cohorts, projects and coordinators (privacy.md, rule 1). Nothing is ever refunded."""

    def __init__(self, chain: Chain, opening: Opening | None = None) -> None:
        """opening: the ceiling in force, where the site's settings have tightened it since."""
        self.chain = chain
        self.opening = opening or opening_of(chain.entries[0])
        self.account = Account()
        self._answered: set[tuple[str, int, Kind]] = set()
        for entry in chain.entries:
            self._count(entry)

    @classmethod
    def create(cls, path: Path, opening: Opening, *, clock: Clock = utc_now) -> Self:
        return cls(Chain.create(path, KIND, vars(opening), clock=clock))

    @classmethod
    def open(cls, path: Path, *, identity: str | None = None, budget: Budget | None = None, clock: Clock = utc_now) -> Self:
        """Lock and verify.

        Args:
            identity: whose ledger it must be.
            budget: the site's settings, which may have been tightened since.

        Raises:
            ChainError: damaged, shortened, or another identity's. ConfigError: the settings are looser than the ledger.
            BusyError: another process has it open.
        """
        chain = Chain.open(path, KIND, clock=clock)
        try:
            opening = opening_of(chain.entries[0])
            if identity is not None and opening.identity != identity:
                raise ChainError(
                    "ledger.chain: belongs to another site identity than keys/envelope.key",
                    hint="put this site's own ledger and key back; if one is lost: fedrad-site ledger recover --assume-spent",
                )
            return cls(chain, in_force(opening, budget) if budget else opening)
        except BaseException:
            chain.close()
            raise

    def close(self) -> None:
        self.chain.close()

    def run(self, run: str) -> dict[str, Any] | None:
        """What was reserved for a run at its first order; None before it."""
        return next((body for body in self.account.runs if body["run"] == run), None)

    def generation_of(self, run: str) -> int | None:
        """The cohort generation that a run was pinned to at its first order; None before it."""
        begun = self.run(run)
        return None if begun is None else int(begun["generation"])

    @property
    def tainted(self) -> frozenset[str]:
        """Hashes of the protocols that were trained without privacy here, under this ledger or a lost one."""
        return self.account.tainted.union(self.opening.earlier_unbounded)

    def knows(self, head: str) -> bool:
        """Whether `head` was this ledger's head at some time."""
        return any(entry.hash == head for entry in self.chain.entries)

    def contradict(self, *, run: str, round: int, sequence: int, head: str) -> None:  # noqa: A002 - the protocol's word
        """Write down that a witness holds an answer which is not here: from now on nothing is reserved, until a person recovers."""
        self._append("contradicted", {"run": run, "round": round, "sequence": sequence, "head": head})

    def reserve_run(self, run: str, *, protocol: TrainingProtocol, plan: Plan, generation: int) -> None:
        """Reserve a whole run, at its first round, all of its steps and evaluations; an early end gives nothing back.

        Raises:
            BudgetError: the run does not fit below the ceiling; nothing was reserved.
        """
        charge = {
            **training_charge(self.opening, plan, protocol.privacy.steps),
            "validation_cost": evaluation_cost(protocol, plan, self.opening.order),
        }
        self._must_fit(**charge)
        body = {
            **charge,
            "declared_size": plan.declared_size,
            "epsilon": plan.epsilon,
            "evaluation": plan.evaluation,
            "evaluation_noise": plan.evaluation_noise,
            "evaluations": len(protocol.evaluation.rounds) if plan.evaluation != "none" else 0,
            "generation": generation,
            "noise_multiplier": plan.noise_multiplier,
            "protocol": protocol.hash,
            "run": run,
            "sampling_rate": plan.sampling_rate,
            "steps": protocol.privacy.steps,
            "unbounded": plan.noise_multiplier == 0,
            "validation_marked": plan.evaluation == "exact" or (plan.noise_multiplier == 0 and plan.evaluation != "none"),
        }
        self._append("run", body)

    def reserve_answer(self, order: Order, *, protocol: TrainingProtocol, plan: Plan, commitment: str) -> int:
        """Reserve one answer and return its sequence number. The first to a round is paid by the run; another one is paid anew.

        Args:
            commitment: hash of the fresh bytes that the answer's randomness comes from: no two reservations are alike, so that a
                clone's ledger has another head.

        Raises:
            BudgetError: a second answer to the round does not fit below the ceiling.
        """
        begun = self.run(order.run)
        if begun is None or not covers(begun, protocol, plan):
            raise BudgetError("ledger: nothing was reserved for this run with this protocol and plan")
        again = (order.run, order.round, order.kind) in self._answered
        steps = protocol.privacy.steps_per_round if again and order.kind == "train" else 0
        validation_cost = 0.0
        if again and order.kind == "evaluate":
            validation_cost = evaluation_cost(protocol, plan, self.opening.order) / len(protocol.evaluation.rounds)
        charge = {**training_charge(self.opening, plan, steps), "validation_cost": validation_cost}
        if again:
            self._must_fit(**charge)
        sequence = self.account.answers + 1
        body = {
            **charge,
            "commitment": commitment,
            "kind": order.kind,
            "question": order.question,
            "round": order.round,
            "run": order.run,
            "sequence": sequence,
            "steps": steps,
        }
        self._append("answer", body)
        return sequence

    def _append(self, type: str, body: dict[str, Any]) -> None:  # noqa: A002 - the entry's word
        self._count(self.chain.append(type, body))

    def _count(self, entry: Entry) -> None:
        self.account = self.account.plus(entry)
        if entry.type == "answer":
            self._answered.add((entry.body["run"], entry.body["round"], entry.body["kind"]))

    def _must_fit(self, *, cost: float, validation_cost: float, numeric_delta: float) -> None:
        if self.account.contradicted:
            raise BudgetError("ledger: a witness holds an answer that is not here", hint="fedrad-site ledger verify says what to do")
        crossed = what_crosses(self.opening, self.account, cost=cost, validation_cost=validation_cost, numeric_delta=numeric_delta)
        if crossed:
            raise BudgetError(f"ledger: {crossed}", hint="a ceiling holds for the site's lifetime; ask for a protocol with less epsilon")


def what_crosses(opening: Opening, account: Account, *, cost: float, validation_cost: float, numeric_delta: float) -> str | None:
    """Which ceiling a charge would cross, in words; None where it fits. What costs nothing always fits."""
    lines = (
        (f"epsilon {opening.epsilon:g} of training patients", "Rényi divergence", cost, account.training, opening.budget),
        (
            f"epsilon {opening.validation_epsilon:g} of validation patients",
            "Rényi divergence",
            validation_cost,
            account.validation,
            opening.validation_budget,
        ),
        ("the delta set aside for arithmetic", "delta", numeric_delta, account.numeric_delta, opening.numeric_delta),
    )
    for ceiling, what, more, spent, budget in lines:
        if more > 0 and spent + more > budget:
            return f"{ceiling}: {more:.4g} more {what} on top of {spent:.4g} would cross the budget of {budget:.4g}"
    return None


def covers(begun: dict[str, Any], protocol: TrainingProtocol, plan: Plan) -> bool:
    """Whether a `run` entry paid for this protocol with these parameters: an id alone is the coordinator's to choose."""
    wanted = {
        "declared_size": plan.declared_size,
        "evaluation": plan.evaluation,
        "evaluation_noise": plan.evaluation_noise,
        "noise_multiplier": plan.noise_multiplier,
        "protocol": protocol.hash,
        "sampling_rate": plan.sampling_rate,
        "steps": protocol.privacy.steps,
        "unbounded": plan.noise_multiplier == 0,
    }
    return all(begun[key] == value for key, value in wanted.items())


def in_force(opening: Opening, budget: Budget) -> Opening:
    """The ceiling that holds now: the ledger's, or a lower one that the hospital has typed since.

    Raises:
        ConfigError: the settings ask for more than the ledger was opened with.
    """
    from fedrad_common.accounting import filter_budget

    loose = [(key, getattr(budget, key), getattr(opening, key), "or lower") for key in ("epsilon", "validation_epsilon")]
    fixed = [(key, getattr(budget, key), getattr(opening, key), "again") for key in ("delta", "validation_fraction")]
    changed = [row for row in loose if row[1] > row[2]] + [row for row in fixed if row[1] != row[2]]
    for key, typed, held, how in changed:
        absent = "" if key in budget.model_fields_set else " (the line is missing)"
        raise ConfigError(
            f"site.toml: privacy.{key}: {typed:g}{absent}, this site's ledger was opened with {held:g}",
            hint=f"it is for the site's lifetime: set {held:g} {how}; nothing was spent or sent",
        )
    if (budget.epsilon, budget.validation_epsilon) == (opening.epsilon, opening.validation_epsilon):
        return opening
    return replace(
        opening,
        opened_with=opening.highest_epsilon,
        epsilon=budget.epsilon,
        budget=min(opening.budget, filter_budget(budget.epsilon, opening.filter_delta, opening.order)),
        validation_epsilon=budget.validation_epsilon,
        validation_budget=min(opening.validation_budget, filter_budget(budget.validation_epsilon, opening.filter_delta, opening.order)),
    )


def read_ledger(path: Path) -> tuple[Opening, Account, str]:
    """Opening, account and head of a ledger, verified but not locked: for commands that only show it."""
    entries = read(path, KIND)
    return opening_of(entries[0]), account_of(entries), entries[-1].hash


def training_charge(opening: Opening, plan: Plan, steps: int) -> dict[str, float]:
    """What so many steps cost on the training line: computed here from the event itself, at this ledger's order."""
    from fedrad_client.privacy.exact_gaussian import noise_delta
    from fedrad_common.accounting import GaussianEvent, rdp

    sigma, rate = plan.noise_multiplier, plan.sampling_rate
    if sigma == 0 or steps == 0:
        return {"cost": 0.0, "numeric_delta": 0.0}
    # Above an epsilon of 700 the factor overflows; there, as long before it, the share of delta that is set aside does not suffice.
    numeric = noise_delta(plan.n_parameters, steps, noise_multiplier=sigma, epsilon=min(opening.highest_epsilon, 700.0))
    return {"cost": rdp(GaussianEvent(sigma, rate, steps), opening.order), "numeric_delta": numeric}


def evaluation_cost(protocol: TrainingProtocol, plan: Plan, order: float) -> float:
    """Rényi divergence of all evaluation rounds: one patient moves one cell of each label, and the discrete Gaussian costs no more."""
    from fedrad_common.accounting import GaussianEvent, rdp

    if plan.evaluation != "noised":
        return 0.0
    noise_multiplier = plan.evaluation_noise / math.sqrt(len(protocol.task.labels))
    return rdp(GaussianEvent(noise_multiplier, 1.0, len(protocol.evaluation.rounds)), order)
