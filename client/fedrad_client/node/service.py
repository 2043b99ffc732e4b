"""A site's node: one process in the foreground that keeps the connection and opens the site for each order. SIGTERM ends it in order."""

import logging
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from fedrad_client.app import answer_in_slot
from fedrad_client.node.executor import Executor
from fedrad_client.node.key import PUBLIC, node_key
from fedrad_client.site import Home
from fedrad_client.work import run_child
from fedrad_common.address import loopback
from fedrad_common.errors import MisuseError
from fedrad_common.files import exclusive_lock
from fedrad_common.messages import most_bytes

log = logging.getLogger(__name__)


def run_node(home: Path, server: str) -> None:
    """Serve orders until SIGTERM or SIGINT: the first lets a running answer be finished and sent in its time slot, the second ends at once.

    An answer that was sealed and is waiting for its slot then stays in the outbox, for the coordinator to ask again; it never leaves early.

    Raises:
        MisuseError: no site here, an address outside this machine, or a coordinator that has not admitted this node.
        BusyError: another node process serves this site.
    """
    host, port = loopback(server, what="--server")
    config, key, memory = Home(home).config, node_key(home), home / "node"
    memory.mkdir(mode=0o700, exist_ok=True)
    _log_codes()
    stop = threading.Event()
    _stop_on_signals(stop)
    executor = Executor(
        server=f"{host}:{port}",
        key=key,
        memory=memory,
        answer=lambda message: answer_in_slot(message, home, work=run_child),
        most_bytes=most_bytes(config.policy.max_parameters),
        stop=stop,
    )
    with exclusive_lock(memory / "lock", what=f"node of site {config.site.name}"):
        if executor.run() == "not-admitted":
            raise MisuseError(
                f"{host}:{port}: the coordinator does not know this node's key",
                hint=f"to be admitted, give {PUBLIC} and the envelope key to the coordinator; see `fedrad-site start --show-keys`",
            )


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            raise SystemExit(128 + number)  # through the work, whose child ends with it
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _log_codes() -> None:
    """Our own lines on stderr. Flower's and the HTTP client's would quote addresses and the other side's text."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("flwr", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
