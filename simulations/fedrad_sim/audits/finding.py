"""What an audit found, as a value and as a file: each arm's figures, and whether they are within the claim."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedrad_common.config import Section, parse_json
from fedrad_common.files import make_folder, write_json

FILE = "finding.json"
AuditName = Literal["two-worlds", "one-run", "membership", "inversion"]
CONFIDENCE, CERTAINTY = 0.95, 0.999  # of the limits that are shown; and before a claim is called broken


class Arm(Section):
    """One setting that was attacked. A control has its defence taken away on purpose, and is sound where the attack then succeeds."""

    name: str
    control: bool
    of: str = ""  # the arm that a control is of; empty: of all
    sound: bool
    says: str  # the verdict in one sentence
    figures: dict[str, float]
    drawn: dict[str, tuple[float, ...]] = {}
    pictures: dict[str, tuple[str, ...]] = {}  # data URIs


class Finding(Section):
    format: Literal["fedrad-audit-1"] = "fedrad-audit-1"
    audit: AuditName
    epsilon: float  # the claim that was held against
    delta: float
    unit: Literal["patient", "image"]
    settings: dict[str, float | int | str]
    arms: tuple[Arm, ...]
    seconds: float  # of this command; less than all where it went on with an earlier one's runs

    @property
    def broken(self) -> tuple[Arm, ...]:
        """Defended arms that are not within the claim."""
        return tuple(arm for arm in self.arms if not arm.control and not arm.sound)

    @property
    def blunt(self) -> tuple[Arm, ...]:
        """Controls in which the attack found nothing: then it proves nothing elsewhere."""
        return tuple(arm for arm in self.arms if arm.control and not arm.sound)


def write_finding(out: Path, finding: Finding) -> None:
    make_folder(out / finding.audit)
    write_json(out / finding.audit / FILE, finding.model_dump(mode="json"))


def read_finding(path: Path) -> Finding:
    """Raises FormatError when it is damaged or of another version."""
    return parse_json(path.read_bytes(), Finding, name=path.name)
