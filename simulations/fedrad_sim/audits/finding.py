"""What an audit found, as a value and as a file: each arm's figures, and whether they are within the claim."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedrad_common.config import Section, parse_json
from fedrad_common.files import make_folder, write_json

FILE = "finding.json"
AuditName = Literal["two-worlds", "one-run", "membership", "inversion"]
CONFIDENCE, CERTAINTY = 0.95, 0.999  # of the limits that are shown; and before a claim is called broken
Verdict = Literal["sound", "above the claim", "above the bar", "blunt"]
TO_DO: dict[Verdict, str] = {
    "above the claim": "the account promises more than is kept, so train nowhere until it is known why",
    "above the bar": "within the claim, but the attack finds more than on record: look for what has changed",
    "blunt": "without the defence the attack finds too little to prove anything: take a smaller claim, or more runs",
}


class Arm(Section):
    """One setting that was attacked. A control has its defence taken away on purpose, and is sound where the attack then succeeds."""

    name: str
    control: bool
    of: str = ""  # the arm that a control is of; empty: of all
    verdict: Verdict
    says: str  # what was found, in one sentence
    figures: dict[str, float]
    drawn: dict[str, tuple[float, ...]] = {}
    pictures: dict[str, tuple[str, ...]] = {}  # data URIs

    @property
    def sound(self) -> bool:
        return self.verdict == "sound"


def of_control(succeeds: bool) -> Verdict:
    """An attack that finds nothing without the defence proves nothing elsewhere."""
    return "sound" if succeeds else "blunt"


def of_defended(*, above_claim: bool, above_bar: bool = False) -> Verdict:
    """Above the claim is a broken promise; above the bar is more than was found before, which the claim may well permit."""
    return "above the claim" if above_claim else "above the bar" if above_bar else "sound"


class Finding(Section):
    format: Literal["fedrad-audit-2"] = "fedrad-audit-2"
    audit: AuditName
    epsilon: float  # the claim that was held against
    delta: float
    unit: Literal["patient", "image"]
    settings: dict[str, float | int | str]
    arms: tuple[Arm, ...]
    seconds: float  # of this command; less than all where it went on with an earlier one's runs

    @property
    def faults(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if not arm.sound)


def write_finding(out: Path, finding: Finding) -> None:
    make_folder(out / finding.audit)
    write_json(out / finding.audit / FILE, finding.model_dump(mode="json"))


def read_finding(path: Path) -> Finding:
    """Raises FormatError when it is damaged or of another version."""
    return parse_json(path.read_bytes(), Finding, name=path.name)
