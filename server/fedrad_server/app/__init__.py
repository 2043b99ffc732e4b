"""What plays an open run over Flower's Grid, in a deployment and in both simulation engines."""

import time
from collections.abc import Callable, Mapping

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
from flwr.serverapp import Grid

from fedrad_server.app.sites import GridSites
from fedrad_server.rounds import Outcome, Progress, play
from fedrad_server.runs import Run


def play_on(
    grid: Grid,
    run: Run,
    *,
    progress: Progress | None = None,
    contacts: Callable[[], Mapping[str, float]] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """A deployment hears of each site's last contact; a simulation's time may be another."""
    sites = GridSites(grid, lifetime=2 * run.protocol.rounds.deadline_seconds, contacts=contacts, clock=clock, sleep=sleep)
    return play(run, sites, clock=clock, progress=progress or (lambda number, site, what: None))
