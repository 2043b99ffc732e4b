"""A site at a glance, from small files only: no lock, no torch, answers at once."""

import json
from typing import Any

from fedrad_client import audit
from fedrad_client.site import AUDIT, Home
from fedrad_common.chain import read


def facts(home: Home) -> dict[str, Any]:
    config = home.config
    entries = read(home.path / AUDIT, audit.KIND)
    released = [entry for entry in entries if entry.type == "release"]
    refused = [entry for entry in entries if entry.type == "refuse"]
    return {
        "site": config.site.name,
        "state": "paused" if home.paused else "answering",
        "cohort": _cohort(home),
        "approved": [name[:16] for name in home.approvals],
        "answers": len(released),
        "bytes_left": sum(entry.body["bytes"] for entry in released),
        "refused": len(refused),
        "last_answer": released[-1].at if released else "never",
    }


def _cohort(home: Home) -> str:
    pointer = home.cohort / "current"
    if not pointer.exists():
        return "none; run ingest"
    name = pointer.read_text().strip()
    manifest = json.loads((home.cohort / name / "cohort.json").read_bytes())
    return f"generation {name}, {manifest['profile']} {manifest['height']}×{manifest['width']}"
