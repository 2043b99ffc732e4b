"""What the coordinator's program makes of a reply: never more than an answer has, never a wait, and the server's word on whose it is."""

import time
from types import SimpleNamespace

import pytest

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from fedrad_common.records import Answer
from fedrad_server.app.sites import answer_in
from fedrad_server.app.task import BoundedGrid

REFUSAL = Answer(refusal="busy")
MOST = messages.most_bytes(1000)


class Runtime:
    """The server's side. A piece is there, awaited, or unknown."""

    def __init__(self, reply: Message, answered: str, *, awaited: int = 0, unknown: int = 0) -> None:
        self.tree, self.answered = get_object_tree(reply), answered
        self.contents = {name: found.deflate() for name, found in get_all_nested_objects(reply).items()}
        self.proto = message_to_proto(reply)
        names = list(self.contents)
        self.awaited, self.unknown = set(names[:awaited]), set(names[:unknown])
        self.confirmed, self.asked = list[str](), 0

    def PullMessages(self, request):  # noqa: N802
        self.proto.metadata.reply_to_message_id = self.answered
        return PullAppMessagesResponse(messages_list=[self.proto], message_object_trees=[self.tree])

    def PullObject(self, request):  # noqa: N802
        self.asked += 1
        name = request.object_id
        there = name not in self.awaited | self.unknown
        content = self.contents[name] if there else b""
        return PullObjectResponse(object_found=name not in self.unknown, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def reply(content: RecordDict | None = None) -> Message:
    order = Message(RecordDict(), dst_node_id=2, message_type="train", ttl=60.0)
    order.metadata.__dict__["_message_id"] = "what the reply itself says that it answers"
    return Message(messages.answer_content(REFUSAL) if content is None else content, reply_to=order)


def pulled(runtime: Runtime, *wanted: str, most: int = MOST) -> list[Message]:
    grid = BoundedGrid("127.0.0.1:1", "token", most_bytes=most)
    grid._client = SimpleNamespace(**{name: getattr(runtime, name) for name in ("PullMessages", "PullObject", "ConfirmMessageReceived")})
    return list(grid.pull_messages(wanted))


def test_a_whole_reply_is_read_and_confirmed():
    runtime = Runtime(reply(), "m1")
    [found] = pulled(runtime, "m1", "m2")

    assert answer_in(found) == REFUSAL
    assert runtime.confirmed == [runtime.tree.object_id]


def test_what_a_reply_answers_is_the_servers_word_and_not_its_own():
    [found] = pulled(Runtime(reply(), "m2"), "m1", "m2")

    assert found.metadata.reply_to_message_id == "m2"


def test_what_nobody_asked_for_is_not_looked_at():
    runtime = Runtime(reply(), "")

    assert pulled(runtime, "m1") == []
    assert not runtime.asked


@pytest.mark.parametrize("missing", [{"awaited": 1}, {"unknown": 1}])
def test_a_reply_that_is_not_whole_is_given_up_at_once_as_malformed(missing):
    runtime = Runtime(reply(), "m1", **missing)
    began = time.monotonic()
    [found] = pulled(runtime, "m1")

    assert time.monotonic() - began < 5
    assert (answer_in(found), found.metadata.reply_to_message_id) == (Answer(), "m1")
    assert runtime.asked <= len(runtime.contents)
    assert not runtime.confirmed


def test_a_reply_that_is_too_large_or_has_too_many_pieces_is_malformed():
    runtime = Runtime(reply(), "m1")
    assert [answer_in(found) for found in pulled(runtime, "m1", most=10)] == [Answer()]
    for number in range(1000):
        runtime.tree.children.add(object_id=f"{number:064}")
    runtime.asked = 0
    assert [answer_in(found) for found in pulled(runtime, "m1")] == [Answer()]
    assert not runtime.asked
