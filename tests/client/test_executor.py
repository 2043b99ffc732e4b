"""The transport of a site: resumes, reports what was interrupted, waits while shut out, and says nothing but codes."""

import itertools
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fakes.orders import content_of

from fedrad_client.node import executor as module
from fedrad_client.node.contact import Contact
from fedrad_client.node.executor import Executor
from fedrad_common import messages
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Asked, Evidence, Order, Refused, Signed, sign

# isort: split
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

CANARY = "Jane Doe"


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/")
    return httpx.HTTPStatusError(CANARY, request=request, response=httpx.Response(status, text=CANARY, request=request))


@dataclass
class FakeFleet:
    """Flower's server as one node sees it: hands each message out once, keeps what is pushed, and ends the test when all is done."""

    stop: threading.Event
    known: set[int] = field(default_factory=set)  # numbers that a heartbeat is accepted from
    orders: list[Message] = field(default_factory=list)
    refuses: dict[str, list[Exception]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    pushed: list[Message] = field(default_factory=list)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.refuses.get(name) and (error := self.refuses[name].pop(0)):
            raise error

    def ActivateNode(self, request):  # noqa: N802 - Flower's names
        self._called("ActivateNode")
        return SimpleNamespace(node_id=42)

    def DeactivateNode(self, request):  # noqa: N802
        self._called("DeactivateNode")

    def SendNodeHeartbeat(self, request):  # noqa: N802
        self._called("SendNodeHeartbeat")
        return SimpleNamespace(success=request.node.node_id in self.known)

    def PullMessages(self, request):  # noqa: N802
        self._called("PullMessages")
        if not self.orders:
            self.stop.set()
            return SimpleNamespace(messages_list=[], message_object_trees=[])
        message = self.orders.pop(0)
        message.metadata.__dict__["_message_id"] = message.object_id
        self.objects.update({number: found.deflate() for number, found in get_all_nested_objects(message).items()})
        head = message_to_proto(remove_content_from_message(message))
        return SimpleNamespace(messages_list=[head], message_object_trees=[get_object_tree(message)])

    def PullObject(self, request):  # noqa: N802
        self._called("PullObject")
        return SimpleNamespace(object_found=True, object_available=True, object_content=self.objects[request.object_id])

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self._called("ConfirmMessageReceived")

    def PushMessages(self, request):  # noqa: N802
        self._called("PushMessages")
        self.pushed += [message_from_proto(proto) for proto in request.messages_list]
        return SimpleNamespace(objects_to_push=[], session_id="s")


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def fleet():
    return FakeFleet(threading.Event())


@pytest.fixture
def noted():
    """What the audit log is told."""
    return []


@pytest.fixture
def executor(tmp_path, fleet, noted):
    return Executor(
        connect=lambda: fleet,
        public_key=b"k",
        memory=tmp_path,
        answer=lambda message: Message(messages.answer_content(Answer(refusal="busy")), reply_to=message),
        most_bytes=messages.most_bytes(1000),
        stop=fleet.stop,
        contact=Contact(tmp_path / "contact.json"),
        note=lambda event, code: noted.append((event, code)),
    )


@pytest.fixture
def pauses(executor, monkeypatch):
    """No pause is waited for; how long each one would have been."""
    asked = []
    monkeypatch.setattr(executor.stop, "wait", lambda seconds: asked.append(seconds) or executor.stop.is_set())
    return asked


def an_order() -> Signed:
    fields = {"run": "tiny-0123abcd", "epoch": 1, "round": 3, "kind": "train", "protocol": "a" * 64, "model": "b" * 64, "length": 4}
    if "manifest" in Order.model_fields:
        fields["manifest"] = "c" * 64
    return sign(Order.model_validate(fields), SigningKey.generate())


def order(length: int = 4, signed: Signed | None = None) -> Message:
    signed = signed or sign(Refused(code="busy"), SigningKey.generate())
    return Message(
        content_of(Asked(signed, np.ones(length, np.float32), Evidence(launch=signed, manifests=()))), dst_node_id=42, message_type="train"
    )


def test_an_order_is_fetched_answered_and_forgotten(executor, fleet, tmp_path):
    fleet.orders = [order()]

    executor.run()

    assert [message.has_error() for message in fleet.pushed] == [False]
    assert (tmp_path / "number").read_text() == "42\n"
    assert not (tmp_path / "interrupted").exists()


def test_no_bundle_is_ever_fetched(executor, fleet):
    fleet.orders = [order()]
    executor.run()

    assert set(fleet.calls) == {"ActivateNode", "PullMessages", "PullObject", "ConfirmMessageReceived", "PushMessages"}


def test_a_node_that_was_killed_is_back_with_its_former_number_at_once(executor, fleet, tmp_path):
    (tmp_path / "number").write_text("7\n")
    fleet.known = {7}
    executor.run()

    assert "ActivateNode" not in fleet.calls
    assert (tmp_path / "number").read_text() == "7\n"


def test_a_former_number_that_the_server_forgot_is_replaced(executor, fleet, tmp_path):
    (tmp_path / "number").write_text("7\n")
    fleet.refuses = {"SendNodeHeartbeat": [refusal(404)]}
    executor.run()

    assert (tmp_path / "number").read_text() == "42\n"


def test_an_order_that_a_kill_interrupted_is_reported_so_that_it_is_asked_again(executor, fleet, tmp_path):
    interrupted = order()
    interrupted.metadata.__dict__["_message_id"] = "a" * 64
    (tmp_path / "interrupted").write_bytes(message_to_proto(remove_content_from_message(interrupted)).SerializeToString())

    executor.run()

    assert [(message.has_error(), message.metadata.reply_to_message_id, message.error.reason) for message in fleet.pushed] == [
        (True, "a" * 64, "restarted")
    ]
    assert not (tmp_path / "interrupted").exists()


def test_a_note_that_cannot_be_read_stops_nothing(executor, fleet, tmp_path):
    (tmp_path / "interrupted").write_bytes(b"\xff\xff")
    fleet.orders = [order()]

    executor.run()

    assert len(fleet.pushed) == 1


def test_a_node_that_is_not_admitted_yet_waits_longer_each_time_and_is_online_as_soon_as_it_is(executor, fleet, pauses, noted, caplog):
    fleet.refuses = {"ActivateNode": [refusal(401) for _ in range(9)]}
    with caplog.at_level(logging.INFO, logger="fedrad_client"):
        executor.run()

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, pytest.approx(0.1, abs=0.1)]
    assert noted == [("refused-by-coordinator", "not-admitted"), ("online", "")]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["connecting", "not-admitted", "online"]


def test_a_node_that_is_revoked_while_it_runs_waits_and_is_back_when_it_is_admitted_anew(executor, fleet, pauses, noted, tmp_path):
    (tmp_path / "number").write_text("7\n")
    fleet.known = {7}
    fleet.refuses = {
        "PullMessages": [refusal(401)], "SendNodeHeartbeat": [None, refusal(401), refusal(401)], "ActivateNode": [refusal(401)],
    }  # fmt: skip
    executor.run()

    assert noted == [("online", ""), ("refused-by-coordinator", "not-admitted"), ("online", "")]
    assert (tmp_path / "number").read_text() == "42\n"


def test_a_server_whose_state_is_new_gives_a_new_number_and_no_word_is_lost_about_it(executor, fleet, pauses, noted, tmp_path):
    """Flower says 401 to a number that is not this key's, too."""
    (tmp_path / "number").write_text("7\n")
    fleet.refuses = {"SendNodeHeartbeat": [refusal(401)]}
    executor.run()

    assert noted == [("online", "")]
    assert (tmp_path / "number").read_text() == "42\n"


def test_a_server_that_lets_a_node_in_and_shuts_it_out_at_once_is_not_asked_without_pause(executor, fleet, pauses):
    fleet.refuses = {"PullMessages": [refusal(401) for _ in range(8)]}
    executor.run()

    assert sum(pauses) > 60


def test_a_coordinator_that_is_away_is_looked_for_every_few_seconds(executor, fleet, pauses, noted):
    fleet.refuses = {"ActivateNode": [httpx.ConnectError(CANARY) for _ in range(6)]}
    executor.run()

    assert pauses[:6] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert noted == [("online", "")]


def test_a_node_that_waits_to_be_admitted_ends_when_it_is_told_to(executor, fleet):
    class Shut(FakeFleet):
        def ActivateNode(self, request):  # noqa: N802
            self.stop.set()
            raise refusal(401)

    executor.connect = lambda: Shut(fleet.stop)
    begun = time.monotonic()
    executor.run()

    assert time.monotonic() - begun < 5


def test_an_order_larger_than_the_policy_allows_is_answered_with_a_code_before_it_is_read(executor, fleet):
    fleet.orders = [order(2_000_000)]
    executor.answer = lambda message: pytest.fail("it was handed over")

    executor.run()

    assert [(message.has_error(), message.error.reason) for message in fleet.pushed] == [(True, "version")]


def test_the_coordinators_words_are_in_no_log(executor, fleet, pauses, caplog):
    fleet.refuses = {"ActivateNode": [refusal(409)], "PullMessages": [refusal(500), httpx.ConnectError(CANARY)]}
    with caplog.at_level(logging.DEBUG, logger="fedrad_client"):
        executor.run()

    assert "status 409" in caplog.text
    assert "status 500" in caplog.text
    assert "refused" not in caplog.text
    assert CANARY not in caplog.text


def test_the_log_names_run_round_and_answer(executor, fleet, caplog):
    fleet.orders = [order(signed=an_order())]
    with caplog.at_level(logging.INFO, logger="fedrad_client"):
        executor.run()

    assert [record.getMessage() for record in caplog.records] == [
        "connecting",
        "online",
        "order received: run tiny-0123abcd, round 3, train",
        "answered with busy: run tiny-0123abcd, round 3, train",
    ]


def test_what_is_no_order_is_not_repeated_in_the_log(executor, fleet, caplog):
    fleet.orders = [order(signed=Signed(body=json.dumps({"run": CANARY}), signature="0" * 128))]
    with caplog.at_level(logging.INFO, logger="fedrad_client"):
        executor.run()

    assert "order received: not an order of this release" in caplog.text
    assert CANARY not in caplog.text


def test_an_order_whose_form_flower_cannot_read_ends_nothing(executor, fleet, pauses, monkeypatch):
    found, broken = FakeFleet.PullMessages, iter([True])

    def pull(self, request):
        if next(broken, False):
            return SimpleNamespace(messages_list=[object()], message_object_trees=[])
        return found(self, request)

    monkeypatch.setattr(FakeFleet, "PullMessages", pull)
    fleet.orders = [order()]
    executor.run()

    assert len(fleet.pushed) == 1


def test_a_look_for_orders_adds_a_hundredth_of_the_wait_and_never_more_than_two_seconds():
    pauses = [module._pause(silence) for silence in (0, 5, 10, 60, 150, 200, 10_000)]

    assert pauses == [0.1, 0.1, 0.1, 0.6, 1.5, 2.0, 2.0]


def test_an_answer_makes_the_next_look_quick_again(executor, fleet, pauses, monkeypatch):
    monkeypatch.setattr(time, "monotonic", itertools.count(0, 100).__next__)
    fleet.orders = [order()]
    executor.run()

    assert fleet.calls.count("PullMessages") == 2
    assert pauses[-1] <= 2.0


def test_all_pieces_of_an_answer_are_sent_each_made_when_its_turn_comes(executor, fleet, monkeypatch):
    sent = {}

    def push_all(self, request):
        self.pushed += [message_from_proto(proto) for proto in request.messages_list]
        self.tree = request.message_object_trees[0]
        ids = messages.check_tree(self.tree, 1 << 30)
        return SimpleNamespace(objects_to_push=ids, session_id="s")

    def push_one(self, request):
        sent[request.object_id] = request.object_content
        return SimpleNamespace(stored=True)

    monkeypatch.setattr(FakeFleet, "PushObject", push_one, raising=False)
    monkeypatch.setattr(FakeFleet, "PushMessages", push_all)
    vector = np.arange(3_000_000, dtype=np.float32)
    signed = sign(Refused(code="busy"), SigningKey.generate())
    executor.answer = lambda message: Message(messages.answer_content(Answer(signed, vector)), reply_to=message)
    fleet.orders = [order()]
    executor.run()

    whole = messages.inflate(fleet.tree.object_id, sent, messages.most_bytes(3_000_000))
    assert np.array_equal(messages.read_answer(whole.content).vector, vector)


def test_how_long_the_work_took_is_not_told(executor, fleet, monkeypatch):
    seen = []
    pushed = FakeFleet.PushMessages
    monkeypatch.setattr(
        FakeFleet, "PushMessages", lambda self, request: (seen.extend(request.clientapp_runtime_list), pushed(self, request))[1]
    )
    fleet.orders = [order()]
    executor.run()

    assert seen == [0.0]


def test_an_answer_that_was_ended_while_it_waited_is_not_sent_and_the_order_is_asked_again(executor, fleet, tmp_path):
    """A second SIGTERM: the sealed answer stays in the outbox, and no earlier reply tells how long the work took."""

    def ended(message):
        raise SystemExit(143)

    executor.answer, fleet.orders = ended, [order()]
    with pytest.raises(SystemExit):
        executor.run()

    assert fleet.pushed == []
    assert (tmp_path / "interrupted").exists()


def test_a_node_that_was_told_to_stop_stays_online_until_its_answer_has_left(executor, fleet, monkeypatch):
    """A server that thinks it gone would answer the order in its place, while the answer waits for its slot."""
    monkeypatch.setattr(module, "BEAT", 0.01)
    beaten, answer = threading.Event(), executor.answer
    monkeypatch.setattr(FakeFleet, "SendNodeHeartbeat", lambda self, request: beaten.set())

    def waits(message):
        fleet.stop.set()
        beaten.clear()
        assert beaten.wait(20)
        return answer(message)

    executor.answer, fleet.orders = waits, [order()]
    executor.run()

    assert [message.has_error() for message in fleet.pushed] == [False]


def test_a_beat_comes_at_least_every_three_seconds_and_asks_flower_for_its_least_interval(executor):
    assert module.BEAT < 3
    assert executor._heartbeat(executor._node).heartbeat_interval == 10


def test_a_beat_that_fails_or_brings_nonsense_ends_nothing_and_is_told_while_the_site_works(executor, fleet, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "BEAT", 0.01)
    answer, seen = executor.answer, set()
    monkeypatch.setattr(FakeFleet, "SendNodeHeartbeat", lambda self, request: next(beats)())
    beats = itertools.cycle([lambda: fail(refusal(401)), lambda: fail(httpx.ConnectTimeout("")), lambda: None])

    def fail(error):
        raise error

    def works(message):
        deadline = time.monotonic() + 20
        while seen < {"not-admitted", "timeout", ""} and time.monotonic() < deadline:
            seen.add(json.loads((tmp_path / "contact.json").read_bytes())["code"])
        return answer(message)

    executor.answer, fleet.orders = works, [order()]
    executor.run()

    assert seen == {"not-admitted", "timeout", ""}
    assert [message.has_error() for message in fleet.pushed] == [False]


def test_nothing_beats_before_the_node_is_let_in(executor, fleet, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.001)
    lived = threading.Event()
    executor.alive = lived.set

    class Shut(FakeFleet):
        def ActivateNode(self, request):  # noqa: N802
            assert lived.wait(20)
            self.stop.set()
            raise refusal(401)

    shut = Shut(fleet.stop)
    executor.connect = lambda: shut
    executor.run()

    assert "SendNodeHeartbeat" not in shut.calls
