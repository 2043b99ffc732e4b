"""What is different from the protocol that a person here approved last under the same name: that is what the next yes is about."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedrad_client import audit
from fedrad_client.site import AUDIT, Home
from fedrad_common.chain import read
from fedrad_common.protocol import TrainingProtocol


@dataclass(frozen=True)
class Changes:
    """In words, by dotted key; empty where both are the same."""

    before: str  # the earlier protocol's hash
    lines: tuple[str, ...]


def changes(home: Home, protocol: TrainingProtocol) -> Changes | None:
    """None where no other protocol of this name is approved here."""
    named = {}
    for name in home.approvals:
        found = home.approved(name)
        if found is not None and found[0].name == protocol.name and name != protocol.hash:
            named[name] = found[0]
    if not named:
        return None
    log = [entry.body["protocol"] for entry in read(home.path / AUDIT, audit.KIND) if entry.type == "approve"]
    last = max(named, key=lambda name: max((number for number, hashed in enumerate(log) if hashed == name), default=-1))
    return Changes(last, tuple(differences(named[last], protocol)))


def differences(before: TrainingProtocol, after: TrainingProtocol) -> Iterator[str]:
    """`privacy.epsilon: 2.0 -> 3.0`, and what was added or removed, in alphabetical order of the keys."""
    old, new = (dict(_flat(protocol.model_dump(mode="json", exclude_none=True))) for protocol in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            yield f"added {key}: {json.dumps(new[key])}"
        elif key not in new:
            yield f"removed {key}: {json.dumps(old[key])}"
        elif old[key] != new[key]:
            yield f"{key}: {json.dumps(old[key])} -> {json.dumps(new[key])}"


def _flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{path}{key}.")
        else:
            yield f"{path}{key}", inner
