"""The closed list of what either side's audit log may say, as a table: nothing else is written, and nothing else is believed.

An event has named fields, and each field a rule: hashes, names of sites and runs, codes, numbers. There is no field for text.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedrad_common.canonical import Sha256, canonical_json
from fedrad_common.chain import CLOCK, Entry
from fedrad_common.errors import REFUSAL_CODES, ChainError
from fedrad_common.files import check_target
from fedrad_common.records import Kind, RunId, SiteName

Format = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class Rule:
    """What a field may hold, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Event:
    """One kind of entry: fields that it must have, and fields that it may have."""

    means: str
    must: Mapping[str, Rule] = field(default_factory=dict)
    may: Mapping[str, Rule] = field(default_factory=dict)

    def fault(self, body: Mapping[str, Any]) -> str | None:
        """The name of a field that is missing, unknown or ill-formed; None where the body is right. Never quotes a value."""
        allowed = {**self.must, **self.may}
        for name in self.must:
            if name not in body:
                return f"lacks {name}"
        for name, value in body.items():
            if name not in allowed:
                return "has an unknown field"
            if not allowed[name].holds(value):
                return f"{name} is no {allowed[name].words}"
        return None


Table = Mapping[str, Event]


def pattern(words: str, expression: str) -> Rule:
    compiled = re.compile(expression)
    return Rule(words, lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None)


def typed(words: str, annotation: Any) -> Rule:
    """Whatever the records that travel allow for the same thing."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def holds(value: Any) -> bool:
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            return False
        return True

    return Rule(words, holds)


def one_of(*words: str) -> Rule:
    return Rule(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_utc(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) <= 32 and datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except ValueError:
        return False


HASH = typed("SHA-256 in hexadecimal", Sha256)
SALT = pattern("16 random bytes in hexadecimal", r"[0-9a-f]{32}")
SITE = typed("name of a site", SiteName)
RUN = typed("id of a run", RunId)
CODE = pattern("code", r"[a-z][a-z-]{0,31}")  # a word of a closed list in the code that writes it
VERSION = pattern("version", r"[0-9][0-9a-z.+]{0,31}")
REFUSAL = one_of(*REFUSAL_CODES)
KIND = typed("kind of an order", Kind)
DTYPE = one_of("float32", "float16")
WHOLE = Rule("whole number", lambda value: type(value) is int and 0 <= value < 2**63)
NUMBER = Rule("number", _is_number)
BOUND = Rule("number, or null for no bound", lambda value: value is None or _is_number(value))
UTC = Rule("time in UTC", _is_utc)

_CEILINGS = dict.fromkeys(
    ("epsilon", "delta", "validation_epsilon", "earlier_epsilon", "earlier_delta", "earlier_validation_epsilon"), NUMBER
)
_ROUND = {"run": RUN, "round": WHOLE, "kind": KIND}
_LEFT = {**_ROUND, "epoch": WHOLE, "question": HASH, "envelope": HASH, "payload": HASH, "bytes": WHOLE, "ledger": HASH}
_FORMAT = pattern("format of a log", r"fedrad-chain-[0-9]+")
_CLOCK = Event("a person accepted the clock as it is now", {"before": UTC})
# By a person or the node while another process held the log: entered later, as of then.
_LATER = {"noted": UTC}

_SITE_EVENTS: Table = {
    "open": Event("the log was begun", {"format": _FORMAT, "kind": one_of("audit"), "site": SITE}, _CEILINGS),
    CLOCK: _CLOCK,
    "approve": Event(
        "a person accepted a protocol, for so many runs in all, or for a named one",
        {"protocol": HASH, "declared_size": WHOLE, "epsilon": BOUND},
        {"runs": WHOLE, "run": RUN, "policy": HASH},
    ),
    "withdraw-approval": Event("a person took an approval back", {"protocol": HASH}),
    "refuse": Event(
        "an order was answered with a code; the reason stayed here",
        {"code": REFUSAL, "reason": CODE},
        {**_ROUND, "epoch": WHOLE, "question": HASH, "repeated": WHOLE},
    ),
    "evidence-contradiction": Event(
        "what came with an order contradicts what this site was shown before",
        {"code": CODE},
        {**_ROUND, "epoch": WHOLE, "question": HASH, "manifest": HASH, "known": HASH, "evidence": HASH, "repeated": WHOLE},
    ),
    "release": Event("these bytes may leave from now on", _LEFT, {"manifest": HASH, "dtype": DTYPE, "sequence": WHOLE}),
    "resend": Event("the same bytes left again", _LEFT, {"manifest": HASH, "dtype": DTYPE, "sequence": WHOLE}),
    "ingest": Event("a new generation of the cohort", {"generation": WHOLE}, {"manifest": HASH}),
    "withdraw": Event("so many patients left the cohort; so many are out of it now", {"patients": WHOLE, "listed": WHOLE}),
    "merge": Event("so many ids became another's; so many are by now", {"ids": WHOLE, "listed": WHOLE}),
    "review": Event(
        "a person decided about text in so many pictures, and perhaps about all that come from their devices",
        {"verdict": one_of("release", "mask", "reject"), "pictures": WHOLE, "devices": WHOLE},
    ),
    "recover": Event("a lost ledger was replaced, under a new identity", {"identity": HASH, **_CEILINGS}),
    "pause": Event("a person paused the site", {}, _LATER),
    "resume": Event("a person let it answer again", {}, _LATER),
    "start": Event("the node was started", {}, {**_LATER, "version": VERSION, "coordinator": HASH}),
    "stop": Event("the node ended", {}, {**_LATER, "code": CODE, "repeated": WHOLE}),
    "online": Event("the coordinator let the node in", {}, {**_LATER, "coordinator": HASH}),
    "refused-by-coordinator": Event("the coordinator turned the node away", {"code": CODE}, _LATER),
    "renew": Event(
        "keys or certificates were made anew",
        {},
        {**_LATER, "request": HASH, "envelope": HASH, "node": HASH, "authority": HASH, "certificate": HASH},
    ),
    "leave": Event("a person took this site out", {}, {**_LATER, "request": HASH, "coordinator": HASH}),
    "checkpoint": Event("the log's head was signed", {"head": HASH, "count": WHOLE}, _LATER),
}  # fmt: skip
# Each entry of a site has random bytes. Its log's head leaves with every answer, and between two heads the coordinator could otherwise
# try all numbers of withdrawn patients, and all reasons, until the hash fits (privacy.md, rule 2).
SITE_EVENTS: Table = {
    name: event if name in ("open", CLOCK) else Event(event.means, {"salt": SALT, **event.must}, event.may)
    for name, event in _SITE_EVENTS.items()
}

_RUN = {"run": RUN}
_RUN_FACTS = {"round": WHOLE, "epoch": WHOLE, "protocol": HASH, "manifest": HASH, "head": HASH, "code": CODE}
_KEYS = {"site": SITE, "envelope": HASH, "node": HASH, "request": HASH, "invitation": HASH, "authority": HASH, "certificate": HASH}
COORDINATOR_EVENTS: Table = {
    "open": Event("the log was begun", {"format": _FORMAT, "kind": one_of("audit"), "coordinator": HASH}),
    CLOCK: _CLOCK,
    "init": Event("the coordinator's folder was made", {"coordinator": HASH}),
    "invite": Event("an invitation was signed", {"invitation": HASH}),
    "admit": Event("a person let a site in", {"site": SITE}, _KEYS),
    "revoke": Event("a person shut a site out", {"site": SITE}, {**_KEYS, "code": CODE}),
    "renew": Event("keys or certificates were made anew", {}, _KEYS),
    "start": Event("the coordinator was started", {}, {"version": VERSION}),
    "stop": Event("the coordinator ended", {}, {"code": CODE}),
    "launch": Event("a person began a run", {**_RUN, "protocol": HASH}, {**_RUN_FACTS, "launch": HASH, "sites": WHOLE}),
    "resume": Event("a run goes on", _RUN, _RUN_FACTS),
    "run-stopped": Event("a person ended a run", _RUN, _RUN_FACTS),
    "run-paused": Event("a run came to a halt", {**_RUN, "code": CODE}, _RUN_FACTS),
    "run-finished": Event("a run did its last round", _RUN, {**_RUN_FACTS, "model": HASH}),
    "checkpoint": Event("the log's head was signed", {"head": HASH, "count": WHOLE}),
}  # fmt: skip


def checked(table: Table, event: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an entry that may be written. Raises ValueError, which is a bug of the caller's: an event or field of no table."""
    if event not in table or event in ("open", CLOCK):
        raise ValueError(f"audit: {event!r} is no event of this log")
    if fault := table[event].fault(body):
        raise ValueError(f"audit: {event}: {fault}")
    return dict(body)


def check_entries(table: Table, entries: Sequence[Entry], *, name: str) -> None:
    """Raises ChainError: an entry that this program would never have written, be the chain of hashes as whole as it may."""
    for entry in entries:
        event = table.get(entry.type)
        fault = "is no event of this log" if event is None else event.fault(entry.body)
        if (entry.type == "open") != (entry.number == 0):
            fault = "is out of place"
        if fault:
            raise ChainError(f"{name}: entry {entry.number} {fault}", hint="it was not written by fedrad, or by another version of it")


def exported(entries: Sequence[Entry], form: Format) -> bytes:
    """The log for another program: one JSON object a line, or a table with a column for each field that occurs."""
    if form == "jsonl":
        return b"".join(canonical_json(vars(entry)) + b"\n" for entry in entries)
    fields = sorted({name for entry in entries for name in entry.body})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "at", "type", *fields, "hash"])
    for entry in entries:
        writer.writerow([entry.number, entry.at, entry.type, *(entry.body.get(name, "") for name in fields), entry.hash])
    return text.getvalue().encode()


def described(entry: Entry) -> str:
    """One line for a person: hashes by their first digits."""
    shown = (f"{name}={value[:12] if HASH.holds(value) else value}" for name, value in entry.body.items() if name != "salt")
    return f"{entry.number:>6}  {entry.at}  {entry.type:<22} {' '.join(shown)}".rstrip()


def check_out(path: Path, *, force: bool) -> None:
    """Raises MisuseError where a file that a person named with --out is there already, or cannot be."""
    check_target(path, option="--out", force=force)
