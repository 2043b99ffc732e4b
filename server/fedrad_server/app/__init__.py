"""The ServerApp: opens the run that its environment names and plays it over Flower's Grid."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrad_common.identity import SigningKey
from fedrad_server.app.sites import GridSites
from fedrad_server.rounds import Outcome, Progress, play
from fedrad_server.runs import Run

RUN, KEY = "FEDRAD_RUN", "FEDRAD_COORDINATOR_KEY"  # paths, set by whoever starts the process: nothing comes through Flower's run_config

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator] # Flower's decorators are Any to mypy
def main(grid: Grid, context: Context) -> None:
    del context
    with Run.open(Path(os.environ[RUN]), SigningKey.load(Path(os.environ[KEY]))) as run:
        play_on(grid, run)


def play_on(
    grid: Grid,
    run: Run,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """The same for a deployment and for both simulation engines, whose time may be another."""
    sites = GridSites(grid, lifetime=2 * run.protocol.rounds.deadline_seconds, clock=clock, sleep=sleep)
    return play(run, sites, clock=clock, progress=progress or (lambda number, site, what: None))
