"""Flower's Grid as `Sites`: names for numbers, silence for errors, a new message each time somebody is asked."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from fedrad_common import messages
from fedrad_common.errors import FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Order, sign
from fedrad_server.app.sites import GridSites

# isort: split
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

MODEL = np.ones(4, np.float32)
REFUSAL = Answer(refusal="busy")


@dataclass
class FakeGrid:
    """Nodes by name; `replies` says what a pull of the n-th message gives: content, an error code, an exception, or None (open)."""

    online: dict[str, int]
    replies: dict[int, object] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    taken: bool = True

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
        (number,) = numbers
        found = self.replies.pop(int(number), None)
        if isinstance(found, BaseException):
            raise found
        if found is None:
            return []
        if isinstance(found, int):
            return [Message(Error(code=found, reason="x"), reply_to=self.sent[int(number)])]
        return [Message(found, reply_to=self.sent[int(number)])]


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

    sites_on(grid).ask(["south", "north"], signed, MODEL, {})

    assert sorted(message.metadata.dst_node_id for message in grid.sent) == [7, 9]
    assert {message.metadata.message_type for message in grid.sent} == {kind}
    assert messages.read_order(grid.sent[0].content)[0] == signed


def test_an_answer_comes_with_the_name_of_the_node_that_was_asked():
    grid = FakeGrid({"north": 7, "south": 9}, {1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, {})

    assert sites.poll(1.0) == [("south", REFUSAL)]
    assert sites.poll(1.0) == []


def test_waiting_ends_at_the_timeout():
    clock = Clock()
    sites = sites_on(FakeGrid({"north": 7}), clock)
    sites.ask(["north"], order(), MODEL, {})

    assert sites.poll(2.5) == []
    assert clock.now == pytest.approx(2.5)


def test_a_site_that_is_away_is_asked_when_it_comes():
    grid = FakeGrid({})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})
    assert sites.poll(1.0) == []
    assert not grid.sent

    grid.online, grid.replies = {"north": 7}, {0: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == [("north", REFUSAL)]


def test_a_site_that_was_killed_while_answering_is_asked_again():
    grid = FakeGrid({"north": 7}, {0: 8, 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})

    assert sites.poll(1.0) == [("north", REFUSAL)]
    assert len(grid.sent) == 2


def test_a_site_that_only_sends_errors_is_not_asked_for_ever():
    grid = FakeGrid({"north": 7}, dict.fromkeys(range(100), 2))
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})

    assert sites.poll(10.0) == []
    assert 1 < len(grid.sent) < 10


def test_asking_again_sends_a_new_message_and_the_first_one_may_still_be_answered():
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    signed = order()
    sites.ask(["north"], signed, MODEL, {})
    sites.ask(["north"], signed, MODEL, {})
    grid.replies = {0: messages.answer_content(REFUSAL)}

    assert len({message.metadata.message_id for message in grid.sent}) == 2
    assert sites.poll(1.0) == [("north", REFUSAL)]


def test_a_late_refusal_of_an_older_order_is_no_word_on_the_new_one():
    """Else a site that was busy in one round would lose its answer to the next."""
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})
    sites.ask(["north"], order("evaluate"), MODEL, {})
    grid.replies = {0: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == []


def test_an_error_about_an_older_order_asks_nobody():
    grid = FakeGrid({"north": 7})
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})
    sites.ask(["north"], order("evaluate"), MODEL, {})
    grid.replies = {0: 3}

    assert sites.poll(1.0) == []
    assert len(grid.sent) == 2


@pytest.mark.parametrize("reply", [RecordDict(), FormatError("message: cannot be read")])
def test_a_malformed_reply_is_an_answer_that_nobody_can_accept_and_harms_no_other(reply):
    grid = FakeGrid({"north": 7, "south": 9}, {0: reply, 1: messages.answer_content(REFUSAL)})
    sites = sites_on(grid)
    sites.ask(["north", "south"], order(), MODEL, {})

    assert sites.poll(1.0) == [("north", Answer())]
    assert sites.poll(1.0) == [("south", REFUSAL)]


def test_a_message_that_flower_did_not_take_is_sent_again():
    grid = FakeGrid({"north": 7}, taken=False)
    sites = sites_on(grid)
    sites.ask(["north"], order(), MODEL, {})
    grid.taken, grid.replies = True, {1: messages.answer_content(REFUSAL)}

    assert sites.poll(1.0) == [("north", REFUSAL)]
