"""Flower's Grid as `Sites`: names for numbers, silence for errors, a new message each time somebody is asked."""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest

from fedrad_common import messages
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Evidence, Order, Refused, sign
from fedrad_server.app.sites import GridSites

# isort: split
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

MODEL = np.ones(4, np.float32)
REFUSAL = Answer(refusal="busy")
SIGNED = sign(Refused(code="busy"), SigningKey.generate())
EVIDENCE = dict.fromkeys(("north", "south", "west"), Evidence(launch=SIGNED, manifests=()))


@dataclass
class FakeGrid:
    """Nodes by name; `replies` says what a pull of the n-th message gives: content, an error code, or None (open)."""

    online: dict[str, int]
    replies: dict[int, object] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    taken: bool = True
    pulls: list[list[str]] = field(default_factory=list)

    def get_nodes(self):
        return [NodeInfo(node_id=number, name=name) for name, number in self.online.items()]

    def push_messages(self, found):
        numbers = []
        for message in found:
            message.metadata.__dict__["_message_id"] = str(len(self.sent))
            self.sent.append(message)
            numbers.append(message.metadata.message_id if self.taken else "")
        return numbers

    def pull_messages(self, numbers):
        """Like a simulation's: a reply is made when it is looked at."""
        self.pulls.append(list(numbers))
        for number in numbers:
            found = self.replies.pop(int(number), None)
            if isinstance(found, int):
                yield Message(Error(code=found, reason="x"), reply_to=self.sent[int(number)])
            elif found is not None:
                yield Message(found, reply_to=self.sent[int(number)])


class OneGrid(FakeGrid):
    """Like the coordinator's server: at most one reply a call."""

    def pull_messages(self, numbers):
        return list(islice(super().pull_messages(numbers), 1))


class ManyGrid(FakeGrid):
    """Like that of Ray's engine: all that there are, made already."""

    def pull_messages(self, numbers):
        return list(super().pull_messages(numbers))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def order(kind: str = "train"):
    facts = Order(run="run-00000001", epoch=1, round=3, kind=kind, protocol="a" * 64, model="b" * 64, length=4)
    return sign(facts, SigningKey.generate())


def sites_on(grid: FakeGrid, clock: Clock | None = None) -> GridSites:
    clock = clock or Clock()
    return GridSites(grid, lifetime=60.0, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_an_order_goes_to_the_nodes_that_have_the_names(kind):
    grid = FakeGrid({"north": 7, "south": 9, "west": 5})
    signed = order(kind)

    sites_on(grid).ask(["south", "north"], signed, MODEL, EVIDENCE)

    assert sorted(message.metadata.dst_node_id for message in grid.sent) == [7, 9]
    assert {message.metadata.message_type for message in grid.sent} == {kind}
    assert messages.read_order(grid.sent[0].content).order == signed


def test_an_answer_comes_with_the_name_of_the_node_that_was_asked():
    grid = FakeGrid({"north": 7, "south": 9}, {1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)

    assert sites.poll(1.0) == [("south", REFUSAL)]
    assert sites.poll(1.0) == []


def test_waiting_ends_at_the_timeout():
    clock = Clock()
    sites = sites_on(FakeGrid({"north": 7}), clock)
    sites.ask(["north"], order(), MODEL, EVIDENCE)

    assert sites.poll(2.5) == []
    assert clock.now == pytest.approx(2.5)


def test_a_site_that_is_away_is_asked_when_it_comes():
    grid = FakeGrid({})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    assert sites.poll(1.0) == []
    assert not grid.sent

    grid.online, grid.replies = {"north": 7}, {0: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == [("north", REFUSAL)]


def test_a_site_that_was_killed_while_answering_is_asked_again():
    grid = FakeGrid({"north": 7}, {0: 8, 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)

    assert sites.poll(1.0) == [("north", REFUSAL)]
    assert len(grid.sent) == 2


def test_a_site_that_only_sends_errors_is_not_asked_for_ever():
    grid = FakeGrid({"north": 7}, dict.fromkeys(range(100), 2))
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)

    assert sites.poll(10.0) == []
    assert 1 < len(grid.sent) < 10


def test_asking_again_sends_a_new_message_and_the_first_one_may_still_be_answered():
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    signed = order()
    sites.ask(["north"], signed, MODEL, EVIDENCE)
    sites.ask(["north"], signed, MODEL, EVIDENCE)
    grid.replies = {0: messages.answer_content(REFUSAL)}

    assert len({message.metadata.message_id for message in grid.sent}) == 2
    assert sites.poll(1.0) == [("north", REFUSAL)]


def test_a_late_refusal_of_an_older_order_is_no_word_on_the_new_one():
    """Else a site that was busy in one round would lose its answer to the next."""
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    sites.ask(["north"], order("evaluate"), MODEL, EVIDENCE)
    grid.replies = {0: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == []


def test_an_error_about_an_older_order_asks_nobody():
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    sites.ask(["north"], order("evaluate"), MODEL, EVIDENCE)
    grid.replies = {0: 3}

    assert sites.poll(1.0) == []
    assert len(grid.sent) == 2


@pytest.mark.parametrize("kind", [FakeGrid, OneGrid, ManyGrid])
def test_a_malformed_reply_is_an_answer_that_nobody_can_accept_and_harms_no_other(kind):
    grid = kind({"north": 7, "south": 9}, {0: RecordDict(), 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)

    assert sites.poll(1.0) == [("north", Answer())]
    assert sites.poll(1.0) == [("south", REFUSAL)]


def test_a_message_that_flower_did_not_take_is_sent_again():
    grid = FakeGrid({"north": 7}, taken=False)
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    grid.taken, grid.replies = True, {1: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == [("north", REFUSAL)]


def silent_for(**seconds: float):
    return lambda: dict(seconds)


def test_nobody_is_absent_where_nothing_tells_of_contacts():
    clock = Clock()
    sites = sites_on(FakeGrid({"north": 7}), clock)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    clock.now = 1000.0
    assert sites.absent() == {}


def test_a_site_that_says_nothing_for_nine_seconds_is_absent_with_its_age():
    clock = Clock()
    contacts = silent_for(north=12.0, south=1.0, other=99.0)
    sites = GridSites(FakeGrid({"north": 7}), lifetime=60.0, clock=clock, contacts=contacts)
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)
    clock.now = 20.0
    assert sites.absent() == {"north": 12.0}


def test_a_coordinator_that_just_came_back_calls_nobody_absent():
    clock = Clock(now=500.0)
    sites = GridSites(FakeGrid({}), lifetime=60.0, clock=clock, contacts=silent_for(north=400.0))
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)
    clock.now += 9.0
    assert sites.absent() == {}
    clock.now += 1.0
    assert sites.absent() == {"north": 10.0, "south": 10.0}  # the second has never been heard of


def test_asking_one_site_again_leaves_the_others_asked():
    grid = FakeGrid({"north": 7, "south": 9}, {0: messages.answer_content(REFUSAL)})
    sites, signed = sites_on(grid), order()
    sites.ask(["north", "south"], signed, MODEL, EVIDENCE)
    sites.ask(["south"], signed, MODEL, EVIDENCE)

    assert [message.metadata.dst_node_id for message in grid.sent] == [7, 9, 9]
    assert sites.poll(1.0) == [("north", REFUSAL)]


def test_an_error_for_an_earlier_message_asks_nobody_who_was_asked_again_since():
    grid, signed = FakeGrid({"north": 7}), order()
    sites = sites_on(grid)
    sites.ask(["north"], signed, MODEL, EVIDENCE)
    sites.ask(["north"], signed, MODEL, EVIDENCE)
    grid.replies = {0: 2}
    assert sites.poll(1.0) == []
    assert len(grid.sent) == 2


def test_a_look_is_one_request_however_many_are_asked():
    clock, grid = Clock(), FakeGrid({name: number for number, name in enumerate(EVIDENCE, start=7)})
    sites = sites_on(grid, clock)
    sites.ask(list(EVIDENCE), order(), MODEL, EVIDENCE)
    sites.poll(1.0)

    assert {tuple(pull) for pull in grid.pulls} == {("0", "1", "2")}
    assert len(grid.pulls) <= 1 + 1.0 / 0.05


def test_of_many_replies_at_once_none_is_lost():
    grid = ManyGrid({"north": 7, "south": 9}, {0: messages.answer_content(REFUSAL), 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)

    assert [sites.poll(0.0), sites.poll(0.0)] == [[("north", REFUSAL)], [("south", REFUSAL)]]


def test_replies_that_are_made_when_they_are_read_are_made_one_at_a_time():
    grid = FakeGrid({"north": 7, "south": 9}, {0: messages.answer_content(REFUSAL), 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, EVIDENCE)

    assert sites.poll(1.0) == [("north", REFUSAL)]
    assert list(grid.replies) == [1]
    assert sites.poll(0.0) == [("south", REFUSAL)]


@pytest.mark.parametrize("kind", [FakeGrid, OneGrid, ManyGrid])
def test_a_poll_that_does_not_wait_still_gives_what_is_there(kind):
    """Behind an error, and a refusal that is no word on this order."""
    clock, grid = Clock(), kind({"north": 7, "south": 9})
    sites = sites_on(grid, clock)
    sites.ask(["north"], order(), MODEL, EVIDENCE)
    sites.ask(["north", "south"], order("evaluate"), MODEL, EVIDENCE)
    grid.replies = {0: messages.answer_content(REFUSAL), 1: 2, 2: messages.answer_content(REFUSAL)}

    assert sites.poll(0.0) == [("south", REFUSAL)]
    assert sites.poll(0.0) == []
    assert clock.now == 0.0


def test_a_site_that_comes_and_goes_has_two_messages_open_the_first_and_the_newest():
    grid = FakeGrid({"north": 7, "south": 9})
    sites, signed = sites_on(grid), order()
    sites.ask(["north", "south"], signed, MODEL, EVIDENCE)
    for _ in range(5):
        sites.ask(["north"], signed, MODEL, EVIDENCE)
    sites.poll(0.0)
    assert grid.pulls[-1] == ["0", "1", "6"]

    sites.ask(["north"], order("evaluate"), MODEL, EVIDENCE)
    sites.poll(0.0)
    assert grid.pulls[-1] == ["0", "1", "6", "7"], "an answer to an earlier order may still come"
