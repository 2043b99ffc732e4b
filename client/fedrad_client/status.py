"""A site at a glance, from small files only: no lock, no torch, answers at once."""

import time
from typing import Any

from fedrad_client import audit
from fedrad_client.node.contact import GONE, last_contact, node_runs
from fedrad_client.node.troubles import trouble
from fedrad_client.policy import REASONS, REMEDIES
from fedrad_client.site import AUDIT, Home
from fedrad_common.chain import Entry, read
from fedrad_common.errors import MisuseError

_SHOWN = 3  # runs whose last manifest is shown


def facts(home: Home, *, now: float | None = None) -> dict[str, Any]:
    """What `fedrad-site status` shows; ages in seconds before `now`, which is the clock's by default."""
    config = home.config
    running = node_runs(home.path)
    contact = _contact(home, running=running, now=time.time() if now is None else now)
    entries = read(home.path / AUDIT, audit.KIND)
    released = [entry for entry in entries if entry.type == "release"]
    refused = [entry for entry in entries if entry.type in ("refuse", "evidence-contradiction")]
    return {
        "site": config.site.name,
        "state": _state(home, running=running, healthy=contact["healthy"]),
        "running": running,
        **contact,
        "cohort": _cohort(home),
        "approved": [name[:16] for name in home.approvals],
        "answers": len(released),
        "bytes_left": sum(entry.body["bytes"] for entry in released),
        "refused": sum(1 + entry.body.get("repeated", 0) for entry in refused),
        "last_answer": released[-1].at if released else "never",
        "last_refusal": _refusal(refused[-1]) if refused else "never",
        "manifests": _manifests(released),
    }


def _state(home: Home, *, running: bool, healthy: bool) -> str:
    if home.left or home.paused:
        return "left" if home.left else "paused"
    return ("answering" if healthy else "waiting for the coordinator") if running else "not running"


def _refusal(entry: Entry) -> str:
    """When, which run, and the sentence that stayed here: only its code left."""
    reason = entry.body.get("reason", entry.body["code"])  # of what contradicts itself, the reason is the code
    remedy = f"; {REMEDIES[reason]}" if reason in REMEDIES else ""
    run = f" {entry.body['run']} round {entry.body['round']}:" if "run" in entry.body else ""
    return f"{entry.at}{run} {REASONS[reason][1]}{remedy}"


def lines(value: dict[str, Any]) -> list[str]:
    """The same for a person: the contact as one sentence, the trouble with its remedy."""
    shown = {name: value[name] for name in value if name not in ("running", "healthy", "round_trip", "trouble", "remedy")}
    if not value["running"]:
        shown["state"] = (
            f"{shown['state']}; no node is running: fedrad-site start"
            if shown["state"] in ("paused", "left")
            else "not running: fedrad-site start"
        )
    shown["contact"] = _said(value)
    shown["manifests"] = [f"{run} {digest[:16] or 'named none'}" for run, digest in value["manifests"].items()] or "none yet"
    if value["remedy"]:
        shown["remedy"] = value["remedy"]
    return [f"{name.replace('_', ' '):<16}{', '.join(item) if isinstance(item, list) else item}" for name, item in shown.items()]


def _manifests(released: list[Entry]) -> dict[str, str]:
    """What this site was shown of each run when it answered last: by phone, hospitals find out a coordinator with two worlds."""
    last = _last_of_each_run(released)[-_SHOWN:]
    return {f"{entry.body['run']} round {entry.body['round']}": entry.body.get("manifest", "") for entry in last}


def _last_of_each_run(released: list[Entry]) -> list[Entry]:
    """In the order in which they were answered last."""
    found: dict[str, Entry] = {}
    for entry in released:
        found.pop(entry.body["run"], None)
        found[entry.body["run"]] = entry
    return list(found.values())


def _contact(home: Home, *, running: bool, now: float) -> dict[str, Any]:
    """Healthy is a round trip with the coordinator that is not long ago, by a node that still runs."""
    seen = last_contact(home.path)
    age = round(max(0.0, now - seen.answered), 1) if seen is not None and seen.answered else None
    code = seen.code if seen is not None else ""
    found = trouble(code) if code else None
    return {
        "coordinator": home.config.coordinator.server or "none yet",
        "healthy": running and not code and age is not None and age <= GONE,
        "round_trip": age,  # seconds since the last one; null: never
        "trouble": code,
        "contact": found.sentence if found else "",
        "remedy": found.hint if found else "",
    }


def _said(value: dict[str, Any]) -> str:
    age = "never had a round trip" if value["round_trip"] is None else f"last round trip {value['round_trip']:.0f} s ago"
    if value["healthy"]:
        return f"healthy, {age}"
    return f"{value['contact']} ({value['trouble']}), {age}" if value["trouble"] else age


def _cohort(home: Home) -> str:
    from fedrad_client.cohort.store import current, folder_name, read_manifest

    try:
        number = current(home.cohort)
    except MisuseError:
        return "none; run ingest"
    manifest = read_manifest(home.cohort, number)
    return f"generation {folder_name(number)}, {manifest.profile} {manifest.height}×{manifest.width}"
