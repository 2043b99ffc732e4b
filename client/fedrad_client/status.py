"""A site at a glance, from small files only: no lock, no torch, answers at once."""

from typing import Any

from fedrad_client import audit
from fedrad_client.site import AUDIT, Home
from fedrad_common.chain import read
from fedrad_common.errors import MisuseError


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
    from fedrad_client.cohort.store import current, folder_name, read_manifest

    try:
        number = current(home.cohort)
    except MisuseError:
        return "none; run ingest"
    manifest = read_manifest(home.cohort, number)
    return f"generation {folder_name(number)}, {manifest.profile} {manifest.height}×{manifest.width}"
