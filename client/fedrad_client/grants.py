"""For which runs a person's yes holds: so many runs of an approved protocol, and those that were named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedrad_common.config import Section, parse_json
from fedrad_common.files import write_json
from fedrad_common.records import RunId

APPROVAL = "approval.json"
Why = Literal["run-not-named", "no-run-left"]


class Approval(Section):
    """What a person typed, beside the protocol's bytes and the plan."""

    format: Literal["fedrad-approval-1"] = "fedrad-approval-1"
    runs: Annotated[int, Field(ge=0)]  # that may begin after `since`, in all
    named: tuple[RunId, ...] = ()  # runs that were approved by name, on top
    since: Annotated[int, Field(ge=0)]  # runs that the ledger had: those neither count, nor are they covered

    def plus(self, *, runs: int, named: str | None) -> "Approval":
        """Never fewer than before: an approval is taken back whole, or not at all."""
        both = (*self.named, named) if named is not None and named not in self.named else self.named
        return self.model_copy(update={"runs": max(self.runs, runs), "named": both})


@dataclass(frozen=True)
class Grant:
    """An approval, and the runs of its protocol that the ledger knows."""

    runs: int
    named: frozenset[str]
    begun: tuple[str, ...]  # since the approval, in order
    earlier: frozenset[str] = frozenset()  # under an approval that was taken back: only by name do they go on

    @property
    def used(self) -> int:
        """Runs that were begun and that nobody had named."""
        return sum(run not in self.named for run in self.begun)

    @property
    def left(self) -> int:
        """Runs that may still begin, named ones among them."""
        return max(0, self.runs - self.used) + len(self.named.difference(self.begun, self.earlier))

    def why_not(self, run: str, *, by_name: bool) -> Why | None:
        """None where the yes holds for this run.

        Args:
            by_name: whether the policy wants each run named.
        """
        if run in self.named:
            return None
        if by_name or run in self.earlier:
            return "run-not-named"
        counted = [other for other in self.begun if other not in self.named]
        place = counted.index(run) if run in counted else len(counted)
        return None if place < self.runs else "no-run-left"


NOBODY = Approval(runs=0, since=0)  # what holds where nothing was written: unknown means no


def read_approval(folder: Path) -> Approval:
    """Raises FormatError when the file is damaged."""
    path = folder / APPROVAL
    return parse_json(path.read_bytes(), Approval, name=APPROVAL) if path.exists() else NOBODY


def write_approval(folder: Path, approval: Approval) -> None:
    write_json(folder / APPROVAL, approval.model_dump(mode="json"))


def granted(approval: Approval, runs: Sequence[Mapping[str, Any]], protocol: str) -> Grant:
    """By the ledger, which alone knows what was begun.

    Args:
        runs: the bodies of its `run` entries, in order.
    """
    earlier, begun = (
        [body["run"] for body in part if body["protocol"] == protocol] for part in (runs[: approval.since], runs[approval.since :])
    )
    return Grant(approval.runs, frozenset(approval.named), tuple(begun), frozenset(earlier))
