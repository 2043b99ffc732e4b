"""What the ledger's entries add up to: Rényi divergence for the ceiling, events for PRV, and which releases have no bound."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

from fedrad_common.accounting import GaussianEvent, epsilon_prv, filter_budget
from fedrad_common.chain import Entry
from fedrad_common.errors import ChainError

Body = dict[str, Any]  # of an entry
UNKNOWN = "unknown"  # instead of a protocol's hash: nobody knows any more what was trained without privacy here


@dataclass(frozen=True)
class Opening:
    """What was fixed when the ledger was opened, for the site's lifetime. Epsilon and delta are per patient."""

    site: str
    identity: str  # SHA-256 of the public envelope key: a ledger belongs to one identity, and an identity to one ledger
    epsilon: float
    delta: float
    numeric_delta: float  # the part of delta that is set aside for the noise's arithmetic; the filter works with the rest
    order: float  # of the Rényi filter
    budget: float  # Rényi divergence at that order that the ceiling allows
    validation_budget: float  # the same for the validation line, at the same order
    validation_epsilon: float
    validation_fraction: float
    earlier_epsilon: float = 0.0  # ceilings of ledgers that this hospital lost: assumed spent, on top of this one
    earlier_delta: float = 0.0
    earlier_validation_epsilon: float = 0.0
    earlier_unbounded: tuple[str, ...] = ()  # protocols without privacy, approved under lost ledgers: no bound, for ever
    opened_with: float = 0.0  # epsilon, where the site's settings have tightened it since; 0 where they have not

    @property
    def ceilings(self) -> dict[str, float]:
        """Every number that a later ledger must count, should this one be lost: the audit log keeps them, too."""
        names = ("epsilon", "delta", "validation_epsilon")
        return {key: getattr(self, key) for name in names for key in (name, f"earlier_{name}")}

    @property
    def highest_epsilon(self) -> float:
        """A tightened ceiling may be set back to this: what was charged must hold for it, too."""
        return max(self.epsilon, self.opened_with)

    @property
    def filter_delta(self) -> float:
        """What Rényi divergence and PRV are converted at."""
        return self.delta - self.numeric_delta


@dataclass(frozen=True)
class Account:
    """What all entries add up to."""

    answers: int = 0
    runs: tuple[Body, ...] = ()  # the `run` entries, in order
    repeated: tuple[Body, ...] = ()  # the `answer` entries that were charged beyond their run
    assumed: tuple[Body, ...] = ()  # `assumed` entries: an earlier ledger was lost and this one begins as spent
    contradicted: bool = False  # a witness holds an answer that this ledger does not know

    def plus(self, entry: Entry) -> Account:
        """The account after one more entry."""
        if entry.type == "run":
            return replace(self, runs=(*self.runs, entry.body))
        if entry.type == "assumed":
            return replace(self, assumed=(*self.assumed, entry.body))
        if entry.type == "contradicted":
            return replace(self, contradicted=True)
        if entry.type == "answer":
            charged = entry.body["cost"] > 0 or entry.body["validation_cost"] > 0
            return replace(self, answers=self.answers + 1, repeated=(*self.repeated, entry.body) if charged else self.repeated)
        return self

    @property
    def training(self) -> float:
        """Rényi divergence at the ledger's order."""
        return self._sum("cost")

    @property
    def validation(self) -> float:
        """Rényi divergence at the ledger's order, of the validation patients' own line."""
        return self._sum("validation_cost")

    @property
    def numeric_delta(self) -> float:
        """Charged for the noise's arithmetic."""
        return self._sum("numeric_delta")

    def _sum(self, what: str) -> float:
        return math.fsum(body[what] for body in (*self.runs, *self.repeated, *self.assumed))

    @property
    def unbounded_runs(self) -> int:
        return sum(run["unbounded"] for run in self.runs)

    @property
    def tainted(self) -> frozenset[str]:
        """Hashes of the protocols that were trained without privacy here: no charged run may start from their weights."""
        return frozenset(run["protocol"] for run in self.runs if run["unbounded"])

    @property
    def marked_validation_runs(self) -> int:
        return sum(run["validation_marked"] for run in self.runs)

    def events(self, run: str | None = None) -> list[GaussianEvent]:
        """Every charged training event, of one run or of all; what they cost is the accountant's business."""
        drawn = {body["run"]: (body["noise_multiplier"], body["sampling_rate"]) for body in self.runs}
        charged = [(body["run"], body["steps"]) for body in (*self.runs, *self.repeated)]
        return [GaussianEvent(*drawn[name], steps) for name, steps in charged if steps and run in (None, name)]


def account_of(entries: list[Entry]) -> Account:
    return functools.reduce(Account.plus, entries, Account())


def opening_of(entry: Entry) -> Opening:
    try:
        values = {name: entry.body[name] for name in Opening.__dataclass_fields__}
        return Opening(**{**values, "earlier_unbounded": tuple(values["earlier_unbounded"])})
    except KeyError as error:
        raise ChainError(f"ledger.chain: the opening lacks {error.args[0]}", hint="it was written by another version of fedrad") from None


def epsilon_at(divergence: float, *, order: float, delta: float) -> float:
    """The (epsilon, delta) that a Rényi divergence at `order` implies (Canonne, Kamath, Steinke 2020, proposition 12)."""
    if divergence == 0:
        return 0.0
    return divergence - filter_budget(0.0, delta, order)


def epsilon_in_advance(opening: Opening, account: Account, run: str | None = None) -> float:
    """PRV's upper bound for one run, or for all runs as if they had been planned together; infinite without a bound.

    Computed anew only where an approval has not stored it already: PRV takes seconds to load.
    """
    runs = [body for body in account.runs if run in (None, body["run"])]
    if any(body["unbounded"] for body in runs) or (run is None and opening.earlier_unbounded):
        return math.inf
    repeated = any(body["steps"] for body in account.repeated if run in (None, body["run"]))
    if len(runs) == 1 and not repeated:
        return float(runs[0]["epsilon"])
    return epsilon_prv(account.events(run), opening.filter_delta)
