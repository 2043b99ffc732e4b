"""The loop of rounds as a state machine over `Sites`: quorum, deadline, absence, retries, pause. Knows no network, and never sleeps."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Envelope, Evidence, Kind, Signed, sign
from fedrad_server.acceptance import Question, check
from fedrad_server.aggregation import FoldError
from fedrad_server.runs import Run

# A refusal that time may heal: below quorum, the deadline is waited out before these sites are asked again.
TRANSIENT = frozenset({"busy", "paused", "hours", "disk"})
LOOK = 1.0  # seconds between two looks at who is gone

Progress = Callable[[int, str, str], None]  # round, site ("" for all), what: asked, accepted, a code, closed, paused, …


class Sites(Protocol):
    """The sites of a run, by name, however they are reached. A site is its node: alive as long as it speaks to the coordinator at all."""

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        """Send one order, and to each site the evidence that it is shown what all are shown.

        Asking some of them the same order again leaves the others asked. A site that cannot be reached is no error: it is late.
        """

    def absent(self) -> Mapping[str, float]:
        """Sites that have been silent for so long that they must be gone, each with the seconds since its last word of any kind."""

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        """Answers that came in since the last call, each with the name of the site that the transport knows it is from.

        Waits up to `timeout` seconds for the first one, and not at all with 0; an empty list says that none is there. Answers to older
        orders may be among them. An answer that is still on its way here, for however long, delays no other site's.
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
            try:
                run.close_round(exchange.missing)
            except FoldError as error:
                return exchange.pause(str(error))
            return True
    have, why = len(exchange.accepted), ", ".join(f"{site} {code}" for site, code in sorted(exchange.missing.items()))
    tried = f"{attempts} attempt{'s'[: attempts - 1]}"
    return exchange.pause(f"round {exchange.number}: {have} of {quorum} needed updates after {tried}: {why}")


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
    silent: set[str] = field(default_factory=set)  # asked in this attempt, and not a word on it yet
    gone: set[str] = field(default_factory=set)  # those of them whose node is silent too

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
        """Ask those who are missing, and take in answers until nobody is left to wait for or the deadline has passed."""
        asked = sorted(self.run.keys.keys() - self.accepted.keys())
        if not asked:
            return
        self.missing, self.silent, self.gone = dict.fromkeys(asked, "late"), set(asked), set()
        self._ask(asked, attempt)
        # Counted from here: where the sites live in this process, they work while they are asked.
        deadline = self.clock() + self.run.protocol.rounds.deadline_seconds
        while self._waits(quorum):
            remaining = deadline - self.clock()
            if remaining <= 0:
                break
            self._take_all(self.sites.poll(min(remaining, LOOK)))
            self._look(attempt)
        # Judging one answer takes time: whatever has come meanwhile is looked at before anybody is called late.
        while self.silent and self._take_all(self.sites.poll(0.0)):
            continue

    def pause(self, reason: str) -> bool:
        self.run.record("paused", {"round": self.number, "reason": reason, "missing": self.missing})
        self.progress(self.number, "", Outcome.PAUSED.value)
        return False

    def _ask(self, sites: list[str], attempt: int) -> None:
        order = self.question.order
        self.run.record("asked", {"round": order.round, "kind": order.kind, "attempt": attempt, "sites": sites})
        for site in sites:
            self.progress(order.round, site, "asked")
        self.sites.ask(sites, sign(order, self.run.key), self.model, self.run.evidence(sites, order))

    def _waits(self, quorum: int) -> bool:
        """With enough updates, for those who may be working; with fewer, also for those who are gone or may change their mind."""
        if len(self.accepted) >= quorum:
            return bool(self.silent - self.gone)
        return bool(self.silent or TRANSIENT & set(self.missing.values()))

    def _look(self, attempt: int) -> None:
        """Note who is gone, and ask those again who are back: what they were asked may have died with them."""
        absent = self.sites.absent()
        self.gone &= self.silent
        for site in sorted(self.silent & absent.keys() - self.gone):
            self.gone.add(site)
            self.missing[site] = "gone"
            seconds = int(absent[site])
            self.run.record("gone", {"round": self.number, "kind": self.question.order.kind, "site": site, "seconds": seconds})
            self.progress(self.number, site, f"gone for {seconds} s")
        if back := sorted(self.gone - absent.keys()):
            self.gone -= set(back)
            self.missing |= dict.fromkeys(back, "late")
            self._ask(back, attempt)

    def _take_all(self, answers: Collection[tuple[str, Answer]]) -> bool:
        """True where there were any."""
        came = False
        for site, answer in answers:
            came = True
            if self._take(site, answer):
                self.silent.discard(site)
        return came

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
