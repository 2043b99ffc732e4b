"""Transport only: fetches orders from the coordinator's Flower server and pushes answers. Knows no key but the node's, no data, no text.

It speaks Flower's Fleet API through Flower's own client, without a SuperNode: a bundle of code is never fetched, let alone run
(docs/decisions/0002-fleet-connection.md). What happens is logged as codes; an exception's text could quote the other side.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Message
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError, pull_objects, push_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrad_common.errors import FedradError, FormatError
from fedrad_common.files import write_atomic

log = logging.getLogger(__name__)

End = Literal["stopped", "not-admitted"]
_QUICK, _SLOW = 0.1, 2.0  # seconds between two looks: after an order, and when nothing has come for a while
_PATIENCE = 300.0  # seconds for the pieces of one order, whose sender may still be uploading
_TRIES = 6
T = TypeVar("T")


class NotAdmittedError(Exception):
    """The coordinator does not know this node's key, or does no longer."""


@dataclass
class Executor:
    """One node's connection. `memory` is a folder of the site's home: the node's number, and the order that is being answered."""

    server: str  # HOST:PORT
    key: EllipticCurvePrivateKey
    memory: Path
    answer: Callable[[Message], Message]
    most_bytes: int  # of an order
    stop: threading.Event
    _node: Node = field(default_factory=Node)
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> End:
        """Serve until `stop` is set; an answer that is being made is finished and sent first."""
        with self._connect() as fleet, self._connect() as beat:
            heart = threading.Thread(target=self._keep_alive, args=(beat,), daemon=True)
            try:
                if not self._arrive(fleet):
                    return "stopped"
                heart.start()
                self._serve(fleet)
            except NotAdmittedError:
                return "not-admitted"
            finally:
                self.stop.set()
                self._ended.set()
                if heart.is_alive():
                    heart.join()
        return "stopped"

    def _connect(self) -> Any:
        identity = NodeAuthHttpInterceptor(self.key, self.key.public_key())
        version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        return FleetHttpClient.from_server_address(self.server, True, None, interceptors=[version, identity])

    def _arrive(self, fleet: Any) -> bool:
        """Be online, with the number of the last time if there was one: a server that believes us online refuses to activate us."""
        log.info("connecting")
        while not self.stop.is_set():
            try:
                number = self._remembered()
                if number is None or not self._resumed(fleet, number):
                    number = self._activate(fleet, number)
                self._node = Node(node_id=number)
                write_atomic(self.memory / "number", f"{number}\n".encode())
                TaskIdentity.node_id = number
                log.info("online")
                return True
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                _refused(error)
                self.stop.wait(_SLOW)
        return False

    def _activate(self, fleet: Any, former: int | None) -> int:
        public = public_key_to_bytes(self.key.public_key())
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        try:
            return int(fleet.ActivateNode(request).node_id)
        except httpx.HTTPStatusError:
            if former is None:
                raise
            fleet.DeactivateNode(DeactivateNodeRequest(node_id=former))
            return int(fleet.ActivateNode(request).node_id)

    def _resumed(self, fleet: Any, number: int) -> bool:
        try:
            return bool(fleet.SendNodeHeartbeat(self._heartbeat(Node(node_id=number))).success)
        except httpx.HTTPStatusError:
            return False  # the coordinator's state is new: its registration of us has another number

    def _remembered(self) -> int | None:
        try:
            return int((self.memory / "number").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _heartbeat(self, node: Node) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)

    def _keep_alive(self, fleet: Any) -> None:
        """Also while the site works for minutes, and until its last answer has left. A missed beat is made up by the next one."""
        while not self._ended.wait(0.7 * HEARTBEAT_MIN_INTERVAL):
            try:
                fleet.SendNodeHeartbeat(self._heartbeat(self._node))
            except httpx.HTTPError as error:
                log.warning("heartbeat failed: %s", _code(error))

    def _serve(self, fleet: Any) -> None:
        pause = _QUICK
        while not self.stop.is_set():
            try:
                self._report_interrupted(fleet)
                found = fleet.PullMessages(PullMessagesRequest(node=self._node))
                if found.messages_list:
                    self._answer(fleet, found.messages_list[0], found.message_object_trees[0])
                    pause = _QUICK
                    continue
            except (httpx.HTTPError, ObjectPullError, ObjectPushError, FormatError) as error:
                _refused(error)
            self.stop.wait(pause)
            pause = min(1.3 * pause, _SLOW)

    def _answer(self, fleet: Any, proto: ProtoMessage, tree: ObjectTree) -> None:
        """An order is handed out once: it is noted on disk, so that a killed node can say that it never answered."""
        head = message_from_proto(proto)
        TaskIdentity.run_id, TaskIdentity.task_id = head.metadata.run_id, head.metadata.dst_task_id or 0
        try:
            write_atomic(self.memory / "interrupted", proto.SerializeToString())
        except FedradError as error:  # the note is a courtesy; on a full disk the site still has a word to say
            log.warning("an order could not be noted: %s", type(error).__name__)
        try:
            message = self._fetch(fleet, head, tree)
        except FormatError:
            log.error("an order could not be read")
            self._push(fleet, Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason="version"), reply_to=head))
        else:
            log.info("order received")
            self._push(fleet, self.answer(message))
            log.info("answer sent")
        (self.memory / "interrupted").unlink(missing_ok=True)

    def _report_interrupted(self, fleet: Any) -> None:
        """The coordinator then asks again at once, and the outbox answers for free, instead of waiting for a deadline."""
        path = self.memory / "interrupted"
        if not path.exists():
            return
        try:
            head = message_from_proto(ProtoMessage.FromString(path.read_bytes()))
            TaskIdentity.run_id, TaskIdentity.task_id = head.metadata.run_id, head.metadata.dst_task_id or 0
            self._push(fleet, Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="restarted"), reply_to=head))
        except httpx.TransportError:
            raise  # the note stays until it could be delivered
        except Exception as error:  # a courtesy: whatever else is wrong with it, the deadline does the same
            log.warning("an interrupted order could not be reported: %s", _code(error))
        path.unlink()

    def _fetch(self, fleet: Any, head: Message, tree: ObjectTree) -> Message:
        run, left = head.metadata.run_id, self.most_bytes
        pull = make_pull_object_fn_protobuf(lambda request: _retried(fleet.PullObject, request), self._node, run)

        def pull_within(object_id: str) -> bytes:
            nonlocal left
            content: bytes = pull(object_id)
            left -= len(content)
            if left < 0:
                raise FormatError("message: larger than the site's policy allows")
            return content

        ids = messages.check_tree(tree, self.most_bytes)
        contents = pull_objects(ids, pull_within, initial_backoff=0.05, backoff_cap=2.0, max_time=_PATIENCE)
        confirm = make_confirm_message_received_fn_protobuf(
            lambda request: _retried(fleet.ConfirmMessageReceived, request), self._node, run
        )
        confirm(tree.object_id)
        return messages.inflate(tree.object_id, contents, self.most_bytes)

    def _push(self, fleet: Any, reply: Message) -> None:
        run = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.0],  # Flower's server would like to know how long the work took: nobody's business
            )
            taken = _retried(fleet.PushMessages, request)
            push = make_push_object_fn_protobuf(lambda request: _retried(fleet.PushObject, request), self._node, run, taken.session_id)
            push_objects(objects, push, object_ids_to_push=set(taken.objects_to_push))


def _retried(call: Callable[[Any], T], request: Any) -> T:
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


def _refused(error: Exception) -> None:
    """Log a code; end for good where the server does not know this node."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED:
        raise NotAdmittedError
    log.warning("the coordinator's server: %s", _code(error))


def _code(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        known = FlowerError.from_json(error.response.text)
        return f"status {error.response.status_code}, code {known.code if known else 'none'}"
    return type(error).__name__
