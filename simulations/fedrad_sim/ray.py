"""Many sites on Flower's own simulation engine: the same server and site code, spread over Ray's worker processes."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedrad_common import offline  # noqa: F401 - first: Flower and Ray read their switches at import

# isort: split
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedrad_client.app import open_and_handle
from fedrad_client.site import open_site
from fedrad_common.errors import FedradError
from fedrad_server.app import play_on
from fedrad_server.rounds import Outcome, Progress
from fedrad_server.runs import Run
from fedrad_sim.entropy import run_seeded, seeded_entropy

PARTITION = "partition-id"  # Flower's word for which of the simulated nodes a worker is at the moment
_CPUS = 2
_START = 180.0  # seconds until Ray's workers have loaded everything
_STRETCH = 100  # a slow machine must make no simulated hospital late: its deadlines are that much longer


class NamedGrid:
    """Ray's nodes have random numbers and no names: each is asked once which site it is."""

    def __init__(self, grid: Grid, names: list[str]) -> None:
        self._grid = grid
        questions = [Message(RecordDict(), dst_node_id=number, message_type="query") for number in _present(grid, len(names))]
        replies = list(grid.send_and_receive(questions, timeout=_START))
        if len(replies) < len(names) or any(reply.has_error() for reply in replies):
            raise FedradError("engine ray: its workers did not start", hint="use --engine local")
        self._nodes = [
            NodeInfo(node_id=reply.metadata.src_node_id, name=names[int(reply.content[PARTITION][PARTITION])]) for reply in replies
        ]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)  # type: ignore[no-any-return]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)  # type: ignore[no-any-return]


def _present(grid: Grid, wanted: int) -> list[int]:
    """The numbers of all nodes: the engine registers them while the server's side runs already."""
    deadline = time.monotonic() + _START
    while len(numbers := sorted(grid.get_node_ids())) < wanted:
        if time.monotonic() > deadline:
            raise FedradError("engine ray: its nodes did not come", hint="use --engine local")
        time.sleep(0.05)
    return numbers


def client_app(homes: dict[str, Path], seed: int) -> ClientApp:
    """One app for all sites; the number of its node says whose home it opens, for one message."""
    names, app = sorted(homes), ClientApp()

    def respond(message: Message, context: Context) -> Message:
        name = names[int(context.node_config[PARTITION])]
        return open_and_handle(message, lambda: open_site(homes[name]), work=run_seeded, entropy=seeded_entropy(seed, name))

    def who(message: Message, context: Context) -> Message:
        answer = ConfigRecord({PARTITION: int(context.node_config[PARTITION])})
        return Message(RecordDict({PARTITION: answer}), reply_to=message)

    app.train()(respond)
    app.evaluate()(respond)
    app.query()(who)
    return app


def play_ray(run: Run, homes: dict[str, Path], *, seed: int, progress: Progress | None = None) -> Outcome:
    """See `fedrad_sim.engines.Engine`. Takes some ten seconds to start.

    Raises:
        FedradError: the engine ended before the run did.
    """
    server, outcomes = ServerApp(), list[Outcome]()

    def main(grid: Grid, context: Context) -> None:
        del context
        named = NamedGrid(grid, sorted(homes))
        outcomes.append(play_on(named, run, progress=progress, clock=lambda: time.monotonic() / _STRETCH))

    server.main()(main)
    absolute = {name: home.absolute() for name, home in homes.items()}
    with _quiet(), _short_folder() as folder, _flower_home(folder):
        run_simulation(server_app=server, client_app=client_app(absolute, seed), num_supernodes=len(homes), backend_config=_backend(folder))
    if not outcomes:
        raise FedradError("engine ray: ended before the run did", hint="use --engine local, or run the same command again to go on")
    return outcomes[0]


def _backend(folder: Path) -> dict[str, Any]:
    return {
        "init_args": {
            "num_cpus": _CPUS,
            "num_gpus": 0,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "_temp_dir": str(folder),
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }


@contextlib.contextmanager
def _short_folder() -> Any:
    """Ray puts sockets into it, whose paths may have 107 characters; it never cleans up."""
    folder = Path(tempfile.mkdtemp(prefix="fr-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _flower_home(folder: Path) -> Any:
    """Flower writes a number of this machine into its home, even with telemetry off: not into the user's."""
    former = os.environ.get("FLWR_HOME")
    os.environ["FLWR_HOME"] = str(folder / "flwr")
    try:
        yield
    finally:
        del os.environ["FLWR_HOME"]
        if former is not None:
            os.environ["FLWR_HOME"] = former


@contextlib.contextmanager
def _quiet() -> Any:
    """Flower says on each run that `run_simulation` will go; there is no other entry yet."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
