"""One child of the supervisor: whether it runs, and when it is due again after it failed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LONGEST_PAUSE = 30.0  # seconds between two starts of what fails


class Child(Protocol):
    """What is needed of a process."""

    pid: int

    def poll(self) -> int | None: ...


Spawn = Callable[..., Child]  # a module and its arguments
End = Callable[[Child], int]


@dataclass
class Keeper:
    """One child of a kind: running, or due again after a pause that grows with its failures in a row."""

    module: str
    process: Child | None = None
    failures: int = 0
    due: float = 0.0  # by the supervisor's clock
    since: float = 0.0


def pause_after(failures: int) -> float:
    """Seconds until the next start: half a second, doubled with each failure in a row, for as many as there are."""
    return min(LONGEST_PAUSE, 0.5 * 2.0 ** min(failures - 1, 10))
