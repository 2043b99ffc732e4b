"""All sites in one process: Flower's Grid without a network, so that the same server and site code runs in a simulation."""

import resource
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedrad_client.app import handle
from fedrad_client.site import open_site
from fedrad_server.app import play_on
from fedrad_server.rounds import Outcome, Progress
from fedrad_server.runs import Run
from fedrad_sim.entropy import run_seeded, seeded_entropy

_SERVER = 1  # Flower's number of the server's side
_DESCRIPTORS = 16  # files that an open site may hold, with a margin


@dataclass
class SimulatedClock:
    """Time passes only while somebody waits: a slow machine makes no simulated hospital late."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class LocalGrid(Grid):  # type: ignore[misc] # Flower's classes are Any to mypy
    """Messages wait here; a site works when its reply is pulled, so that one answer at a time is in memory."""

    def __init__(self, names: Iterable[str], answer: Callable[[str, Message], Message]) -> None:
        # Flower keeps who we are in the process, and every message is stamped with it.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = _SERVER
        self._names = dict(enumerate(names, start=_SERVER + 1))
        self._answer = answer
        self._waiting: dict[str, Message] = {}
        self._sent = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number, name=name) for number, name in self._names.items()]

    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            self._sent += 1
            number = message.metadata.__dict__["_message_id"] = f"local-{self._sent}"  # no hash: nothing travels
            self._waiting[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            message = self._waiting.pop(number, None)
            if message is not None:
                yield self._answer(self._names[message.metadata.dst_node_id], message)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def play_local(run: Run, homes: dict[str, Path], *, seed: int, progress: Progress | None = None) -> Outcome:
    """See `fedrad_sim.engines.Engine`. The sites stay open until the run is over.

    Raises:
        BusyError: another process has one of the sites open.
    """
    _allow_open_files(_DESCRIPTORS * len(homes))
    with ExitStack() as stack:
        sites = {name: stack.enter_context(open_site(home)) for name, home in sorted(homes.items())}
        entropy = {name: seeded_entropy(seed, name) for name in sites}

        def answer(name: str, message: Message) -> Message:
            return handle(message, site=sites[name], work=run_seeded, entropy=entropy[name])

        clock = SimulatedClock()
        return play_on(LocalGrid(sites, answer), run, progress=progress, clock=clock, sleep=clock.sleep)


def _allow_open_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(needed + 256, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
