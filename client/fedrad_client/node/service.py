"""A site's node: one process in the foreground that keeps the connection and opens the site for each order. SIGTERM ends it in order."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from fedrad_client import audit
from fedrad_client.app import answer_in_slot
from fedrad_client.audit import Noted
from fedrad_client.enrolment import connecting_key
from fedrad_client.node.connection import route_of
from fedrad_client.node.contact import CONTACT, LOCK, Contact
from fedrad_client.node.executor import Executor
from fedrad_client.node.logs import logging_codes
from fedrad_client.node.systemd import notify
from fedrad_client.privacy.ledger import in_force, read_ledger
from fedrad_client.site import LEDGER, Home
from fedrad_client.work import Work, Worker
from fedrad_common import processes
from fedrad_common.errors import BusyError, FedradError, SyncError
from fedrad_common.files import lock_file
from fedrad_common.messages import most_bytes

# isort: split
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

log = logging.getLogger(__name__)

_TRIES = 3  # to take the lock, which `fedrad-site status` looks at now and then


def run_node(home: Path, server: str | None = None, *, working: Callable[[Home], AbstractContextManager[Work]] = Worker) -> None:
    """Serve orders until SIGTERM or SIGINT: the first lets a running answer be finished and sent in its time slot, the second ends at once.

    An answer that was sealed and is waiting for its slot then stays in the outbox, for the coordinator to ask again; it never leaves early.
    Trouble with the connection, and not being admitted yet, are no end: the node says so and tries again.

    Args:
        server: HOST:PORT instead of the settings' own.
        working: opens the place where the work is done, for as long as the node runs.

    Raises:
        MisuseError: no site here, no coordinator named, its authority's certificate or the node's key is missing, or the settings are
            looser than the ledger.
        ChainError: the ledger is damaged, and could pay for nothing.
        UnconfinedError: the settings ask for more confinement of the work than this machine gives.
        BusyError: another node process serves this site.
    """
    processes.hide()  # where nothing confines it, what works could read the keys here
    processes.give_back()
    config, key = Home(home).config, connecting_key(home)
    in_force(read_ledger(home / LEDGER)[0], config.privacy)
    route = route_of(home, config.coordinator, server=server)
    memory = home / "node"
    memory.mkdir(mode=0o700, exist_ok=True)
    stop = threading.Event()
    _stop_on_signals(stop)
    with _only_node(home, config.site.name), logging_codes(memory), _noting(home) as note, working(Home(home)) as work:
        notify("READY=1")
        Executor(
            connect=lambda: route.fleet(key, site=config.site.name),
            public_key=public_key_to_bytes(key.public_key()),
            memory=memory,
            answer=lambda message: answer_in_slot(message, home, work=work),
            most_bytes=most_bytes(config.policy.max_parameters),
            stop=stop,
            contact=Contact(home / CONTACT),
            diagnose=route.diagnose,
            note=note,
            alive=lambda: notify("WATCHDOG=1"),
        ).run()
        log.info("stopped")


@contextmanager
def _noting(home: Path) -> Iterator[Callable[[Noted, str], None]]:
    """Enters in the audit log that the node starts and ends, and lets it enter what else befalls it, with a code or none."""

    def note(event: Noted, code: str) -> None:
        try:
            audit.note(home, event, **({"code": code} if code else {}))
        except SyncError:
            raise
        except FedradError as error:  # what leaves is entered by whoever lets it leave, or it does not leave
            log.warning("the audit log could not be written: %s", type(error).__name__)

    note("start", "")
    try:
        yield note
    finally:
        note("stop", "")


@contextmanager
def _only_node(home: Path, site: str) -> Iterator[None]:
    for attempt in range(_TRIES):
        try:
            descriptor = lock_file(home / LOCK, what=f"node of site {site}")
            break
        except BusyError:
            if attempt == _TRIES - 1:
                raise
            threading.Event().wait(0.05)
    try:
        yield
    finally:
        os.close(descriptor)


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            raise SystemExit(128 + number)  # through the work, whose child ends with it
        stop.set()
        notify("STOPPING=1")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
