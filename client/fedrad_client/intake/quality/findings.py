"""What a check says: a verdict, one sentence, what to do, and which images to look at. Stays at the site."""

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail", "skipped"]
MOST_SHOWN = 24  # groups of images a finding names; counts are of all


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    sentence: str
    remedy: str = ""
    check: str = ""
    look: tuple[tuple[int, ...], ...] = ()  # rows of the cohort, those to be seen side by side together
    figures: dict[str, Any] = field(default_factory=dict)


def fine(sentence: str, **figures: Any) -> Finding:
    return Finding("pass", sentence, figures=figures)


def skipped(sentence: str) -> Finding:
    return Finding("skipped", sentence)


def flagged(
    verdict: Literal["warn", "fail"], sentence: str, remedy: str, *, look: tuple[tuple[int, ...], ...] = (), **figures: Any
) -> Finding:  # fmt: skip
    return Finding(verdict, sentence, remedy, look=look[:MOST_SHOWN], figures=figures)


def counted(number: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
