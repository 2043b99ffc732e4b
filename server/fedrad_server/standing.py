"""How the coordinator stands: processes, certificate, disk, sites. Each trouble comes with a remedy; Flower stays out."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fedrad_common.errors import FedradError
from fedrad_server import soundness, wanted
from fedrad_server.contacts import GONE, ages
from fedrad_server.display import seconds
from fedrad_server.home import Home
from fedrad_server.liveness import played_of, supervised
from fedrad_server.soundness import Check, guarded
from fedrad_server.superlink.files import Ports

LEAST_FREE = 2 * 1024**3  # bytes: what a run of a large model may grow by before its oldest updates go


def examine(home: Path, now: datetime) -> list[Check]:
    """Raises MisuseError when there is no coordinator's home."""
    opened = Home.open(home)
    looks: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("coordinator", lambda: _coordinator(home)),
        ("server", lambda: _server(opened)),
        ("owner", lambda: soundness.owner(home)),
        ("settings", lambda: soundness.settings(opened)),
        ("keys", lambda: soundness.keys(opened)),
        ("certificate", lambda: soundness.certificate(opened, now)),
        ("authority", lambda: soundness.authority(opened)),
        ("audit log", lambda: soundness.audit_log(home, now)),
        ("disk", lambda: _disk(home)),
        ("sites", lambda: _sites(opened, now)),
        ("runs", lambda: _runs(home)),
    )
    return [check for name, look in looks for check in guarded(name, look)]


def standing(home: Path, now: datetime) -> dict[str, Any]:
    """The same as facts, for `status`."""
    opened = Home.open(home)
    ports, silence = _ports(opened), ages(opened.superlink.folder, now.timestamp())
    playing = next((run.name for run in played_of(wanted.folders(home))), None)
    return {
        "supervised": supervised(home),
        "server": opened.settings.seen_as(ports.public) if ports else None,
        "health": _health(ports),
        "playing": playing,
        "sites": [{"site": site, "age": round(silence[site], 1) if site in silence else None} for site in opened.roster],
    }


def _ports(home: Home) -> Ports | None:
    try:
        return home.superlink.serving
    except FedradError:
        return None


def _health(ports: Ports | None) -> str:
    from fedrad_server.superlink.health import check_health

    if ports is None or ports.health is None:
        return ""
    return check_health(f"127.0.0.1:{ports.health}")


def _coordinator(home: Path) -> Iterator[Check]:
    running = supervised(home)
    yield Check("coordinator", running, "runs" if running else "does not run", f"start it: fedrad-coordinator start {home}")


def _server(home: Home) -> Iterator[Check]:
    ports = _ports(home)
    if ports is None:
        yield Check("server", False, "is not listening", "start the coordinator; if it runs, its log says why the server does not")
        return
    health = _health(ports)
    where = f"listens on {ports.host}:{ports.public}, health {health or 'unknown'}"
    yield Check("server", health == "serving", where, "wait half a minute: the coordinator starts it anew; then look at its log")


def _disk(home: Path) -> Iterator[Check]:
    free = shutil.disk_usage(home).free
    remedy = f"free space: runs and the server's database need at least {LEAST_FREE / 1024**3:.0f} GiB"
    yield Check("disk", free >= LEAST_FREE, f"{free / 1024**3:.1f} GiB free", remedy)


def _sites(home: Home, now: datetime) -> list[Check]:
    silence, found = ages(home.superlink.folder, now.timestamp()), []
    for site in home.roster:
        age = silence.get(site)
        said = "never spoke to this coordinator" if age is None else f"last spoke {seconds(age)} ago"
        remedy = "ask the site to run: fedrad-site doctor, and fedrad-site start where its node is down"
        found.append(Check(f"site {site}", age is not None and age <= GONE, said, remedy))
    return found


def _runs(home: Path) -> list[Check]:
    """Those that wait for a person because their player failed, or whose wish cannot be read."""
    found = []
    for run in wanted.folders(home):
        try:
            asked = wanted.read(run)
        except FedradError as error:
            found.append(Check(f"run {run.name}", False, str(error), f"fedrad-coordinator resume {home} {run.name}"))
            continue
        if asked is not None and asked.state == "paused" and asked.reason:
            remedy = f"look at the coordinator's log; then: fedrad-coordinator resume {home} {run.name}"
            found.append(Check(f"run {run.name}", False, asked.reason, remedy))
    return found
