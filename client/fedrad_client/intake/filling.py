"""A draft while the files come in: each becomes an image, an entry of the quarantine, or a picture that waits, new or known from before."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.cohort.draft import Draft
from fedrad_client.cohort.labels import Key
from fedrad_client.intake.answers import Processing, decode, encode
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.pixels.image import needs_series
from fedrad_client.intake.process import Outcome, Recipe, State
from fedrad_client.intake.reading.content import load
from fedrad_client.intake.reading.desk import Answer, read_all
from fedrad_client.intake.series import Part, complete, digest_of
from fedrad_client.intake.states import States

Progress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Read:
    """One file's outcome, and where its pixels lie among the states."""

    outcome: Outcome
    place: int = 0
    digest: bytes = b""  # of the pixels
    known: bool = False  # from an earlier ingest


@dataclass
class Filling:
    """A draft while the files come in."""

    draft: Draft
    states: States
    recipe: Recipe
    review: Path | None
    waiting: set[str] = field(default_factory=set)  # contents of files whose pictures wait for a person
    numbers: dict[str, int] = field(default_factory=dict)  # of series
    used: set[Key] = field(default_factory=set)
    parts: list[Part] = field(default_factory=list)  # of series that are still to be completed
    contents: list[str] = field(default_factory=list)  # by entry
    n_known: int = 0

    def fill(self, files: Sequence[Path], *, workers: int, progress: Progress | None) -> None:
        whole_series = needs_series(self.recipe.geometry)
        if not whole_series:
            self.draft.borrow(self.states.pixels)
        for entry, read in enumerate(outcomes(files, self.recipe, self.states, workers=workers), start=1):
            self._take(read, entry, whole_series=whole_series)
            if progress:
                progress(entry, len(files))
        if whole_series:
            self.states.commit()
            complete(self.parts, self.recipe.geometry, self.states, self.draft)

    def _take(self, read: Read, entry: int, *, whole_series: bool) -> None:
        outcome = read.outcome
        self._hold(outcome)
        series = self.numbers.setdefault(outcome.series, len(self.numbers) + 1) if outcome.series else None
        self.contents.append(outcome.content)
        self.n_known += read.known
        known = outcome.names.known(self.recipe.labels)
        self.used.update(known.used)
        record, code = outcome.record, outcome.code
        if code is None and self.recipe.labels and self.recipe.geometry.depth is None and all(value is None for value in known.values):
            code = "contradictory" if known.contradictory else "unlabelled"
        if record is None or code is not None:
            self.draft.set_aside(code or "internal", entry=entry, series=series)
        elif whole_series:
            digest = digest_of(record, read.digest, known.values)
            group = outcome.series or record.image
            self.parts.append(
                Part(entry, series, record.patient, group, record.image, outcome.content, digest, known.values, known.contradictory)
            )
        else:
            self.draft.add(record, outcome.slices[0].pixels, known.values, entry=entry, series=series, place=read.place)

    def _hold(self, outcome: Outcome) -> None:
        """A picture with text waits for a person; one that waited for no reason any more does not."""
        if self.review is None:
            return
        found = outcome.suspicion
        if found is None or outcome.code is None:
            if outcome.content in self.waiting:
                queue.remove(self.review, [outcome.content])
            return
        waiting = found.waiting(content=outcome.content, code=outcome.code, patient=outcome.named or "")
        queue.put(self.review, waiting, found.picture)

    def fates(self) -> Iterator[tuple[str, State, Code | None]]:
        """Of every file that was read. A file that lies there twice is in the cohort where one of them is."""
        aside = {entry["entry"]: entry["code"] for entry in self.draft.quarantine}
        for entry, code in aside.items():
            if content := self.contents[entry - 1]:
                yield content, "quarantined", code
        for entry, content in enumerate(self.contents, start=1):
            if content and entry not in aside:
                yield content, "in-cohort", None


def outcomes(files: Sequence[Path], recipe: Recipe, states: States, *, workers: int = 1) -> Iterator[Read]:
    """Each file's outcome, in the order of `files`. A file that ends or hangs its reader is set aside with a code that says how."""
    work = Processing(recipe, states.seen())
    for path, answer in zip(files, read_all(files, work, workers=workers), strict=True):
        yield _read(path, answer, recipe, states)


def _read(path: Path, answer: Answer, recipe: Recipe, states: States) -> Read:
    if answer.code is not None:
        head, body = encode(Outcome(answer.code, content=_content(path)))
    else:
        head, body = answer.head, answer.body
    outcome = decode(head, body)
    if outcome.seen:
        if found := _kept(outcome.content, recipe, states):
            return found
        return _read(path, next(read_all([path], Processing(recipe))), recipe, states)
    if not outcome.content:
        return Read(outcome)
    if outcome.suspicion:
        body = b""  # it waits elsewhere
    place = states.append(body)
    states.put(outcome.content, head, place=place, body=body)
    return Read(outcome, place, hashlib.sha256(body).digest())


def _content(path: Path) -> str:
    """SHA-256 of a file whose reader had no time to say it."""
    with contextlib.suppress(Quarantined):
        return hashlib.sha256(load(path)).hexdigest()
    return ""


def _kept(content: str, recipe: Recipe, states: States) -> Read | None:
    """What an earlier ingest made of it; None where its pixels are lost, or its patient is another person's now."""
    row = states.find(content)
    body = None if row is None else states.body(row)
    if row is None or body is None:
        return None
    outcome = decode(row.head, body)
    if outcome.named is not None:
        merge = recipe.merges.rows.get(outcome.named)
        person = merge.person if merge else outcome.named
        if person in recipe.merges.apart | recipe.withdrawn or (outcome.record and outcome.record.patient != person):
            return None
    return Read(outcome, row.place, row.digest or b"", known=True)
