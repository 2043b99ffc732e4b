"""What is kept of a DICOM file, told by the rules themselves; `docs/deidentification.md` is checked against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedrad_client.intake.deid.rules import RULES, Rule

HEAD = (
    "basic: what PS3.15 table E.1-1 demands in its basic profile (D dummy, Z empty, X removed, U new UID; - not in the table)",
    "here: what is done (D dummy, X removed, U new UID, C cleaned, K kept; - only a value of this form), by which paragraph of PS3.15",
)
TAIL = "everything else, private elements, nested sequences and file names included: does not exist"


@dataclass(frozen=True)
class Line:
    """One element, as told to a person or a program."""

    keyword: str
    basic: str
    action: str
    paragraph: str
    kept: str

    def shown(self) -> str:
        return f"{self.keyword:<26} {self.basic:<6} {self.action:<5} {self.paragraph:<6} {self.kept}"


IDENTITY = (
    Line("PatientID", "Z/D", "D", "E.1.1", "keyed pseudonym of Patient ID and issuer; a file without one is set aside"),
    Line("IssuerOfPatientID", "X", "X", "E.1.1", "part of the identity behind the pseudonym; not kept"),
)


def explained(rules: Sequence[Rule[Any]] = RULES) -> list[Line]:
    """The whole list, rule by rule."""
    return [*IDENTITY, *(Line(rule.keyword, rule.basic, rule.action, rule.paragraph, rule.keeps) for rule in rules)]


def table(rules: Sequence[Rule[Any]] = RULES) -> list[str]:
    return [Line("keyword", "basic", "here", "PS3.15", "what is kept").shown(), *(line.shown() for line in explained(rules))]


def explain(rules: Sequence[Rule[Any]] = RULES) -> str:
    """The same for a person, one rule a line."""
    return "\n".join([*HEAD, *table(rules), TAIL])
