"""The process that plays one run, started by the supervisor: `python -m fedrad_server.player HOME RUN`. SIGTERM leaves the run resumable.

Exit codes: 0 finished · 1 failed · 2 misused · 3 paused · 4 stopped · 5 what passes: a full disk, a lock that another process holds.
"""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fedrad_common import chain, processes
from fedrad_common.errors import BusyError, DiskError, FedradError
from fedrad_server import wanted
from fedrad_server.audit import AUDIT, KIND, record
from fedrad_server.home import Home
from fedrad_server.liveness import patiently
from fedrad_server.log import say
from fedrad_server.superlink.files import SuperLinkFiles

if TYPE_CHECKING:
    from fedrad_server.runs import Run

FINISHED, PAUSED, STOPPED, PASSING = 0, 3, 4, 5


class Stopped(SystemExit):
    """SIGTERM: raised wherever the player is. What a run has on disk survives any end, and so this one."""


def play(home: Path, folder: Path) -> int:
    """Play the run until it is finished, paused, or no longer wanted; returns the exit code."""
    # Flower takes a second to load; a run that is opened and then waits for it would only look busy.
    from fedrad_server.app.task import play_run
    from fedrad_server.runs import Run

    opened = Home.open(home)
    key, keep = opened.key, int(1e9 * opened.settings.keep_gigabytes)
    with patiently(lambda: Run.open(folder, key, keep_bytes=keep)) as run:
        found = wanted.read(folder)
        if found is None or found.state != "run":
            return STOPPED
        if not run.finished and play_run(run, SuperLinkFiles(home / "superlink"), progress=_progress(folder.name)) == "paused":
            record(home, "run-paused", run=run.launch.run, round=run.round, code="paused")
            wanted.pause(folder)
            return PAUSED
        _note_finished(home, run)
        return FINISHED


def _note_finished(home: Path, run: "Run") -> None:
    """Once, also where its player was killed between the run's last word and this one."""
    noted = (entry.body["run"] for entry in chain.read(home / AUDIT, KIND) if entry.type == "run-finished")
    if run.launch.run not in noted:
        record(home, "run-finished", run=run.launch.run, round=run.round, manifest=run.head)


def _progress(name: str) -> Callable[[int, str, str], None]:
    def line(number: int, site: str, what: str) -> None:
        say(f"run {name}: round {number}: {site + ': ' if site else ''}{what}")

    return line


def main() -> None:
    processes.tie()
    processes.give_back()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _ended)
    for name in ("flwr", "httpx", "httpcore"):  # would quote addresses and the other side's words
        logging.getLogger(name).setLevel(logging.CRITICAL)
    home, name = Path(sys.argv[1]), sys.argv[2]
    try:
        code = play(home, home / "runs" / name)
    except FedradError as error:
        say(f"run {name}: error: {error}")
        if error.hint:
            say(f"run {name}: hint: {error.hint}")
        code = PASSING if isinstance(error, (DiskError, BusyError)) else error.exit_code
    except Stopped:
        code = STOPPED
    sys.exit(code)


def _ended(number: int, frame: FrameType | None) -> None:
    """Flower's heartbeat raises SIGINT in its own process when the server says that the run has ended there."""
    del number, frame
    from fedrad_server.app.task import stopped

    raise stopped()


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end itself must not be interrupted
    raise Stopped(STOPPED)


if __name__ == "__main__":
    main()
