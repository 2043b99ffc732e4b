"""The site's audit log: every decision, and every byte that left, by hash. A closed list of events without free text.

What each event may say is a table, `fedrad_common.audit.SITE_EVENTS`.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fedrad_client.policy import REASONS
from fedrad_common.audit import SITE_EVENTS, checked
from fedrad_common.chain import Chain, Entry, utc_now
from fedrad_common.checkpoint import checkpoint
from fedrad_common.errors import BusyError, RefusalCode
from fedrad_common.files import write_json
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.records import Signed

KIND = "audit"
AUDIT = "audit.chain"
PENDING = "audit.pending"  # folder beside the log: events that came while another process held it
Event = Literal[
    "approve", "withdraw-approval", "refuse", "evidence-contradiction", "release", "resend", "ingest", "withdraw", "recover",
    "merge", "review", "pause", "resume", "start", "stop", "online", "refused-by-coordinator", "renew", "leave", "checkpoint",
]  # fmt: skip
Noted = Literal["pause", "resume", "start", "stop", "online", "refused-by-coordinator", "renew", "leave"]
Value = str | int | float | bool | None

# Reasons by which a coordinator contradicts itself or this site's log: a person should hear of these.
CONTRADICTIONS = frozenset({"two-models", "back-in-time", "forgotten", "invented"})
_QUIET = 60.0  # seconds in which the same refusal is counted, not written again
# Entries of a kind in that time, and in a day, whatever they are about: what is asked is the coordinator's to choose. A contradiction is an
# entry of another kind than other refusals, which cannot use up its room.
_MOST, _MOST_A_DAY = 30, 500


def record(chain: Chain, event: Event, **facts: Value) -> Entry:
    """Add one entry, with random bytes: its hash must not tell what it says.

    Raises:
        ValueError: an event or a field that the table does not list.
    """
    return chain.append(event, checked(SITE_EVENTS, event, {**facts, "salt": secrets.token_hex(16)}))


class Refusals:
    """Refusals of one process: a coordinator that asks again and again must not fill the disk.

    The same refusal within a minute is counted, and so is any above the most of a minute or a day; the count stands in the next entry as
    `repeated`. The entries of a day are those of the log itself, so that a node that is started anew begins no other day.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written: dict[tuple[Path, Event, tuple[tuple[str, Value], ...]], float] = {}
        self._unwritten: dict[Path, int] = {}

    def record(self, chain: Chain, *, code: RefusalCode, reason: str, **facts: Value) -> Entry | None:
        """One entry, or None where it was only counted. Raises ValueError: a reason that no table lists."""
        if reason not in REASONS:
            raise ValueError(f"audit: refuse: no reason of ours in {len(reason)} characters")
        event: Event = "evidence-contradiction" if reason in CONTRADICTIONS else "refuse"
        now, key = self._clock(), (chain.path, event, tuple(sorted({"code": code, "reason": reason, **facts}.items())))
        self._written = {key: at for key, at in self._written.items() if now - at < _QUIET}
        here = sum(written[:2] == key[:2] for written in self._written)
        if key in self._written or here >= _MOST or _today(chain, event) >= _MOST_A_DAY:
            self._unwritten[chain.path] = self._unwritten.get(chain.path, 0) + 1
            return None
        said: dict[str, Value] = {"code": reason} if event == "evidence-contradiction" else {"code": code, "reason": reason}
        entry = record(chain, event, **said, **facts, **self._repeated(chain.path))
        self._written[key] = now
        self._unwritten.pop(chain.path, None)
        return entry

    def unwritten(self, path: Path) -> dict[str, int]:
        """What a process that ends has still to say: fields of its `stop`."""
        return self._repeated(path)

    def _repeated(self, path: Path) -> dict[str, int]:
        return {"repeated": count} if (count := self._unwritten.get(path, 0)) else {}


def _today(chain: Chain, event: Event) -> int:
    """Entries of this kind on the day of the last entry, or of now where that is later."""
    day, count = max(utc_now().date().isoformat(), chain.entries[-1].at[:10]), 0
    for entry in reversed(chain.entries):
        if entry.at[:10] < day:
            break
        count += entry.type == event
    return count


refusals = Refusals()  # of this process, whose node opens the site anew for each order


def note(home: Path, event: Noted, **facts: Value) -> bool:
    """Add one entry from outside an open site, at once: where an answer that is being made holds the log, it is entered after it.

    Returns whether it was entered already. Raises ValueError, as `record` does.
    """
    if event == "stop":
        facts = {**facts, **refusals.unwritten(home / AUDIT)}
    checked(SITE_EVENTS, event, {**facts, "salt": "0" * 32})
    try:
        with Chain.open(home / AUDIT, KIND) as chain:
            settle(chain)
            record(chain, event, **facts)
        return True
    except BusyError:
        folder = home / PENDING
        folder.mkdir(mode=0o700, exist_ok=True)
        noted = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / f"{time.time_ns():020d}-{os.getpid()}.json", {"event": event, "facts": {**facts, "noted": noted}})
        return False


def settle(chain: Chain) -> int:
    """Enter what came while somebody else held the log; whoever opens it next does. Returns how many entries that were.

    A process that dies in between enters one of them twice, never none of them.
    """
    paths = sorted((chain.path.parent / PENDING).glob("[0-9]*.json"))
    done = 0
    for path in paths:
        if (found := _pending(path)) is not None:
            event, facts = found
            record(chain, event, **facts)
            done += 1
        path.unlink(missing_ok=True)
    return done


def _pending(path: Path) -> tuple[Event, dict[str, Any]] | None:
    """Event and fields; None where the file is not one that `note` wrote, and there is nothing to say of it."""
    try:
        value = json.loads(path.read_bytes())
        event, facts = value["event"], dict(value["facts"])
        checked(SITE_EVENTS, event, {**facts, "salt": "0" * 32})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return event, facts


def sign_checkpoint(home: Path, *, name: str, key: SigningKey) -> Signed:
    """The log's head as it is now, signed for somebody else to keep; the log says that it was, behind that head."""
    with Chain.open(home / AUDIT, KIND) as chain:
        settle(chain)
        signed = checkpoint(chain, side="site", name=name, key=key)
        record(chain, "checkpoint", head=chain.head, count=len(chain.entries))
    return signed


def signing_keys(home: Path) -> list[PublicKey]:
    """Public halves of the key that this site signs with, and of those that were set aside with a lost ledger."""
    paths = [home / "keys" / "envelope.key", *sorted(home.glob("lost/*/envelope.key"))]
    return [SigningKey.load(path).public for path in paths if path.exists()]
