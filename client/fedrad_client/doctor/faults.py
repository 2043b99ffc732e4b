"""Every fault that doctor can name, from `faults.toml`: how bad, one sentence, and what a person does. Codes are for programs, and stay."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Fault:
    verdict: Verdict
    sentence: str  # with {names} that the check fills in: of files in the home, hosts and numbers; never of the other side's words
    remedy: str


FAULTS = {
    code: Fault(**found) for code, found in tomllib.loads(Path(__file__).with_name("faults.toml").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class Finding:
    """What one check says. One that could not be made, because an earlier one failed, is `skipped`."""

    check: str
    verdict: Verdict
    code: str  # of `FAULTS`; "" where nothing is wrong
    sentence: str
    remedy: str = ""


def fault(code: str, **values: object) -> Finding:
    """The finding of that code; the check's name is added by who runs it."""
    known = FAULTS[code]
    return Finding("", known.verdict, code, known.sentence.format(**values), known.remedy.format(**values))


def fine(sentence: str) -> Finding:
    return Finding("", "ok", "", sentence)


def skipped(sentence: str) -> Finding:
    return Finding("", "skipped", "", sentence)
