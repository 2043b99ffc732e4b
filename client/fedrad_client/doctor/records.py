"""Settings, logs, cohort and approvals of the site: whole, of this site, and fit to answer an order?"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedrad_client.doctor.faults import Finding, fault, fine, skipped
from fedrad_client.doctor.subject import Subject
from fedrad_client.privacy.account import opening_of
from fedrad_client.privacy.ledger import in_force
from fedrad_client.site import AUDIT, LEDGER, Home, unpaid_releases
from fedrad_common.chain import Entry
from fedrad_common.errors import ConfigError, FedradError, MisuseError

_SLACK = timedelta(hours=1)  # by which a log lets the clock go back
_MOST_HASHED = 16 << 20  # bytes of a cohort's file that are read; larger ones are compared by size, for this must be quick


def settings(subject: Subject) -> Iterator[Finding]:
    """site.toml: every key known, every value possible, and the privacy ceilings no looser than the ledger's."""
    if subject.settings:
        yield _looser(subject) or fine("site.toml is understood")
    elif not (subject.home / "site.toml").is_file():
        yield fault("settings-missing")
    else:
        yield fault("settings-wrong", said=subject.config, hint=getattr(subject.config, "hint", "") or "correct that line of site.toml")


def ledger(subject: Subject) -> Iterator[Finding]:
    """The privacy ledger: whole, and neither an older copy nor contradicted by a witness."""
    entries = subject.ledger
    if isinstance(entries, FedradError):
        yield _log_fault(subject.home / LEDGER)
        return
    said = list(_ledger_faults(entries, subject.audit))
    yield from said or [fine(f"{len(entries)} entries, whole")]


def audit_log(subject: Subject) -> Iterator[Finding]:
    """The audit log: whole."""
    if isinstance(subject.audit, FedradError):
        yield _log_fault(subject.home / AUDIT)
    else:
        yield fine(f"{len(subject.audit)} entries, whole")


def clock_of_logs(subject: Subject) -> Iterator[Finding]:
    """Is it later than the last entry of both logs? What is written must not be older than what stands before it."""
    for name, entries in ((LEDGER, subject.ledger), (AUDIT, subject.audit)):
        if not isinstance(entries, FedradError) and datetime.now(UTC) < datetime.fromisoformat(entries[-1].at) - _SLACK:
            yield fault("clock-back", name=name)
            return
    yield fine("later than the last entry of both logs")


def cohort(subject: Subject) -> Iterator[Finding]:
    """The current cohort: there, of the sizes and hashes that its manifest names; and the list of withdrawn patients."""
    from fedrad_client.cohort.store import current
    from fedrad_client.cohort.withdrawal import check_tombstones

    if subject.settings is None:
        yield skipped("site.toml names its folder, and cannot be read")
        return
    directory = Home(subject.home).cohort
    try:
        check_tombstones(directory, [] if isinstance(subject.audit, FedradError) else subject.audit)
    except FedradError:
        yield fault("withdrawals-lost")
    try:
        number = current(directory)
    except MisuseError:
        yield fault("no-cohort")
        return
    except FedradError:
        yield fault("cohort-damaged", what="its pointer to the current generation")
        return
    broken = _broken_file(directory, number)
    yield fault("cohort-damaged", what=broken) if broken else fine(f"generation {number}, whole")


def approvals(subject: Subject) -> Iterator[Finding]:
    """Approved protocols: at least one, each with the bytes of its hash."""
    home = Home(subject.home)
    try:
        found = [name for name in home.approvals if home.approved(name)]
    except (FedradError, OSError):
        yield fault("approval-damaged")
        return
    yield fine(f"{len(found)} approved") if found else fault("no-approval")


def pause(subject: Subject) -> Iterator[Finding]:
    """Does the site answer, or did a person pause it or take it out?"""
    if subject.settings is None:
        yield skipped("site.toml cannot be read")
        return
    home = Home(subject.home)
    yield fault("left") if home.left else fault("paused") if home.paused else fine("orders are answered")


def _looser(subject: Subject) -> Finding | None:
    """With other ceilings than the ledger's every order is answered with `internal`."""
    if subject.settings is None or isinstance(subject.ledger, FedradError):
        return None
    try:
        in_force(opening_of(subject.ledger[0]), subject.settings.privacy)
    except ConfigError as error:
        return fault("settings-looser", said=error, hint=error.hint)
    except FedradError:  # of another version: no other program of this site reads it either
        return fault("log-damaged", name=LEDGER)
    return None


def _log_fault(path: Path) -> Finding:
    there = path.exists() and path.with_name(f"{path.name}.mark").exists()
    return fault("log-damaged" if there else "log-missing", name=path.name)


def _ledger_faults(entries: list[Entry], log: list[Entry] | FedradError) -> Iterator[Finding]:
    if any(entry.type == "contradicted" for entry in entries):
        yield fault("ledger-contradicted")
    if not isinstance(log, FedradError) and unpaid_releases(entries, log):
        yield fault("ledger-old")


def _broken_file(directory: Path, number: int) -> str | None:
    from fedrad_client.cohort.store import folder_name, read_manifest

    try:
        manifest = read_manifest(directory, number)
    except FedradError:
        return f"generation {number} has no readable manifest"
    for name, file in manifest.files.items():
        path = directory / folder_name(number) / name
        if not path.is_file() or path.stat().st_size != file.bytes:
            return f"{name} of generation {number} is missing or shortened"
        if file.bytes <= _MOST_HASHED and hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            return f"{name} of generation {number} was changed"
    return None
