"""When a reply leaves says nothing of the work: every reply of a protocol with time slots leaves at one of them (privacy.md, rule 10)."""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest
from fakes.patients import Asking
from hypothesis import given
from hypothesis import strategies as st

from fedrad_client.app import answer_in_slot, handle, make_app
from fedrad_client.approval import preview
from fedrad_client.node.slots import Clock, due, hold
from fedrad_client.preview import facts, lines
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import LEDGER, PAUSED, open_site
from fedrad_common import messages
from fedrad_common.errors import ConfigError, FedradError
from fedrad_common.packing import Vector
from fedrad_common.protocol import parse_protocol, render_protocol, replace_settings
from fedrad_common.records import Answer

# isort: split
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

SLOT = 10.0
CAME = 1000.0  # when an order comes


@dataclass
class Time:
    """Passes only while the site works or waits; Flower's own clock is the same."""

    now: float = CAME
    waits: list[float] = field(default_factory=list)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.wait)

    def work(self, seconds: float = 0.0, *, fails: bool = False):
        def work(job, model: Vector) -> Vector:
            self.now += seconds
            if fails:
                raise FedradError("the work failed")
            return np.ones(model.size if job.kind == "train" else 64, np.float32)

        return work


@pytest.fixture
def passing(monkeypatch) -> Time:
    made = Time()
    monkeypatch.setattr("flwr.app.message.message.now", lambda: datetime.fromtimestamp(made.now, UTC))
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return made


@pytest.fixture
def ask(make_site, coordinator, protocol_bytes) -> Asking:
    protocol = replace_settings(parse_protocol(protocol_bytes), {"rounds.slot_seconds": SLOT, "rounds.deadline_seconds": 60.0})
    return Asking.approved(make_site(), coordinator, protocol)


def reply(ask: Asking, passing: Time, *, work, **changed: object) -> Message:
    passing.now = CAME
    message = ask.message(**changed)
    return answer_in_slot(message, ask.home.path, work=work, clock=passing.clock)


def said(message: Message) -> Answer:
    return messages.read_answer(message.content)


# ── the slot ──


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(1, 1e4))
def test_a_reply_is_due_at_the_first_slot_after_the_order_that_is_not_past(received: float, worked: float, slot: float) -> None:
    now = received + worked
    leaves = due(received, now, slot)
    turn = round((leaves - received) / slot)

    assert leaves >= now
    assert turn >= 1
    assert leaves == received + turn * slot
    assert turn == 1 or received + (turn - 1) * slot < now


@pytest.mark.parametrize(("worked", "leaves"), [(0.0, 10.0), (9.999, 10.0), (10.0, 10.0), (10.001, 20.0), (35.0, 40.0)])
def test_work_that_overruns_a_slot_leaves_in_the_next_one(worked: float, leaves: float) -> None:
    assert due(0.0, worked, 10.0) == leaves


def test_without_slots_a_reply_leaves_at_once() -> None:
    assert due(3.0, 4.5, 0.0) == 4.5


def test_a_wait_that_ends_early_is_taken_up_again() -> None:
    passing = Time()
    hold(CAME, SLOT, Clock(lambda: passing.now, lambda seconds: passing.wait(min(seconds, 3.0))))

    assert passing.now == CAME + SLOT
    assert len(passing.waits) == 4


@pytest.mark.parametrize(
    ("slot", "error"),
    [(5.0, "slot_seconds 5 is not below deadline_seconds 5"), (0.5, "slot_seconds is 0, for none, or at least 1"), (-1.0, "greater than")],
)
def test_a_slot_that_hides_nothing_or_ends_too_late_is_no_slot(protocol_bytes: bytes, slot: float, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        replace_settings(parse_protocol(protocol_bytes), {"rounds.slot_seconds": slot})


# ── every reply ──


@pytest.mark.parametrize("worked", [0.0, 0.3, 9.9])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_neither_the_reply_nor_flowers_stamps_on_it_tell_how_long_the_work_took(
    ask: Asking, passing: Time, kind: str, worked: float
) -> None:
    """Flower stamps a message when it is made, and gives a reply the rest of its order's time to live: both would tell."""
    left = reply(ask, passing, kind=kind, work=passing.work(worked))

    assert said(left).vector is not None
    assert passing.now == CAME + SLOT
    assert left.metadata.created_at == CAME + SLOT
    assert left.metadata.ttl == ask.message().metadata.ttl - SLOT


@pytest.mark.parametrize("why", ["paused", "policy", "internal", "busy"])
def test_a_refusal_waits_like_an_update(ask: Asking, passing: Time, why: str) -> None:
    changed: dict[str, object] = {"round": 9} if why == "policy" else {}
    if why == "paused":
        (ask.home.path / PAUSED).touch()
    if why == "busy":
        with open_site(ask.home.path):
            left = reply(ask, passing, work=passing.work())
    else:
        left = reply(ask, passing, work=passing.work(2.0, fails=True), **changed)

    assert said(left) == Answer(refusal=why)
    assert (passing.now, left.metadata.created_at) == (CAME + SLOT, CAME + SLOT)


def test_a_stored_answer_cannot_be_told_from_work_by_its_time(ask: Asking, passing: Time) -> None:
    first = reply(ask, passing, work=passing.work(7.0))
    second = reply(ask, passing, work=passing.work(fails=True))

    assert said(second).envelope == said(first).envelope
    assert passing.now == CAME + SLOT
    assert second.metadata.created_at == first.metadata.created_at


def test_a_reply_to_what_nobody_approved_needs_no_slot_for_it_needs_no_data(ask: Asking, passing: Time) -> None:
    left = reply(ask, passing, work=passing.work(), protocol="a" * 64)

    assert said(left) == Answer(refusal="policy")
    assert passing.waits == []


def test_what_is_no_order_is_answered_without_a_slot(ask: Asking, passing: Time) -> None:
    nothing = ask.message()
    nothing.content = RecordDict()
    broken = Message(Error(code=0), reply_to=ask.message())

    assert said(answer_in_slot(nothing, ask.home.path, work=passing.work(), clock=passing.clock)) == Answer(refusal="version")
    assert said(answer_in_slot(broken, ask.home.path, work=passing.work(), clock=passing.clock)) == Answer(refusal="internal")
    assert passing.waits == []


def test_the_installed_app_answers_in_slots_too(ask: Asking, passing: Time) -> None:
    app = make_app(lambda _: ask.home.path, work=passing.work(1.0), clock=passing.clock)
    app(message=ask.message(), context=Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={}))

    assert passing.now == CAME + SLOT


# ── while it waits ──


def test_the_answer_is_sealed_and_the_site_is_free_before_the_wait(ask: Asking, passing: Time) -> None:
    seen = []

    def look(seconds: float) -> None:
        with open_site(ask.home.path) as site:  # its own people can use it
            seen.append((site.outbox.get(ask.order().question), site.audit.entries[-1].type))
        passing.wait(seconds)

    left = answer_in_slot(ask.message(), ask.home.path, work=passing.work(), clock=Clock(lambda: passing.now, look))

    assert [(stored.envelope, entry) for stored, entry in seen] == [(said(left).envelope, "release")]


def test_who_ends_the_wait_gets_nothing_sent_early_and_the_answer_stays_for_the_next_slot(ask: Asking, passing: Time) -> None:
    def killed(seconds: float) -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        answer_in_slot(ask.message(), ask.home.path, work=passing.work(), clock=Clock(lambda: passing.now, killed))
    again = reply(ask, passing, epoch=2, work=passing.work(fails=True))

    assert said(again).vector is not None
    assert passing.now == CAME + SLOT


def test_nothing_says_at_the_site_either_that_a_slot_was_overrun(ask: Asking, passing: Time, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        reply(ask, passing, work=passing.work(1.0))
        short = [record.getMessage() for record in caplog.records]
        reply(ask, passing, work=passing.work(99.0), round=2)

    assert [record.getMessage() for record in caplog.records][len(short) :] == short


def test_the_logs_clock_does_not_tell_when_the_work_failed(ask: Asking, passing: Time, caplog: pytest.LogCaptureFixture) -> None:
    """The line is written with the reply, in its slot."""
    at = []
    handler = logging.Handler()
    handler.emit = lambda record: at.append(passing.now)
    logging.getLogger("fedrad_client.app").addHandler(handler)
    try:

        def dies(job, model: Vector) -> Vector:
            passing.now += 4.0
            raise MemoryError

        reply(ask, passing, work=dies)
    finally:
        logging.getLogger("fedrad_client.app").removeHandler(handler)

    assert at == [CAME + SLOT]


# ── simulations, and what a person is told ──


def test_a_simulation_whose_time_is_simulated_does_not_wait(ask: Asking, passing: Time, monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    with open_site(ask.home.path) as site:
        left = handle(ask.message(), site=site, work=passing.work())

    assert said(left).vector is not None


@pytest.mark.parametrize(
    ("slot", "line"), [(SLOT, "replies leave at multiples of 10 s after the order came"), (0.0, "how long this site worked is not hidden")]
)
def test_a_person_is_told_before_the_approval_whether_timing_is_covered(ask: Asking, slot: float, line: str) -> None:
    opening, account, _ = read_ledger(ask.home.path / LEDGER)
    content = render_protocol(replace_settings(ask.protocol, {"rounds.slot_seconds": slot}))
    seen = preview(ask.home, opening, account, content, declared_size=60)

    assert facts(seen)["leaves"]["slot_seconds"] == slot
    assert [line in row for row in lines(seen)].count(True) == 1
