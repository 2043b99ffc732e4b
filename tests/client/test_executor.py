"""The transport of a site: resumes, reports what was interrupted, gives up when shut out, and says nothing but codes."""

import logging
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedrad_client.node.executor import Executor
from fedrad_common import messages
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Refused, sign

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
        if self.refuses.get(name):
            raise self.refuses[name].pop(0)

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
def executor(tmp_path, monkeypatch, fleet):
    monkeypatch.setattr(Executor, "_connect", lambda self: fleet)
    answer = lambda message: Message(messages.answer_content(Answer(refusal="busy")), reply_to=message)  # noqa: E731
    key = ec.generate_private_key(ec.SECP384R1())
    return Executor("127.0.0.1:1", key, tmp_path, answer, messages.most_bytes(1000), fleet.stop)


def order(length: int = 4) -> Message:
    signed = sign(Refused(code="busy"), SigningKey.generate())
    return Message(messages.order_content(signed, np.ones(length, np.float32)), dst_node_id=42, message_type="train")


def test_an_order_is_fetched_answered_and_forgotten(executor, fleet, tmp_path):
    fleet.orders = [order()]

    assert executor.run() == "stopped"

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

    assert executor.run() == "stopped"
    assert len(fleet.pushed) == 1


@pytest.mark.parametrize("call", ["ActivateNode", "PullMessages"])
def test_a_node_that_is_shut_out_ends(executor, fleet, call):
    fleet.refuses = {call: [refusal(401)]}

    assert executor.run() == "not-admitted"


def test_an_order_larger_than_the_policy_allows_is_answered_with_a_code_before_it_is_read(executor, fleet):
    fleet.orders = [order(2_000_000)]
    executor.answer = lambda message: pytest.fail("it was handed over")

    executor.run()

    assert [(message.has_error(), message.error.reason) for message in fleet.pushed] == [(True, "version")]


def test_the_coordinators_words_are_in_no_log(executor, fleet, caplog, monkeypatch):
    monkeypatch.setattr("fedrad_client.node.executor._SLOW", 0.0)
    fleet.refuses = {"ActivateNode": [refusal(409)], "PullMessages": [refusal(500), httpx.ConnectError(CANARY)]}
    with caplog.at_level(logging.DEBUG, logger="fedrad_client"):
        executor.run()

    assert "status 409" in caplog.text
    assert CANARY not in caplog.text


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
    monkeypatch.setattr("fedrad_client.node.executor.HEARTBEAT_MIN_INTERVAL", 0.01)
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
