"""What a person sees while a run is played by somebody else's process: the run's own files, looked at again and again."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedrad_server.display import changes, table
from fedrad_server.watch import Snapshot, snapshot

_INTERVAL = 0.5  # seconds between two looks
_OVER = frozenset({"finished", "paused", "stopped"})

Show = Callable[[Snapshot], None]


def follow(home: Path, run: Path, *, over: frozenset[str] = _OVER, quiet: bool = False) -> Snapshot:
    """Show a run on stderr until it is in one of the states `over`: a live table on a terminal, plain lines elsewhere, nothing if `quiet`.

    A pause counts only once its player is gone. Raises what `snapshot` does.
    """
    with _shown(quiet) as show:
        while True:
            found = snapshot(home, run, datetime.now(UTC))
            show(found)
            if found.state in over:
                return found
            time.sleep(_INTERVAL)


@contextmanager
def _shown(quiet: bool) -> Iterator[Show]:
    if quiet:
        yield lambda found: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            yield lambda found: live.update(table(found), refresh=True)
    else:
        yield _Plain()


class _Plain:
    def __init__(self) -> None:
        self._before: Snapshot | None = None

    def __call__(self, found: Snapshot) -> None:
        for line in changes(self._before, found):
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        self._before = found


def wait_until(done: Callable[[], bool], *, patience: float, interval: float = 0.05) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True
