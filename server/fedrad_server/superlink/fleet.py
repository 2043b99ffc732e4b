"""What a site that is who it says may ask for: to answer its own orders, with one small tree, and to fetch what was sent to it.

Flower knows whose request it is, and then believes what stands in it: a node could answer an order of another one, send orders itself,
pull or delete pieces of others, and announce a hundred thousand objects, for which everybody else would wait. This layer stands behind
Flower's authentication and before its handlers. It reads the database, and writes nothing.
"""

from dataclasses import dataclass
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.supercore.utils import uint64_to_int64
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fedrad_common import messages
from fedrad_common.errors import FormatError
from fedrad_server.superlink.bounds import MOST_PER_ANSWER

DEEPEST = 6  # levels of a tree; message, records, record, array and piece are five
_ORDER = "SELECT dst_node_id FROM message_ins WHERE message_id = :id"
_OTHER = "SELECT 1 FROM message_res WHERE message_id = :id AND reply_to_message_id != :order"
_KNOWN = "SELECT 1 FROM objects WHERE object_id = :id"
# Downwards from the messages to this node: however much others announce, these are few.
_SENT_TO = """
    WITH RECURSIVE below(id) AS (
        SELECT message_id FROM message_ins WHERE dst_node_id = :node
        UNION SELECT child_id FROM object_children JOIN below ON parent_id = below.id
    )
    SELECT 1 FROM below WHERE id = :id LIMIT 1
"""


class NotAllowed(Exception):  # noqa: N818 - an answer, not a fault
    """A request that no node of ours makes."""


@dataclass
class FleetRules:
    """A layer of Flower's application, the innermost one: what comes here is authenticated and parsed. `state` is our `LinkState`."""

    app: ASGIApp
    state: Any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/fleet/"):
            return await self.app(scope, receive, send)
        try:
            found = await run_in_threadpool(check, scope["state"]["protobuf_request"], self.state)
        except NotAllowed:
            return await JSONResponse({"detail": "not allowed"}, 403)(scope, receive, send)
        if found is None:
            return await self.app(scope, receive, send)
        scope["state"]["protobuf_response"] = found  # as Flower's routes hand over theirs
        return await Response()(scope, receive, send)


def check(request: Any, state: Any) -> Any:
    """None where Flower may go on; otherwise what it would have answered if there were nothing.

    Raises:
        NotAllowed: what our node never asks.
    """
    if isinstance(request, PushMessagesRequest):
        _check_push(request, state)
    elif isinstance(request, PullObjectRequest) and not _was_sent(request.object_id, request.node.node_id, state):
        return PullObjectResponse(object_found=False, object_available=False)
    elif isinstance(request, ConfirmMessageReceivedRequest):
        _check_confirmation(request, state)
    return None


def check_tree(tree: ObjectTree, root: str) -> None:
    """Raises NotAllowed: not this message's, or larger or deeper than any answer's."""
    if tree.object_id != root:
        raise NotAllowed
    try:
        messages.check_tree(tree, MOST_PER_ANSWER)
    except FormatError:
        raise NotAllowed from None
    level, depth = [tree], 0
    while level:
        level, depth = [child for branch in level for child in branch.children], depth + 1
        if depth > DEEPEST:
            raise NotAllowed


def _check_push(request: PushMessagesRequest, state: Any) -> None:
    """One reply, of this node, to an order of this node. One to an order that is gone is Flower's to refuse: it may have been in time."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise NotAllowed
    metadata, node = request.messages_list[0].metadata, request.node.node_id
    if metadata.src_node_id != node or not metadata.reply_to_message_id:
        raise NotAllowed
    check_tree(request.message_object_trees[0], metadata.message_id)
    order = state.query(_ORDER, {"id": metadata.reply_to_message_id})
    if order and order[0]["dst_node_id"] != uint64_to_int64(node):
        raise NotAllowed
    if state.query(_OTHER, {"id": metadata.message_id, "order": metadata.reply_to_message_id}):
        raise NotAllowed


def _check_confirmation(request: ConfirmMessageReceivedRequest, state: Any) -> None:
    """Flower deletes what is confirmed. What is gone already may be confirmed again: the answer to the first time was lost."""
    number = request.message_object_id
    order = state.query(_ORDER, {"id": number})
    if order[0]["dst_node_id"] != uint64_to_int64(request.node.node_id) if order else state.query(_KNOWN, {"id": number}):
        raise NotAllowed


def _was_sent(number: str, node: int, state: Any) -> bool:
    return bool(state.query(_SENT_TO, {"id": number, "node": uint64_to_int64(node)}))
