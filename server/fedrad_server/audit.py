"""The coordinator's audit log: every decision of its people and of its programs, of which several may write at once."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from fedrad_common.audit import COORDINATOR_EVENTS, checked
from fedrad_common.chain import CLOCK, Chain, Entry, read, utc_now
from fedrad_common.checkpoint import checkpoint
from fedrad_common.errors import ChainError
from fedrad_common.identity import SigningKey
from fedrad_common.records import Signed
from fedrad_server import wanted
from fedrad_server.layout import EVENTS, RECEIPTS
from fedrad_server.liveness import patiently

AUDIT = "audit.chain"
KIND = "audit"
ACCEPT_CLOCK = "fedrad-coordinator audit accept-clock HOME"
Event = Literal[
    "init", "invite", "admit", "revoke", "renew", "start", "stop", "launch", "resume", "run-stopped", "run-paused", "run-finished",
    "checkpoint",
]  # fmt: skip
_PATIENCE = 10.0  # seconds to wait for another process, which holds the log for one entry


def record(home: Path, event: Event, **fields: str | int | float | None) -> Entry:
    """Add one entry to the log in the coordinator's folder; durable when this returns. `init` begins the log.

    Args:
        fields: as `fedrad_common.audit.COORDINATOR_EVENTS` lists them for the event.

    Raises:
        ValueError: an event or field that is not listed. ChainError: the log is missing, shortened or changed.
        ClockError: the clock is behind the last entry; nothing was written.
        BusyError: another process holds the log for longer than it should. DiskError: no room; nothing was written.
    """
    body = checked(COORDINATOR_EVENTS, event, fields)
    if event == "init":
        with Chain.create(home / AUDIT, KIND, {"coordinator": body["coordinator"]}, accept=ACCEPT_CLOCK) as chain:
            return chain.append(event, body)
    with open_log(home) as chain:
        return chain.append(event, body)


def open_log(home: Path) -> Chain:
    """The log, locked for this process, once the others have let go of it. Raises what `record` does."""
    return _opened(home / AUDIT, KIND)


def accept_clock(home: Path) -> tuple[str, ...]:
    """Go on from the clock as it is now, though entries are later: a person says that theirs was wrong. Returns the logs it was said in.

    Those are the audit log, and of each run that is not finished the events and the newest receipts; a damaged log of a run is passed over.

    Raises:
        ChainError: the audit log is damaged. BusyError: another process holds one of them.
    """
    said = [AUDIT] if _accept(home / AUDIT, KIND) else []
    for run in wanted.folders(home):
        with contextlib.suppress(ChainError):
            said += [f"{run.name}/{path.relative_to(run)}" for path, kind in _of_run(run) if _accept(path, kind)]
    return tuple(said)


def _of_run(run: Path) -> Iterator[tuple[Path, str]]:
    """What a player would append to. After the last round its evaluation is still received."""
    if not any(entry.type == "finished" for entry in read(run / EVENTS, "events")):
        yield run / EVENTS, "events"
        for path in sorted(run.glob(f"rounds/[0-9]*/{RECEIPTS}"))[-2:]:
            yield path, "receipts"


def _accept(path: Path, kind: str) -> bool:
    """Whether the log's last entry is later than now, and so needed a word."""
    if datetime.fromisoformat(read(path, kind)[-1].at) <= utc_now():
        return False
    with _opened(path, kind) as chain:
        chain.append(CLOCK, {"before": chain.entries[-1].at})
    return True


def _opened(path: Path, kind: str) -> Chain:
    return patiently(lambda: Chain.open(path, kind, accept=ACCEPT_CLOCK), patience=_PATIENCE)


def sign_checkpoint(home: Path, *, key: SigningKey) -> Signed:
    """The log's head as it is now, signed for somebody else to keep; the log says that it was, behind that head."""
    with open_log(home) as chain:
        signed = checkpoint(chain, side="coordinator", name="coordinator", key=key)
        chain.append("checkpoint", checked(COORDINATOR_EVENTS, "checkpoint", {"head": chain.head, "count": len(chain.entries)}))
    return signed
