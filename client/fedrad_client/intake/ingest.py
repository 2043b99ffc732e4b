"""Files of DICOM become a new cohort generation: streamed, whole or absent, the same bytes whatever the order."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.cohort.draft import Draft, check_continuity, new_generation, next_generation, publish
from fedrad_client.cohort.labels import Key, read_labels
from fedrad_client.cohort.merged import read_table
from fedrad_client.cohort.store import Manifest
from fedrad_client.cohort.withdrawal import withdrawn
from fedrad_client.intake.answers import Processing, decode, encode
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.rules import BurnRules
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.pixels.image import Geometry, needs_series
from fedrad_client.intake.process import Outcome as Outcome
from fedrad_client.intake.process import Recipe as Recipe
from fedrad_client.intake.process import State, keyed_name
from fedrad_client.intake.process import process as process
from fedrad_client.intake.reading.content import load
from fedrad_client.intake.reading.desk import Answer, read_all
from fedrad_client.intake.reading.folder import find_files
from fedrad_client.intake.series import Part, complete, digest_of
from fedrad_client.intake.states import States, open_states, recipe_id
from fedrad_common.errors import DiskError, MisuseError

NOTHING_DECIDED = BurnRules()
Progress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Intake:
    """What one ingest did. Counts stay at the site."""

    generation: int
    changed: bool  # False: the current generation holds exactly this already
    n_files: int
    n_images: int
    n_patients: int
    counts: dict[Code, int]  # files set aside, by code
    warnings: tuple[str, ...]
    series: dict[Code, tuple[int, ...]] = field(default_factory=dict)  # running numbers of the series in which they were set aside
    n_known: int = field(default=0, compare=False)  # files that an earlier ingest had processed, and this one need not


@dataclass(frozen=True)
class Read:
    """One file's outcome, and where its pixels lie among the states."""

    outcome: Outcome
    place: int = 0
    digest: bytes = b""  # of the pixels
    known: bool = False  # from an earlier ingest


def ingest(
    source: Path,
    labels: Path | None,
    *,
    cohort: Path,
    geometry: Geometry,
    label_names: tuple[str, ...],
    keys: PseudonymKeys,
    validation_fraction: float,
    burn: BurnRules = NOTHING_DECIDED,
    review: Path | None = None,
    progress: Progress | None = None,
    workers: int = 1,
) -> Intake:
    """Read, de-identify and normalise everything below `source` into a new generation of `cohort`. `source` is not changed.

    Files that an earlier ingest processed for the same recipe, finished or killed, are not processed again.

    Args:
        labels: CSV, see cohort/labels; images it does not label are set aside. None, with no `label_names`: an unlabelled cohort.
        label_names: columns to keep; empty keeps all.
        burn: what people decided about text in pictures.
        review: the site's home, where pictures with text wait for a person; None: nowhere.

    Raises:
        MisuseError: no folder, no files, no usable image, no or malformed labels, or a split that would move patients.
        BusyError: another ingest is running. FedradError: the disk is full; the old generation stays current.
    """
    files = _files(source)
    if labels is None and label_names:
        raise MisuseError("labels: none given", hint=f"give --labels a CSV with the columns {', '.join(label_names)}")
    table = read_labels(labels, label_names).renamed(lambda name: keyed_name(keys, name)) if labels else None
    recipe = Recipe(geometry, keys, validation_fraction, table, withdrawn(cohort), Merges.of(read_table(cohort), keys), burn)
    check_continuity(cohort, key=keys.id, validation_fraction=validation_fraction)
    with (
        new_generation(cohort, height=geometry.height, width=geometry.width, depth=geometry.depth) as draft,
        open_states(cohort, recipe_id(recipe)) as states,
    ):
        states.forget(recipe.withdrawn | {row.alias for row in recipe.merges.rows.values() if row.person in recipe.withdrawn})
        filled = _Filling(draft, states, recipe, review, queue.contents(review) if review else set())
        filled.fill(files, workers=workers, progress=progress)
        manifest = _manifest(draft, recipe, n_files=len(files), generation=next_generation(cohort), used=len(filled.used))
        published = publish(draft, cohort, manifest)
        with contextlib.suppress(DiskError):  # the generation is there: a full disk leaves its files at "normalised" until the next ingest
            states.settle(filled.fates())
        warnings = tuple(_warnings(draft, manifest))
    return Intake(
        generation=published.generation,
        changed=published is manifest,
        n_files=manifest.n_files,
        n_images=manifest.n_images,
        n_patients=manifest.n_patients,
        counts=dict(manifest.counts),  # type: ignore[arg-type] # written from codes a few lines above
        warnings=warnings,
        series=_series_by_code(draft),
        n_known=filled.n_known,
    )


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        raise MisuseError("source: no such folder", hint="name the folder that holds the DICOM files")
    files = find_files(source)
    if not files:
        raise MisuseError("source: the folder is empty", hint="name the folder that holds the DICOM files; hidden files do not count")
    return files


@dataclass
class _Filling:
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


def _manifest(draft: Draft, recipe: Recipe, *, n_files: int, generation: int, used: int) -> Manifest:
    kept = draft.settle()
    counts = Counter(entry["code"] for entry in draft.quarantine)
    if not kept:
        shown = ", ".join(f"{count} {code}" for code, count in counts.most_common())
        raise MisuseError(f"source: none of {n_files} files can be used: {shown}", hint="nothing was changed")
    geometry, labels = recipe.geometry, recipe.labels
    names = labels.names if labels else ()
    return Manifest(
        generation=generation,
        profile=geometry.profile.name,
        profile_hash=geometry.profile.hash,
        height=geometry.height,
        width=geometry.width,
        depth=geometry.depth,
        spacing=geometry.spacing,
        key=recipe.keys.id,
        validation_fraction=recipe.validation_fraction,
        labels=names,
        n_files=n_files,
        n_images=len(kept),
        n_patients=len({image.patient for image in kept}),
        counts=dict(sorted(counts.items())),
        label_keys=len(labels.rows) if labels else None,
        unused_label_keys=len(labels.rows) - used if labels else None,
        contradictory_label_keys=labels.contradictory if labels else None,
        files=draft.write_files(names),
    )


def _series_by_code(draft: Draft) -> dict[Code, tuple[int, ...]]:
    found: dict[Code, set[int]] = {}
    for entry in draft.quarantine:
        if entry["series"] is not None:
            found.setdefault(entry["code"], set()).add(entry["series"])
    return {code: tuple(sorted(numbers)) for code, numbers in sorted(found.items())}


def _warnings(draft: Draft, manifest: Manifest) -> Iterator[str]:
    if manifest.unused_label_keys:
        yield f"labels: {manifest.unused_label_keys} keys belong to no image that was read"
    if manifest.contradictory_label_keys:
        yield f"labels: {manifest.contradictory_label_keys} keys have rows that contradict each other: those labels count as unknown"
    if manifest.n_patients == 1:
        yield "cohort: one patient only"
    for index, name in enumerate(manifest.labels):
        found = {image.labels[index] for image in draft.kept} - {None}
        if len(found) == 1:
            yield f"labels: {name}: every image is {found.pop()}"
        elif not found:
            yield f"labels: {name}: no image has a value"
