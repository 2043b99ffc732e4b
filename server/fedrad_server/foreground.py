"""The supervisor in the foreground: with real processes, signals and the audit log, which `supervisor` knows nothing of."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from fedrad_common import processes
from fedrad_common.errors import FedradError
from fedrad_common.records import Launch
from fedrad_server.audit import record
from fedrad_server.home import Home
from fedrad_server.keeper import Child
from fedrad_server.layout import read_signed
from fedrad_server.log import say
from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.supervisor import Supervisor, closed_rounds

_GRACE = 5.0  # seconds for a child to end in order
_INTERVAL = 0.1  # between two looks at the children


def supervise(home: Home, *, environment: dict[str, str], on_ready: Callable[[], None]) -> None:
    """Keep everything running until SIGTERM or SIGINT; the caller holds the lock.

    Raises:
        FedradError: the server cannot be started at all; nothing is left running.
    """
    ends: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: ends.append(received))

    def spawn(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        # Not in our process group: a terminal's Ctrl-C is ours to pass on, in order. Their stdout is talk: ours carries one ready line.
        return processes.start(
            module, *arguments, environment=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), process_group=0
        )

    def end(child: Child) -> int:
        assert isinstance(child, subprocess.Popen)
        return processes.end(child, grace=_GRACE)

    supervisor = Supervisor(
        home.directory, spawn, end, say, on_ready=on_ready,
        on_aside=lambda run: _note_aside(home.directory, run), is_well=lambda: is_serving(home.superlink),
    )  # fmt: skip
    record(home.directory, "start", version=version("fedrad"))
    code = "failed"
    try:
        while not ends:
            supervisor.step()
            time.sleep(_INTERVAL)
        code = "signal"
        say(f"signal {ends[0]}: ending")
    finally:
        supervisor.shut_down()
        _note_end(home.directory, code)


def is_serving(files: SuperLinkFiles) -> bool:
    """What the server says of itself, within two seconds: also one whose sockets are open may hang."""
    from fedrad_server.superlink.health import check_health

    try:
        port = files.serving.health
    except (FedradError, OSError):
        return False
    return port is not None and check_health(f"127.0.0.1:{port}") == "serving"


def _note_end(home: Path, code: str) -> None:
    """All is ended: a log that cannot be written, on a full disk, must not hide why."""
    try:
        record(home, "stop", code=code)
    except FedradError as error:
        say(f"the end is not in the audit log: {error}")


def _note_aside(home: Path, run: Path) -> None:
    launch = read_signed(run / "launch.json").peek(Launch, what="launch.json")
    record(home, "run-paused", run=launch.run, round=closed_rounds(run) - 1, code="player-failed")
