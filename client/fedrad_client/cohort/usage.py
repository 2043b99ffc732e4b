"""Which runs had used a patient's images before the patient withdrew: for the person who asks. Printed here, and nowhere else."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client.cohort.split import Part
from fedrad_client.cohort.store import folder_name, owners
from fedrad_common.chain import Entry

_KINDS: dict[str, Part] = {"train": "training", "evaluate": "validation"}  # whose images an answer is computed from
People = Sequence[Collection[str]]  # all pseudonyms of each


@dataclass(frozen=True)
class Use:
    """One run that computed answers from a generation that holds some of the people, or may hold them."""

    run: str
    protocol: str | None  # hash; None: the ledger that knew it was lost
    generation: int | None
    people: int | None  # of those asked for; None: that generation cannot be read any more
    trained: tuple[int, ...]  # rounds, ascending
    evaluated: tuple[int, ...]
    left: int  # answers that left the site, of these rounds

    def facts(self) -> dict[str, Any]:
        return {**vars(self), "trained": list(self.trained), "evaluated": list(self.evaluated)}

    def line(self, name: str | None) -> str:
        """Args: name: the protocol's, where it is still approved here."""
        called = name or (f"protocol {self.protocol[:10]}" if self.protocol else "a protocol that a lost ledger knew")
        whom = "it cannot be told whether any of them" if self.people is None else f"{self.people} of them"
        rounds = [f"{word} in {_ranges(found)}" for word, found in (("trained", self.trained), ("validated", self.evaluated)) if found]
        return f"{self.run} ({called}): {whom} {' and '.join(rounds)}; {self.left} answers left"


def uses(people: People, *, directory: Path, ledger: Sequence[Entry], log: Sequence[Entry]) -> list[Use]:
    """Every run, in the order of their first answers. A withdrawal ends the use of later rounds, whatever is listed for a run.

    Args:
        directory: the cohort's, with all generations.
        ledger: entries of the site's ledger: what was computed. log: of its audit log: what left.
    """
    begun = {entry.body["run"]: entry.body for entry in ledger if entry.type == "run"}
    computed = {_answer(entry) for entry in ledger if entry.type == "answer"}
    released = {_answer(entry) for entry in log if entry.type == "release"}
    runs = dict.fromkeys(entry.body["run"] for entry in (*ledger, *log) if entry.type in ("answer", "release"))
    held = {number: _held(directory / folder_name(number), people) for number in {body["generation"] for body in begun.values()}}
    found = []
    for run in runs:
        body = begun.get(run, {})
        answers = {answer for answer in computed | released if answer[0] == run}
        use = _use(run, body, answers, released, held.get(body.get("generation")))
        if use.trained or use.evaluated:
            found.append(use)
    return found


def _answer(entry: Entry) -> tuple[str, str, int]:
    return entry.body["run"], entry.body["kind"], entry.body["round"]


def _use(
    run: str, body: Mapping[str, Any], answers: set[tuple[str, str, int]], released: set[tuple[str, str, int]], held: Counter[Part] | None
) -> Use:  # fmt: skip
    concerned = {answer for answer in answers if held is None or held[_KINDS[answer[1]]]}
    rounds = {kind: tuple(sorted(number for _, which, number in concerned if which == kind)) for kind in _KINDS}
    people = None if held is None else sum(held[_KINDS[kind]] for kind in _KINDS if rounds[kind])
    return Use(
        run, body.get("protocol"), body.get("generation"), people, rounds["train"], rounds["evaluate"], len(concerned & released)
    )  # fmt: skip


def _held(folder: Path, people: People) -> Counter[Part] | None:
    """How many of the people are in each part of a generation; None where it is gone or damaged."""
    whose = {name: number for number, names in enumerate(people) for name in names}
    try:
        found = {(whose[owner.patient], owner.part) for owner in owners(folder) if owner.patient in whose}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Counter(part for _, part in found)


def _ranges(rounds: Iterable[int]) -> str:
    """`round 1`, `rounds 1–3, 5`."""
    parts: list[list[int]] = []
    for number in rounds:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in parts)
    return f"round{'' if len(parts) == 1 and parts[0][0] == parts[0][1] else 's'} {shown}"
