"""Long work shows a bar on a terminal and plain lines elsewhere; always on stderr, so that results stay clean."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Advance = Callable[[int, int], None]  # done, total
_PLAIN_SECONDS = 10.0  # between plain lines


@contextlib.contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Advance]:
    """Yield a function to call with (done, total)."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(what) as advance:
            yield advance
    else:
        yield _plain(what)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _plain(what: str) -> Advance:
    said, shown = time.monotonic(), -1

    def advance(done: int, total: int) -> None:
        nonlocal said, shown
        now = time.monotonic()
        if now - said >= _PLAIN_SECONDS and done != shown:
            said, shown = now, done
            sys.stderr.write(f"{what}: {done} of {total}\n")

    return advance
