"""`fedrad-site cohort check`: one table of checks over one generation, each a function that looks at one thing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedrad_client.cohort.store import MANIFEST
from fedrad_client.intake.quality import copies, labelling, orientation, shortcuts, splits
from fedrad_client.intake.quality.findings import Finding
from fedrad_client.intake.quality.remembered import FORMAT
from fedrad_client.intake.quality.subject import Subject
from fedrad_common.files import sha256_file


@dataclass(frozen=True)
class Check:
    name: str
    look: Callable[[Subject], Iterator[Finding]]

    @property
    def looks_at(self) -> str:
        return (self.look.__doc__ or "").strip()


CHECKS = (
    Check("labels", labelling.labels),
    Check("contradictions", labelling.contradictions),
    Check("class sizes", labelling.class_sizes),
    Check("split", splits.split),
    Check("copies", copies.copies),
    Check("orientation", orientation.orientation),
    Check("metadata", shortcuts.metadata),
    Check("markers", shortcuts.markers),
    Check("borders", shortcuts.borders),
)


def examine(subject: Subject) -> Iterator[Finding]:
    """Make every check, in the order of the table. Changes nothing: a person decides (privacy.md, rule 5)."""
    if not len(subject):
        yield Finding("fail", "everybody in this generation has withdrawn", "ingest again", check="labels")
        return
    for check in CHECKS:
        for finding in check.look(subject):
            yield replace(finding, check=check.name)


def facts(subject: Subject, findings: Sequence[Finding]) -> dict[str, Any]:
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("pass", "warn", "fail", "skipped")}
    rows = [
        {
            "check": found.check, "verdict": found.verdict, "sentence": found.sentence, "remedy": found.remedy,
            "rows": [list(group) for group in found.look], **found.figures,
        }
        for found in findings
    ]  # fmt: skip
    return {
        "format": FORMAT,
        "generation": subject.cohort.generation,
        "manifest": sha256_file(subject.cohort.directory / MANIFEST),
        "images": len(subject),
        "patients": subject.n_patients,
        **counts,
        "findings": rows,
    }
