"""The server process: claims the task that Flower made of our run and plays it. No superexec, no unpacked bundle, no token in `ps`.

A run of Flower is one epoch of ours: an older one that was left open (its coordinator was killed) is stopped before a new one starts.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
import httpx
from flwr.app import Message, MessageType, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullAppMessagesRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.error import FlowerError
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedrad_common.bundle import HASH
from fedrad_common.errors import FedradError, FormatError
from fedrad_server.app import play_on
from fedrad_server.contacts import ages
from fedrad_server.control import Control
from fedrad_server.rounds import Outcome, Progress
from fedrad_server.runs import Run
from fedrad_server.superlink.files import SuperLinkFiles, not_running

_TASK = "flwr-serverapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_PATIENCE = 30.0  # seconds until Flower has made a task of a run


class BoundedGrid(HttpGrid):  # type: ignore[misc] # Flower's classes are Any to mypy
    """Flower's Grid over HTTP, which never reads more of an answer than the run's largest one has, and never waits for a sender."""

    def __init__(self, address: str, token: str, *, most_bytes: int) -> None:
        super().__init__(address, True, token=token)
        self.most_bytes = most_bytes

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What there is: at most one reply and Flower's own errors, for our server keeps back what is not whole, and all but one.

        Of a reply only the server's word is kept on what it answers. One that is too large, not whole or no message comes as an empty one.
        """
        wanted = list(message_ids)
        found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        # Flower adds whatever a node sent to the server of its own accord: nobody asked for that.
        return (self._read(answered, tree) for proto, tree in pairs if (answered := proto.metadata.reply_to_message_id) in wanted)

    def _read(self, answered: str, tree: ObjectTree) -> Message:
        try:
            message = self._fetch(tree)
        except FormatError:
            message = make_message(Metadata(TaskIdentity.run_id, "", 0, 0, "", "", 0.0, 0.0, MessageType.QUERY), content=RecordDict())
        message.metadata.__dict__["_reply_to_message_id"] = answered
        return message

    def _fetch(self, tree: ObjectTree) -> Message:
        run, left = TaskIdentity.run_id, self.most_bytes
        pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, self.node, run)

        def pull_within(object_id: str) -> bytes:
            nonlocal left
            content: bytes = pull(object_id)
            left -= len(content)
            if left < 0:
                raise FormatError("message: larger than any answer to this run")
            return content

        ids = messages.check_tree(tree, self.most_bytes)
        try:
            contents = pull_objects(ids, pull_within, max_tries_per_object=1)
        except ObjectPullError:
            raise FormatError("message: its sender never finished uploading it") from None
        confirmation = ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=tree.object_id)
        self._runtime_client.ConfirmMessageReceived(confirmation)
        return messages.inflate(tree.object_id, contents, self.most_bytes, most_text=messages.MOST_TEXT)


def play_run(run: Run, files: SuperLinkFiles, *, progress: Progress) -> Outcome:
    """Play one epoch of an open run over the coordinator's running server.

    Raises:
        FedradError: the server is away or says no, or somebody stopped the run there; it can be opened and played again.
    """
    address = f"127.0.0.1:{files.serving.private}"
    with surfacing():
        with Control.open(files) as control:
            for former in control.open_runs():
                control.stop_run(former)
            number = control.start_run(run.launch.run)
        with _task(address, files.secret, number, most_bytes=_largest_answer(run)) as grid:
            return play_on(grid, run, progress=progress, contacts=lambda: ages(files.folder, time.time()))


def _largest_answer(run: Run) -> int:
    protocol = run.protocol
    return messages.most_bytes(max(run.state.model.size, 2 * protocol.evaluation.bins * len(protocol.task.labels)))


@contextmanager
def _task(address: str, secret: str, number: int, *, most_bytes: int) -> Iterator[BoundedGrid]:
    """Claim Flower's task for run `number`, keep it alive, and say at the end how it went."""
    grid = BoundedGrid(address, _claim(address, secret, number), most_bytes=most_bytes)
    client = grid._runtime_client
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    outcome, detail = SubStatus.FAILED, "internal"
    try:
        given = client.PullTaskInput(PullTaskInputRequest())
        run = run_from_proto(given.run)
        if run.run_id != number or run.fab_hash != HASH:
            raise FedradError("the coordinator's server handed out another run", hint="something else starts runs on it")
        # Flower keeps who we are in the process, and every message is stamped with it.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = given.task_id, run.run_id, given.context.node_id
        grid.set_run(run)
        yield grid
        outcome, detail = SubStatus.COMPLETED, ""
    finally:
        with suppress(httpx.HTTPError, RunNotRunningException):  # stopped there already: the run directory is what counts
            client.PushTaskOutput(PushTaskOutputRequest(context=None, sub_status=outcome, details=detail))
        heartbeat.stop()
        grid.close()


def _claim(address: str, secret: str, number: int) -> str:
    """The token of the task. Whatever other task is waiting is nobody's: one process at a time launches on a coordinator."""
    signature = SuperExecAuthHttpInterceptor(master_secret=secret.encode(), protected_methods=frozenset({_ACQUIRE}))
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    client: Any = RuntimeHttpClient.from_server_address(
        server_address=address, insecure=True, root_certificates=None, interceptors=[version, signature]
    )
    deadline = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < deadline:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[_TASK], agentapp_fab_hashes=[]))
            if found.token and found.task.run_id == number:
                return str(found.token)
            time.sleep(0.05)
    finally:
        client.close()
    raise FedradError("the coordinator's server made no task of the run", hint="it is tried again by itself; see the server's log")


@contextmanager
def surfacing() -> Iterator[None]:
    """Flower's errors as ours: what it refused, by number, and what to do; never the other side's words."""
    try:
        yield
    except RunNotRunningException:
        raise stopped() from None
    except httpx.TransportError:
        raise not_running() from None
    except httpx.HTTPStatusError as error:
        raise _refused(error.response.status_code, FlowerError.from_json(error.response.text)) from None
    except FlowerError as error:
        raise _refused(0, error) from None


def _refused(status: int, known: FlowerError | None) -> FedradError:
    hint = "it is tried again by itself; where that goes on, start the coordinator anew and look at its log"
    return FedradError(f"the coordinator's server refused a call: status {status}, code {known.code if known else 'none'}", hint=hint)


def stopped() -> FedradError:
    return FedradError("Flower ended its run at the coordinator's server", hint="a new epoch begins by itself")
