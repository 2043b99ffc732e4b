"""What may be sent to whoever helps: versions, checks, counts and codes. Each part is an allow-list; nothing is copied but what it names.

A person may hand the bundle to the coordinator: it holds nothing that the promise keeps at the site (no counts of patients, no reasons
behind a refusal's code), no keys, no UIDs, no pseudonyms and no path outside the site's folder.
"""

import collections
import importlib.metadata
import io
import json
import platform
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from fedrad_client.doctor import Subject, as_json, examine
from fedrad_client.site import Home
from fedrad_common import __version__
from fedrad_common.errors import FedradError

_LAST = 400  # lines of the node's log
_STATUS = (
    "site", "state", "running", "coordinator", "healthy", "round_trip", "trouble", "cohort", "approved", "answers", "bytes_left", "refused",
    "last_answer",
)  # fmt: skip
_LEDGER = (
    "ceiling",
    "reserved",
    "share",
    "left",
    "in_advance",
    "numeric_delta",
    "validation",
    "bound",
    "assumed_spent",
    "contradicted",
    "answers",
    "repeated",
)
_RUN = ("epsilon", "noise_multiplier", "sampling_rate", "steps", "steps_again", "unbounded")
# What our own words never hold, and a value that strayed into one might: a path, a UID, a pseudonym, a key or a hash of one.
# A path may hold blanks, so all that follows it goes, too. Three places that our own words name are none of somebody's.
_OWN = r"(?!(?:dev/shm|health|tmp)(?:[\s,;)]|$))"
_STRAY = (
    (re.compile(rf"(?:file:/*|~[\w.-]*/|\.\.[/\\]|(?<![\w.])/(?=\S){_OWN}|\\).*", re.DOTALL), "(path)"),
    (re.compile(r"\d+(?:\.\d+){4,}"), "(number)"),
    (re.compile(r"[0-9A-Fa-f]{24,}"), "(hash)"),
    (re.compile(r"[^\x20-\x7e]+"), "?"),
)


def contents(subject: Subject) -> dict[str, bytes]:
    """Every file of the bundle by name; a part that cannot be made says why in one word. The first is the table of contents."""
    parts: dict[str, Callable[[Subject], bytes]] = {
        "versions.json": _versions,
        "doctor.json": _doctor,
        "status.json": _status,
        "site.toml": _settings,
        "node.log": _log,
        "audit-counts.json": _audit,
        "ledger.json": _ledger,
    }
    files = {}
    for name, make in parts.items():
        try:
            files[name] = make(subject)
        except (FedradError, OSError) as error:
            files[name] = f"not available: {type(error).__name__}\n".encode()
    listed = "".join(f"{len(content):>8} bytes  {name}\n" for name, content in files.items())
    return {"contents.txt": f"support bundle of a fedrad site\n{listed}".encode(), **files}


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip without dates and accounts: the same parts give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def scrubbed(text: str) -> str:
    """One line without what a bundle must not hold."""
    for pattern, word in _STRAY:
        text = pattern.sub(word, text)
    return text


def _versions(subject: Subject) -> bytes:
    del subject
    named = (re.match(r"[\w.-]+", line) for line in importlib.metadata.requires("fedrad") or () if "extra ==" not in line)
    names = sorted(found[0] for found in named if found)
    packages = {}
    for name in names:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "none"
    machine = {
        "system": platform.system(),
        "kernel": platform.release(),
        "processor": platform.machine(),
        "libc": "-".join(platform.libc_ver()),
    }
    return _json({"fedrad": __version__, "python": platform.python_version(), **machine, "packages": packages})


def _doctor(subject: Subject) -> bytes:
    value = as_json(list(examine(subject)))
    value["findings"] = [{name: scrubbed(text) for name, text in row.items()} for row in value["findings"]]
    return _json(value)


def _status(subject: Subject) -> bytes:
    from fedrad_client.status import facts

    known = facts(Home(subject.home))
    kept = {name: known[name] for name in _STATUS if name in known}
    kept["approved"] = [
        name for name in known["approved"] if re.fullmatch("[0-9a-f]{1,16}", name)
    ]  # of hashes; not whatever a folder is called
    return _json(_scrubbed_values(kept))


def _settings(subject: Subject) -> bytes:
    """As it is understood: a comment of a person's is not for others to read."""
    if isinstance(subject.config, FedradError):
        raise subject.config
    lines = []
    for name, value in sorted(subject.config.model_dump(mode="json").items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(_inside(inner))}" for key, inner in value.items())]
        else:
            lines.append(f"{name} = {json.dumps(_inside(value))}")
    return "\n".join([*lines, ""]).encode()


def _log(subject: Subject) -> bytes:
    lines = (subject.home / "node" / "node.log").read_bytes().decode("utf-8", "replace").splitlines()[-_LAST:]
    return "".join(f"{scrubbed(line)}\n" for line in lines).encode()


def _audit(subject: Subject) -> bytes:
    if isinstance(subject.audit, FedradError):
        raise subject.audit
    entries = subject.audit
    by_type = collections.Counter(entry.type for entry in entries)
    # A contradiction's code is the reason behind a refusal: how many there were says enough to whoever is not of the site.
    told = [entry for entry in entries if entry.type != "evidence-contradiction" and isinstance(entry.body.get("code"), str)]
    codes = collections.Counter(f"{entry.type}: {entry.body['code']}" for entry in told)
    return _json(
        {"entries": len(entries), "first": entries[0].at, "last": entries[-1].at, "by_type": dict(by_type), "by_code": dict(codes)}
    )


def _ledger(subject: Subject) -> bytes:
    from fedrad_client.privacy.account import opening_of
    from fedrad_client.privacy.ledger import in_force
    from fedrad_client.privacy.overview import facts

    if isinstance(subject.ledger, FedradError):
        raise subject.ledger
    opening = opening_of(subject.ledger[0])
    value = facts(in_force(opening, subject.settings.privacy) if subject.settings else opening, subject.ledger)
    runs = [{name: run[name] for name in _RUN} for run in value["runs"]]
    return _json({"entries": len(subject.ledger), **{name: value[name] for name in _LEDGER}, "runs": runs})


def _inside(value: Any) -> Any:
    """Text that names a place outside the site's folder is left out."""
    if isinstance(value, list):
        return [_inside(one) for one in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or ".." in PurePath(value).parts):
        return "(a path outside)"
    return value


def _scrubbed_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _scrubbed_values(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed_values(inner) for inner in value]
    return scrubbed(value) if isinstance(value, str) else value


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False).encode() + b"\n"
