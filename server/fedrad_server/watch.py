"""A run as it stands now, from files alone: who answered which round, who is late and why, what it cost, how fresh all this is."""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from fedrad_common.accounting import GaussianEvent
from fedrad_common.accounting.events import exact_delta, rounded_up
from fedrad_common.accounting.renyi import QUICK_ORDERS, rdp_epsilon
from fedrad_common.chain import Entry
from fedrad_common.errors import REFUSAL_CODES, FedradError
from fedrad_common.records import Envelope, Kind, Privacy
from fedrad_server import wanted
from fedrad_server.contacts import GONE, ages
from fedrad_server.history import RunRecords, read_run
from fedrad_server.layout import answers_folder, read_signed
from fedrad_server.liveness import played, played_of, supervised
from fedrad_server.report.privacy import is_bounded
from fedrad_server.superlink.files import SuperLinkFiles

Mark = Literal["accepted", "late", "refused", "gone", "rejected", "waiting"]
State = Literal["running", "waiting", "paused", "stopped", "finished", "open"]


@dataclass(frozen=True)
class Cell:
    """One site in one round."""

    mark: Mark
    code: str = ""  # of a refusal or a rejection


@dataclass(frozen=True)
class SiteLine:
    site: str
    rounds: tuple[Cell, ...]  # of each closed round, from round 1
    now: Cell | None  # in the exchange that is open, or at which the run stands still; None where there is none
    epsilon: float | None  # of the accepted updates so far (Rényi, an upper bound); None before the first, or where no bound holds
    bounded: bool
    age: float | None  # seconds since its node last spoke to the coordinator; None where it never did


@dataclass(frozen=True)
class Exchange:
    """What is asked of the sites now."""

    kind: Kind
    round: int
    attempt: int
    attempts: int
    seconds: float  # since this round was first asked
    deadline_seconds: float  # of one attempt


@dataclass(frozen=True)
class Snapshot:
    run: str  # its folder
    protocol: str
    state: State
    reason: str  # why it is paused, stopped or waiting
    round: int  # the last closed one
    rounds: int
    quorum: int
    exchange: Exchange | None
    sites: tuple[SiteLine, ...]


@dataclass
class _Open:
    """The exchange that the events tell of, as far as they go."""

    kind: Kind
    round: int
    attempt: int
    since: datetime
    cells: dict[str, Cell] = field(default_factory=dict)


def snapshot(home: Path, run: Path, now: datetime) -> Snapshot:
    """Nothing is locked or changed, so a running one may be looked at.

    Raises:
        MisuseError: `run` is no run. FormatError: a record is not what was signed.
    """
    records, state, reason = read_state(home, run)
    silence = ages(home / "superlink", now.timestamp())
    exchange = _exchange(records)
    gone = _gone(home, records, silence, now) if state == "running" else set()
    cells = _now(records, exchange, gone)
    lines = tuple(_line(records, site, now=cells.get(site), age=silence.get(site)) for site in sorted(records.launch.roster))
    asked = None
    if exchange is not None:
        settings = records.protocol.rounds
        asked = Exchange(
            exchange.kind, exchange.round, exchange.attempt, 1 + settings.retries if exchange.kind == "train" else 1,
            max(0.0, (now - exchange.since).total_seconds()), settings.deadline_seconds,
        )  # fmt: skip
    return Snapshot(
        run.name, records.protocol.name, state, reason, records.round, records.protocol.privacy.rounds, records.protocol.rounds.quorum,
        asked if state == "running" else None, lines,
    )  # fmt: skip


def chosen_run(home: Path) -> Path | None:
    """The one that is played, else the one that was launched last. One that cannot be read hides no other."""
    runs, found = wanted.folders(home), []
    for run in runs:
        with suppress(FedradError):
            found.append((played(run), wanted.launch_order(run), run))
    return max(found)[-1] if found else next(iter(runs), None)


def read_state(home: Path, run: Path) -> tuple[RunRecords, State, str]:
    """A run's records, how it stands, and why: in these words wherever it is shown.

    A player writes its events first, then what is wanted, and then lets go: looked at the other way round, none of it is overtaken.
    """
    at_work, asked = played(run), wanted.read(run)
    records = read_run(run, files=False)
    return records, *_state(home, records, asked, at_work)


def _state(home: Path, records: RunRecords, asked: wanted.Wanted | None, at_work: bool) -> tuple[State, str]:
    """What is so, before what is wanted: a player that has the run open is at work, whatever its last event says."""
    if records.finished:
        return "finished", ""
    if asked is not None and asked.state == "stop":
        return "stopped", "its player is ending" if at_work else ""
    if at_work:
        return "running", "its player is ending" if asked is not None and asked.state == "paused" else ""
    if asked is not None and asked.state == "paused":
        return "paused", asked.reason or records.paused
    if asked is None:
        return ("paused", records.paused) if records.paused else ("open", "nobody asked for it to be played here")
    if not supervised(home):
        return "waiting", "no coordinator runs on this home"
    others = [other.name for other in played_of(wanted.folders(home)) if other.name != records.directory.name]
    return "waiting", f"run {others[0]} is played first" if others else "its player is being started"


def _exchange(records: RunRecords) -> _Open | None:
    """The last one that was begun and not ended; a pause ends none: who did not answer stands in it."""
    found: _Open | None = None
    for entry in records.events:
        body = entry.body
        if entry.type == "asked":
            if found is None or (found.kind, found.round) != (body["kind"], body["round"]):
                found = _Open(body["kind"], body["round"], body["attempt"], datetime.fromisoformat(entry.at))
            found.attempt = body["attempt"]
            found.cells |= dict.fromkeys(body["sites"], Cell("waiting"))
        elif entry.type in ("epoch", "evaluated", "finished") or (entry.type == "closed" and found and found.kind == "train"):
            found = None
        elif found is not None:
            _note(found, entry)
    if found is not None and found.kind == "train" and found.round <= records.round:
        return None  # its manifest is there already
    return found


def _note(found: _Open, entry: Entry) -> None:
    body = entry.body
    if entry.type in ("refused", "rejected") and body["site"] in found.cells:
        found.cells[body["site"]] = Cell("refused" if entry.type == "refused" else "rejected", body["code"])
    elif entry.type == "gone" and body["site"] in found.cells:
        found.cells[body["site"]] = Cell("gone")
    elif entry.type == "paused":
        found.cells |= {site: closed_cell(why) for site, why in body["missing"].items()}


def _gone(home: Path, records: RunRecords, silence: Mapping[str, float], now: datetime) -> set[str]:
    """Nobody is, before the server listened for as long: when the coordinator itself comes back, everybody was silent."""
    try:
        since = SuperLinkFiles(home / "superlink").ready_file.stat().st_mtime
    except FileNotFoundError:
        return set()
    listened = now.timestamp() - since
    return {site for site in records.launch.roster if min(silence.get(site, listened), listened) > GONE}


def _now(records: RunRecords, exchange: _Open | None, gone: Collection[str]) -> dict[str, Cell]:
    if exchange is None:
        return {}
    # The file is what counts as accepted (`runs`); it is verified by whoever reads it.
    accepted = {path.stem for path in answers_folder(records.directory, exchange.round, exchange.kind).glob("[!.]*.json")}
    cells = {site: Cell("accepted") if site in accepted else exchange.cells.get(site, Cell("waiting")) for site in records.launch.roster}
    return {site: Cell("gone") if cell.mark == "waiting" and site in gone else cell for site, cell in cells.items()}


def _line(records: RunRecords, site: str, *, now: Cell | None, age: float | None) -> SiteLine:
    closed = tuple(
        Cell("accepted") if site in manifest.updates else closed_cell(manifest.missing.get(site, "late"))
        for manifest in records.manifests[1:]
    )
    answered = [number for number, cell in enumerate(closed, start=1) if cell.mark == "accepted"]
    if now == Cell("accepted") and records.round + 1 not in answered:
        answered.append(records.round + 1)
    stated = [privacy for number in answered if (privacy := _privacy(records.directory, site, number)) is not None]
    cost = epsilon(stated)
    bounded = cost is None or math.isfinite(cost)
    return SiteLine(site, closed, now, cost if bounded else None, bounded, age)


def closed_cell(why: str) -> Cell:
    """What a manifest, or a pause, says of a site whose update is not there."""
    if why in ("late", "gone"):
        return Cell("late" if why == "late" else "gone")
    return Cell("refused" if why in REFUSAL_CODES else "rejected", why)


def epsilon(stated: Sequence[Privacy]) -> float | None:
    """Of accepted updates, by what their envelopes state: a quick upper bound, where the report computes a tighter one.

    None before the first; inf where no bound holds.
    """
    if not stated:
        return None
    if not is_bounded(stated):
        return math.inf
    first = stated[0]
    event = GaussianEvent(first.noise_multiplier, first.sampling_rate, sum(privacy.steps for privacy in stated))
    return rounded_up(rdp_epsilon([event], exact_delta(first.delta), QUICK_ORDERS))


@lru_cache(maxsize=100_000)
def _stored_privacy(path: Path) -> Privacy:
    """An accepted envelope never changes, and its signature was verified when it was accepted."""
    return read_signed(path).peek(Envelope, what=path.name).privacy


def _privacy(run: Path, site: str, number: int) -> Privacy | None:
    path = answers_folder(run, number, "train") / f"{site}.json"
    return _stored_privacy(path) if path.is_file() else None
