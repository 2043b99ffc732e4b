"""Orders and answers in Flower's pieces: pulled and pushed a few at a time, bounded before they are put together."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_objects,
    push_object_contents_from_iterable,
)

from fedrad_common.errors import FormatError

PATIENCE = 300.0  # seconds for the pieces of one order, whose sender may still be uploading
UNDELIVERED = (ObjectPullError, ObjectPushError)  # what Flower's helpers raise of their own
_AT_ONCE = 4  # pieces of 5 MiB in flight, on as many cores
_TRIES = 6
T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """An order that the server has handed out and that is not fetched yet."""

    proto: ProtoMessage
    tree: ObjectTree
    head: Message


def look(fleet: Any, node: Node) -> Waiting | None:
    """Ask once for an order. Raises FormatError when what comes is none; the server hands out each order once."""
    found = fleet.PullMessages(PullMessagesRequest(node=node))
    if not found.messages_list:
        return None
    try:
        return Waiting(found.messages_list[0], found.message_object_trees[0], message_from_proto(found.messages_list[0]))
    except Exception as error:  # whatever a hostile server makes Flower's parsers raise; the text may quote it
        raise FormatError(f"order: cannot be read ({type(error).__name__})") from None


def fetch(fleet: Any, node: Node, waiting: Waiting, *, most: int) -> Message:
    """Pull all of an order and tell the server that it came.

    Raises:
        FormatError: it would be larger than `most` bytes, or cannot be read.
        ObjectPullError: a piece did not come in time.
    """
    run, left, counting = waiting.head.metadata.run_id, most, threading.Lock()
    pull = make_pull_object_fn_protobuf(lambda request: retried(fleet.PullObject, request), node, run)

    def pull_within(object_id: str) -> bytes:
        nonlocal left
        content: bytes = pull(object_id)
        with counting:
            left -= len(content)
            if left < 0:
                raise FormatError("message: larger than the site's policy allows")
        return content

    ids = messages.check_tree(waiting.tree, most)
    contents = pull_objects(ids, pull_within, max_concurrent_pulls=_AT_ONCE, initial_backoff=0.05, backoff_cap=2.0, max_time=PATIENCE)
    confirm = make_confirm_message_received_fn_protobuf(lambda request: retried(fleet.ConfirmMessageReceived, request), node, run)
    confirm(waiting.tree.object_id)
    return messages.inflate(waiting.tree.object_id, contents, most)


def push(fleet: Any, node: Node, reply: Message) -> None:
    """Send an answer. A piece is made when its turn comes: all of them at once would hold the vector twice."""
    run = reply.metadata.run_id
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
        request = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree],
            clientapp_runtime_list=[0.0],  # Flower's server would like to know how long the work took: nobody's business
        )
        taken = retried(fleet.PushMessages, request)
        send = make_push_object_fn_protobuf(lambda request: retried(fleet.PushObject, request), node, run, taken.session_id)
        wanted = ((number, b"") for number in objects if number in set(taken.objects_to_push))
        push_object_contents_from_iterable(
            wanted, lambda number, _: send(number, objects[number].deflate()), max_concurrent_pushes=_AT_ONCE
        )


def retried(call: Callable[[Any], T], request: Any) -> T:
    """A server that restarts is away for a few seconds."""
    for attempt in range(_TRIES):
        try:
            return call(request)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            passing = isinstance(error, httpx.TransportError) or error.response.status_code in (502, 503, 504)
            if not passing or attempt == _TRIES - 1:
                raise
            threading.Event().wait(min(0.2 * 2**attempt, 5.0))
    raise AssertionError("the loop returns or raises")
