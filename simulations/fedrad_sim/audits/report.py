"""`audit.html` and `audit.json` from whatever audits have been made so far."""

from pathlib import Path
from typing import get_args

from fedrad_common.errors import MisuseError
from fedrad_common.files import write_atomic, write_json
from fedrad_sim.audits.finding import FILE, AuditName, Finding, read_finding
from fedrad_sim.audits.page import page

FORMAT = "fedrad-audits-1"


def write_report(out: Path) -> list[Finding]:
    """Raises MisuseError when there is no finding below `out`."""
    paths = [out / name / FILE for name in get_args(AuditName)]
    findings = [read_finding(path) for path in paths if path.is_file()]
    if not findings:
        raise MisuseError(f"{out.name}: holds no audit", hint="make one first: fedrad-sim audit two-worlds --out DIR")
    write_atomic(out / "audit.html", page(findings).encode(), mode=0o644)
    drawn = {"arms": {"__all__": {"drawn", "pictures"}}}
    write_json(out / "audit.json", {"format": FORMAT, "audits": [finding.model_dump(mode="json", exclude=drawn) for finding in findings]})
    return findings
