"""When a node last spoke with its coordinator and what stands in the way, for `fedrad-site status` and the log. Light: no Flower.

The node rewrites one small file, at most about once a second; nothing depends on it, so it is not synced and its failure is no trouble.
"""

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeGuard

from fedrad_client.node.troubles import Trouble
from fedrad_common.canonical import canonical_json

log = logging.getLogger(__name__)

CONTACT, LOCK = Path("node") / "contact.json", Path("node") / "lock"
FORMAT = "fedrad-contact-1"
GONE = 9.0  # seconds of silence after which the other side counts as gone
BEAT = 2.5  # seconds between two heartbeats, also while the site works
LOOK = 2.0  # seconds between two looks for an order, at most
_EVERY = 1.0  # seconds between two writes of the same state
_SHUT_OUT = {"not-admitted", "clock"}
State = Literal["online", "refused", "unreachable"]


@dataclass(frozen=True)
class Seen:
    """The file's content."""

    at: float  # seconds since 1970: the last exchange or try
    state: str
    code: str  # of troubles.TROUBLES; empty when online
    answered: float  # seconds since 1970: the last exchange that went well; 0 is never


@dataclass
class Contact:
    """Told of each exchange by the threads of a node; says a change once."""

    path: Path
    clock: Callable[[], float] = time.time
    _code: str | None = None  # None: nothing yet; empty: online
    _answered: float = 0.0
    _written: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fine(self, *, said: bool = False) -> None:
        """A round trip. `said`: the caller has told the log already."""
        with self._lock:
            self._answered = self.clock()
            changed = self._code != ""
            if changed and self._code is not None and not said:
                log.info("the coordinator answers again")
            self._note("online", "", changed=changed)

    def failed(self, trouble: Trouble) -> None:
        with self._lock:
            changed = self._code != trouble.code
            if changed:
                log.warning("%s: %s; %s", trouble.code, trouble.sentence, trouble.hint)
            self._note("refused" if trouble.code in _SHUT_OUT else "unreachable", trouble.code, changed=changed)

    def _note(self, state: State, code: str, *, changed: bool) -> None:
        now, self._code = self.clock(), code
        if not changed and 0 <= now - self._written < _EVERY:
            return
        self._written = now
        value = {"format": FORMAT, "at": now, "state": state, "code": code, "answered": self._answered}
        beside = self.path.with_name(f".{self.path.name}.tmp")
        with contextlib.suppress(OSError):
            beside.write_bytes(canonical_json(value) + b"\n")
            beside.replace(self.path)


def last_contact(home: Path) -> Seen | None:
    """What the node last wrote; None where there is no such file, or not of this release."""
    try:
        value = json.loads((home / CONTACT).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    at, state, code, answered = (value.get(name) for name in ("at", "state", "code", "answered"))
    if not (_number(at) and isinstance(state, str) and isinstance(code, str) and _number(answered)):
        return None
    return Seen(float(at), state, code, float(answered))


def node_runs(home: Path) -> bool:
    """Does a node hold this site's lock? Asked without waiting; a node that starts at this moment tries again."""
    try:
        descriptor = os.open(home / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
