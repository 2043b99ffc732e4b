"""Transport only: fetches orders from the coordinator's Flower server and pushes answers. Knows no data, logs no foreign text.

It speaks Flower's Fleet API through Flower's own client, without a SuperNode: a bundle of code is never fetched, let alone run
(docs/decisions/0002-fleet-connection.md). A site that is not admitted, or no longer, waits and tries again.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fedrad_common.offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import httpx
from flwr.app import Message
from flwr.app.error import Error
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.supercore.task_identity import TaskIdentity

from fedrad_client.audit import Noted
from fedrad_client.node.contact import BEAT, LOOK, Contact
from fedrad_client.node.pieces import UNDELIVERED, Waiting, fetch, look, push
from fedrad_client.node.troubles import Trouble, trouble_of
from fedrad_client.node.wording import answered, asked
from fedrad_common.errors import FedradError, FormatError
from fedrad_common.files import write_atomic

log = logging.getLogger(__name__)

_QUICK = 0.1  # seconds between two looks, at least
_SHARE = 0.01  # of the time without an order, before the next look: what waiting adds to a round is a hundredth of it
_AWAY, _REFUSED = 5.0, 30.0  # seconds, the longest pauses after a failed connection and after a refusal
_CONNECTION = (httpx.HTTPError, FormatError, *UNDELIVERED)


@dataclass
class Executor:
    """One node's connection. `memory` is a folder of the site's home: the node's number, and the order that is being answered."""

    connect: Callable[[], AbstractContextManager[Any]]  # opens a Fleet client
    public_key: bytes  # of the node, as Flower writes it
    memory: Path
    answer: Callable[[Message], Message]
    most_bytes: int  # of an order
    stop: threading.Event
    contact: Contact
    diagnose: Callable[[BaseException], Trouble] = trouble_of
    note: Callable[[Noted, str], None] = lambda event, code: None  # for the audit log: let in, or turned away with a code
    alive: Callable[[], None] = lambda: None  # called every few seconds, also while the site works
    _node: Node = field(default_factory=Node)
    _failures: int = 0  # in a row
    _noted: tuple[str, str] = ("", "")
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Serve until `stop` is set; an answer that is being made is finished and sent first."""
        with self.connect() as fleet, self.connect() as beat:
            heart = threading.Thread(target=self._keep_alive, args=(beat,), daemon=True)
            heart.start()
            try:
                log.info("connecting")
                while self._arrive(fleet):
                    self._serve(fleet)
            finally:
                self.stop.set()
                self._ended.set()
                heart.join(1.0)

    def _arrive(self, fleet: Any) -> bool:
        """Be online, with the number of the last time if there was one: a server that believes us online refuses to activate us."""
        while not self.stop.is_set():
            try:
                number = self._remembered()
                if number is None or not self._resumed(fleet, number):
                    number = self._activate(fleet, number)
            except _CONNECTION as error:
                trouble = self.diagnose(error)
                self.contact.failed(trouble)
                if _shut_out(error):
                    self._note("refused-by-coordinator", trouble.code)
                self._wait(error)
                continue
            self._remember("number", f"{number}\n".encode())
            self._node, TaskIdentity.node_id = Node(node_id=number), number
            log.info("online")
            self.contact.fine(said=True)
            self._note("online", "")
            return True
        return False

    def _note(self, event: Noted, code: str) -> None:
        """Only from the thread that answers: an audit log that is open for it would make the site seem busy. A change, once."""
        if self._noted != (event, code):
            self._noted = (event, code)
            self.note(event, code)

    def _activate(self, fleet: Any, former: int | None) -> int:
        request = ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)
        try:
            return int(fleet.ActivateNode(request).node_id)
        except httpx.HTTPStatusError as error:
            if former is None or error.response.status_code == httpx.codes.UNAUTHORIZED:
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

    def _remember(self, name: str, content: bytes) -> None:
        try:
            write_atomic(self.memory / name, content)
        except FedradError as error:  # a courtesy; on a full disk the site still has a word to say
            log.warning("%s could not be noted: %s", name, type(error).__name__)

    def _heartbeat(self, node: Node) -> SendNodeHeartbeatRequest:
        return SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_MIN_INTERVAL)

    def _keep_alive(self, fleet: Any) -> None:
        """Also while the site works for minutes, and until its last answer has left. A missed beat is made up by the next one."""
        while not self._ended.wait(BEAT):
            self.alive()
            if not self._node.node_id:  # not online yet, or shut out
                continue
            try:
                fleet.SendNodeHeartbeat(self._heartbeat(self._node))
            except _CONNECTION as error:
                if not self._ended.is_set():
                    self.contact.failed(self.diagnose(error))
            else:
                self.contact.fine()

    def _wait(self, error: Exception) -> None:
        """Longer each time in a row: a hospital that waits to be admitted asks twice a minute."""
        most = _REFUSED if _shut_out(error) else _AWAY
        self.stop.wait(min(0.5 * 2 ** min(self._failures, 10), most))
        self._failures += 1

    def _serve(self, fleet: Any) -> None:
        """Look for orders and answer them, until `stop` is set or the server does not know this node any more."""
        since = time.monotonic()
        while not self.stop.is_set():
            try:
                self._report_interrupted(fleet)
                waiting = look(fleet, self._node)
                self._failures = 0
                self.contact.fine()
                if waiting is not None:
                    self._answer(fleet, waiting)
                    since = time.monotonic()
                    continue
            except _CONNECTION as error:
                if _shut_out(error):  # or the server's state is new, and knows us by another number: `_arrive` will see
                    self._node = Node()
                    self._wait(error)
                    return
                self.contact.failed(self.diagnose(error))
                self._wait(error)
                continue
            self.stop.wait(_pause(time.monotonic() - since))

    def _answer(self, fleet: Any, waiting: Waiting) -> None:
        """An order is handed out once: it is noted on disk, so that a killed node can say that it never answered."""
        head = waiting.head
        TaskIdentity.run_id, TaskIdentity.task_id = head.metadata.run_id, head.metadata.dst_task_id or 0
        self._remember("interrupted", waiting.proto.SerializeToString())
        try:
            message = fetch(fleet, self._node, waiting, most=self.most_bytes)
        except FormatError:
            log.error("an order could not be read")
            push(fleet, self._node, Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason="version"), reply_to=head))
        else:
            what = asked(message)
            log.info("order received: %s", what)
            reply = self.answer(message)
            del message  # its vector, before the answer's is sent
            push(fleet, self._node, reply)
            log.info("answered with %s: %s", answered(reply), what)
        (self.memory / "interrupted").unlink(missing_ok=True)

    def _report_interrupted(self, fleet: Any) -> None:
        """The coordinator then asks again at once, and the outbox answers for free, instead of waiting for a deadline."""
        path = self.memory / "interrupted"
        if not path.exists():
            return
        try:
            head = message_from_proto(ProtoMessage.FromString(path.read_bytes()))
            TaskIdentity.run_id, TaskIdentity.task_id = head.metadata.run_id, head.metadata.dst_task_id or 0
            push(fleet, self._node, Message(Error(code=ErrorCode.CLIENT_APP_CRASHED, reason="restarted"), reply_to=head))
        except Exception as error:  # a courtesy: whatever else is wrong with it, the deadline does the same
            if isinstance(error, httpx.TransportError) or _shut_out(error):
                raise  # the note stays until it could be delivered
            log.warning("an interrupted order could not be reported: %s", type(error).__name__)
        path.unlink()


def _pause(silence: float) -> float:
    """Seconds until the next look, after so many without an order."""
    return min(max(_QUICK, _SHARE * silence), LOOK)


def _shut_out(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED
