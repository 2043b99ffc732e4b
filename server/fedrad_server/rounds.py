"""The loop of rounds as a state machine over `Sites`: deadline, quorum, retries, pause, resume. Knows no network, and never sleeps."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Envelope, Kind, Signed, sign
from fedrad_server.acceptance import Question, check
from fedrad_server.runs import Run

# A refusal that time may heal: below quorum, the deadline is waited out before these sites are asked again.
TRANSIENT = frozenset({"busy", "paused", "hours", "disk"})

Progress = Callable[[int, str, str], None]  # round, site ("" for all), what: asked, accepted, a code, closed, paused, …


class Sites(Protocol):
    """The sites of a run, by name, however they are reached."""

    def ask(self, sites: Collection[str], order: Signed, model: Vector, witnesses: Mapping[str, Signed]) -> None:
        """Send one order, and to each site its own last answer that is held here, so that a restored or cloned ledger finds out.

        A site that cannot be reached is no error: it is late.
        """

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        """Answers that came in since the last call, each with the name of the site that the transport knows it is from.

        Waits up to `timeout` seconds for the first one; an empty list says that none came. Answers to older orders may be among them.
        """


class Outcome(StrEnum):
    FINISHED = "finished"
    PAUSED = "paused"  # the reason is the last `paused` event; opening and playing the run again goes on where it stopped


def play(
    run: Run, sites: Sites, *, clock: Callable[[], float] = time.monotonic, progress: Progress = lambda number, site, what: None
) -> Outcome:
    """Go on with a run until it is finished or paused.

    Args:
        clock: seconds; only differences count.

    Raises:
        FedradError: the coordinator's own disk is full, or a stored file is damaged; the run can be opened and played again.
    """
    while not run.finished:
        if run.round and not run.happened("closed", run.round):
            run.record("closed", {"round": run.round, "manifest": run.head})
            progress(run.round, "", "closed")
        if _evaluation_is_due(run):
            _evaluate(_Exchange.begin("evaluate", run, sites, clock=clock, progress=progress))
        elif run.round == run.protocol.privacy.rounds:
            run.finish()
            progress(run.round, "", Outcome.FINISHED.value)
        elif not _train(_Exchange.begin("train", run, sites, clock=clock, progress=progress)):
            return Outcome.PAUSED
    return Outcome.FINISHED


def _evaluation_is_due(run: Run) -> bool:
    asked = run.protocol.evaluation
    return asked.release != "none" and run.round in asked.rounds and not run.happened("evaluated", run.round)


def _train(exchange: "_Exchange") -> bool:
    """One round; false where the run is paused instead."""
    run, quorum, attempts = exchange.run, exchange.run.protocol.rounds.quorum, 1 + exchange.run.protocol.rounds.retries
    for attempt in range(1, attempts + 1):
        exchange.attempt(attempt, quorum=quorum)
        if len(exchange.accepted) >= quorum:
            run.close_round(exchange.missing)
            return True
    have = len(exchange.accepted)
    reason = f"round {exchange.number}: {have} of {quorum} needed updates after {attempts} attempt{'s'[: attempts - 1]}"
    run.record("paused", {"round": exchange.number, "reason": reason, "missing": exchange.missing})
    exchange.progress(exchange.number, "", Outcome.PAUSED.value)
    return False


def _evaluate(exchange: "_Exchange") -> None:
    """Whoever answers in time; nobody is waited for beyond the deadline, and nothing is paused."""
    exchange.attempt(1, quorum=0)
    exchange.run.record("evaluated", {"round": exchange.number, "sites": sorted(exchange.accepted), "missing": exchange.missing})
    exchange.progress(exchange.number, "", "evaluated")


@dataclass
class _Exchange:
    """One order and its answers, over all attempts."""

    run: Run
    sites: Sites
    clock: Callable[[], float]
    progress: Progress
    question: Question
    model: Vector
    accepted: dict[str, str]  # digest of the envelope by site; what `question` looks at
    missing: dict[str, str] = field(default_factory=dict)  # why each of the others is not among them

    @classmethod
    def begin(cls, kind: Kind, run: Run, sites: Sites, *, clock: Callable[[], float], progress: Progress) -> "_Exchange":
        order, model = run.order(kind)
        run.begin(order.round)
        accepted = run.accepted_digests(order.round, kind)
        return cls(run, sites, clock, progress, run.question(order, accepted), model, accepted)

    @property
    def number(self) -> int:
        return self.question.order.round

    def attempt(self, attempt: int, *, quorum: int) -> None:
        """Ask those who are missing, and take in answers until all have spoken or the deadline has passed."""
        asked = sorted(self.run.keys.keys() - self.accepted.keys())
        if not asked:
            return
        order = self.question.order
        self.missing = dict.fromkeys(asked, "late")
        self.run.record("asked", {"round": order.round, "kind": order.kind, "attempt": attempt, "sites": asked})
        for site in asked:
            self.progress(order.round, site, "asked")
        self.sites.ask(asked, sign(order, self.run.key), self.model, self.run.witnesses)
        # Counted from here: where the sites live in this process, they work while they are asked.
        deadline = self.clock() + self.run.protocol.rounds.deadline_seconds
        silent = set(asked)
        while silent or (len(self.accepted) < quorum and TRANSIENT & set(self.missing.values())):
            remaining = deadline - self.clock()
            if remaining <= 0:
                break
            for site, answer in self.sites.poll(remaining):
                if self._take(site, answer):
                    silent.discard(site)

    def _take(self, site: str, answer: Answer) -> bool:
        """Judge and store one answer; true where it was this site's word on this order."""
        known = site in self.run.keys
        if known and answer.refusal is not None and answer.envelope is None:
            return self._refused(site, answer.refusal, "refused")
        verdict = check(site, answer, self.question)
        if isinstance(verdict, Envelope):
            receipt = self.run.accept(answer, verdict)
            self.accepted[site] = receipt.envelope
            self.missing.pop(site, None)
            self.progress(self.number, site, "accepted")
            return True
        if verdict == "duplicate":  # resent, as promised, byte for byte
            return False
        # An unknown name is somebody else's text: it goes into no record.
        return self._refused(site if known else "", verdict, "rejected") and verdict != "late"

    def _refused(self, site: str, code: str, what: str) -> bool:
        self.run.record(what, {"round": self.number, "kind": self.question.order.kind, "site": site, "code": code})
        self.progress(self.number, site, code)
        if site in self.missing:
            self.missing[site] = code
            return True
        return False
