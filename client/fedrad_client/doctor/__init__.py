"""`fedrad-site doctor`: one table of checks, each a small function that looks at one thing and names what is wrong and what to do."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedrad_client.doctor import disk, keys, locks, machine, network, records
from fedrad_client.doctor.faults import FAULTS, Fault, Finding, Verdict, fault
from fedrad_client.doctor.subject import Subject

__all__ = ["CHECKS", "FAULTS", "Check", "Fault", "Finding", "Subject", "Verdict", "as_json", "examine"]


@dataclass(frozen=True)
class Check:
    name: str
    look: Callable[[Subject], Iterator[Finding]]

    @property
    def looks_at(self) -> str:
        return (self.look.__doc__ or "").strip().rstrip(".")


CHECKS = (
    Check("settings", records.settings),
    Check("keys", keys.keys),
    Check("owner", keys.owners),
    Check("identity", keys.identity),
    Check("ledger", records.ledger),
    Check("audit log", records.audit_log),
    Check("time of logs", records.clock_of_logs),
    Check("locks", locks.locks),
    Check("cohort", records.cohort),
    Check("approvals", records.approvals),
    Check("pause", records.pause),
    Check("disk", disk.home),
    Check("cohort's disk", disk.cohort_folder),
    Check("temporary", disk.temporary),
    Check("cache", disk.cache),
    Check("address", network.address),
    Check("name", network.name),
    Check("route", network.route),
    Check("certificate", network.certificate),
    Check("answer", network.answer),
    Check("clock", network.clock),
    Check("release", network.version),
    Check("admission", network.admitted),
    Check("memory", machine.memory),
    Check("shared memory", machine.shared_memory),
    Check("open files", machine.open_files),
    Check("confinement", machine.confinement),
    Check("python", machine.python),
    Check("packages", machine.packages),  # last: they wait for a process that began with the first check
    Check("gpu", machine.gpu),
)


def examine(subject: Subject) -> Iterator[Finding]:
    """Make every check, in the order of the table; a finding comes as soon as it is known."""
    for check in CHECKS:
        try:
            for finding in check.look(subject):
                yield replace(finding, check=check.name)
        except OSError as error:  # a folder or file that this account may not even look at
            yield replace(fault("unreadable", why=errno.errorcode.get(error.errno or 0, "unknown")), check=check.name)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("ok", "warn", "fail", "skipped")}
    rows = [{"check": f.check, "verdict": f.verdict, "code": f.code, "sentence": f.sentence, "remedy": f.remedy} for f in findings]
    return {"format": "fedrad-doctor-1", **counts, "findings": rows}
