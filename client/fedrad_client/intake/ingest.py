"""A folder of DICOM becomes a new cohort generation: streamed, whole or absent, the same bytes whatever the order."""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from fedrad_client.cohort.draft import Draft, check_continuity, new_generation, next_generation, publish
from fedrad_client.cohort.labels import Key, Known, LabelTable, Level, Values, read_labels
from fedrad_client.cohort.split import part_of
from fedrad_client.cohort.store import Manifest, Record
from fedrad_client.cohort.withdrawal import withdrawn
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.deid.rules import KEYWORDS, PseudonymKeys, Subject, Value, rebuild, subject
from fedrad_client.intake.pixels.image import Fragile, Geometry, check_header, normalise
from fedrad_client.intake.reading.dicom import find_files, hushed, read
from fedrad_common.errors import MisuseError

CHUNK = 16  # files handed to a reader process at a time
Progress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Recipe:
    """All that turns one file into one image; nothing in it depends on any other file."""

    geometry: Geometry
    keys: PseudonymKeys
    validation_fraction: float
    labels: LabelTable | None = None
    withdrawn: frozenset[str] = frozenset()  # pseudonyms


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a record, pixels and labels; or a code."""

    code: Code | None = None
    series: str | None = None  # pseudonymous UID
    record: Record | None = None
    pixels: npt.NDArray[np.uint16] | None = None  # (H, W)
    labels: Values = ()
    used: tuple[Key, ...] = ()  # label rows that speak of it


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


def ingest(
    source: Path,
    labels: Path | None,
    *,
    cohort: Path,
    geometry: Geometry,
    label_names: tuple[str, ...],
    keys: PseudonymKeys,
    validation_fraction: float,
    progress: Progress | None = None,
    workers: int = 1,
) -> Intake:
    """Read, de-identify and normalise everything below `source` into a new generation of `cohort`. `source` is not changed.

    Args:
        labels: CSV, see cohort/labels; images it does not label are set aside. None, with no `label_names`: an unlabelled cohort.
        label_names: columns to keep; empty keeps all.

    Raises:
        MisuseError: no folder, no files, no usable image, no or malformed labels, or a split that would move patients.
        BusyError: another ingest is running. FedradError: the disk is full; nothing changed.
    """
    files = _files(source)
    if labels is None and label_names:
        raise MisuseError("labels: none given", hint=f"give --labels a CSV with the columns {', '.join(label_names)}")
    table = read_labels(labels, label_names) if labels else None
    recipe = Recipe(geometry, keys, validation_fraction, table, withdrawn(cohort))
    check_continuity(cohort, key=keys.id, validation_fraction=validation_fraction)
    with new_generation(cohort, height=geometry.height, width=geometry.width) as draft:
        unused = _fill(draft, files, recipe, workers=workers, progress=progress)
        manifest = _manifest(draft, recipe, n_files=len(files), generation=next_generation(cohort))
        published = publish(draft, cohort, manifest)
        contradictory = table.contradictory if table else 0
        warnings = tuple(_warnings(draft, manifest, unused=unused, contradictory=contradictory))
    return Intake(
        generation=published.generation,
        changed=published is manifest,
        n_files=manifest.n_files,
        n_images=manifest.n_images,
        n_patients=manifest.n_patients,
        counts=dict(manifest.counts),  # type: ignore[arg-type] # written from codes a few lines above
        warnings=warnings,
    )


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        raise MisuseError("source: no such folder", hint="name the folder that holds the DICOM files")
    files = find_files(source)
    if not files:
        raise MisuseError("source: the folder is empty", hint="name the folder that holds the DICOM files; hidden files do not count")
    return files


def process(path: Path, recipe: Recipe, *, fragile: bool = True) -> Outcome:
    """One file, on its own. Lets no text of it out, and raises nothing for what it holds, but Fragile when `fragile` is False."""
    series = None
    try:
        with hushed():
            ds = read(path, KEYWORDS)
            who = subject(ds)
            if who.pseudonym(recipe.keys) in recipe.withdrawn:
                return Outcome("withdrawn")
            fields = rebuild(ds, who, recipe.keys)
            series = _text(fields.get("SeriesInstanceUID"))
            check_header(ds, recipe.geometry.profile)
            known = recipe.labels.find(label_keys(ds, who), issuer=who.issuer) if recipe.labels else Known((), False, ())
            if recipe.labels and all(value is None for value in known.values):
                return Outcome("contradictory" if known.contradictory else "unlabelled", series, used=known.used)
            pixels = normalise(ds, recipe.geometry, fragile=fragile)
    except Quarantined as outcome:
        return Outcome(outcome.code, series)
    except Fragile:
        raise
    except Exception:  # its text may quote the file; the code is counted and shown
        return Outcome("internal", series)
    part = part_of(who.identity, key=recipe.keys.split, fraction=recipe.validation_fraction)
    record = Record(who.pseudonym(recipe.keys), str(fields["SOPInstanceUID"]), part, dict(fields))
    return Outcome(None, series, record, pixels, known.values, known.used)


def label_keys(ds: Dataset, who: Subject) -> dict[Level, str]:
    """Whatever a label table may call this image by. Identifiers: for the look-up only."""
    return {
        "SOPInstanceUID": str(ds.SOPInstanceUID).strip(" \0"),
        "SeriesInstanceUID": str(ds.get("SeriesInstanceUID") or "").strip(" \0"),
        "PatientID": who.patient_id,
    }


def _text(value: Value | None) -> str | None:
    return None if value is None else str(value)


def _fill(draft: Draft, files: list[Path], recipe: Recipe, *, workers: int, progress: Progress | None) -> int:
    """Read all files into the draft; returns how many keys of the label table spoke of no file that was read."""
    numbers: dict[str, int] = {}
    used: set[Key] = set()
    for entry, outcome in enumerate(outcomes(files, recipe, workers=workers), start=1):
        series = numbers.setdefault(outcome.series, len(numbers) + 1) if outcome.series else None
        used.update(outcome.used)
        if outcome.record is not None and outcome.pixels is not None:
            draft.add(outcome.record, outcome.pixels, outcome.labels, entry=entry, series=series)
        else:
            draft.set_aside(outcome.code or "internal", entry=entry, series=series)
        if progress:
            progress(entry, len(files))
    return len(recipe.labels.rows) - len(used) if recipe.labels else 0


def outcomes(files: list[Path], recipe: Recipe, *, workers: int = 1) -> Iterator[Outcome]:
    """Each file's outcome, in the order of `files`. A file whose decoder ends its process is set aside as undecodable."""
    done = 0
    if workers > 1 and len(files) > CHUNK:
        # A dead reader says not which file killed it: what was not answered yet is read again, carefully.
        with contextlib.suppress(BrokenProcessPool):
            for outcome in _in_parallel(files, recipe, workers):
                done += 1
                yield outcome
    with contextlib.ExitStack() as children:
        child: ProcessPoolExecutor | None = None
        for path in files[done:]:
            try:
                outcome = process(path, recipe, fragile=False)
            except Fragile:
                child = child or children.enter_context(_pool(1, recipe))
                try:
                    outcome = child.submit(_process_chunk, [path]).result()[0]
                except BrokenProcessPool:
                    outcome, child = Outcome("undecodable"), None
            yield outcome


def _pool(workers: int, recipe: Recipe) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(recipe,))


def _in_parallel(files: list[Path], recipe: Recipe, workers: int) -> Iterator[Outcome]:
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    with _pool(workers, recipe) as pool:
        try:
            # A bounded queue: readers that are ahead of the disk wait instead of filling the memory.
            waiting: deque[Future[list[Outcome]]] = deque(pool.submit(_process_chunk, chunk) for chunk in islice(chunks, 4 * workers))
            while waiting:
                ready = waiting.popleft().result()
                waiting.extend(pool.submit(_process_chunk, chunk) for chunk in islice(chunks, 1))
                yield from ready
        finally:
            pool.shutdown(cancel_futures=True)


_recipe: Recipe | None = None  # of a reader process


def _start(recipe: Recipe) -> None:
    global _recipe  # noqa: PLW0603 - sent once a process instead of once a chunk
    _recipe = recipe


def _process_chunk(paths: list[Path]) -> list[Outcome]:
    assert _recipe is not None
    return [process(path, _recipe) for path in paths]


def _manifest(draft: Draft, recipe: Recipe, *, n_files: int, generation: int) -> Manifest:
    kept = draft.settle()
    counts = Counter(entry["code"] for entry in draft.quarantine)
    if not kept:
        shown = ", ".join(f"{count} {code}" for code, count in counts.most_common())
        raise MisuseError(f"source: none of {n_files} files can be used: {shown}", hint="nothing was changed")
    names = recipe.labels.names if recipe.labels else ()
    return Manifest(
        generation=generation,
        profile=recipe.geometry.profile.name,
        profile_hash=recipe.geometry.profile.hash,
        height=recipe.geometry.height,
        width=recipe.geometry.width,
        key=recipe.keys.id,
        validation_fraction=recipe.validation_fraction,
        labels=names,
        n_files=n_files,
        n_images=len(kept),
        n_patients=len({image.patient for image in kept}),
        counts=dict(sorted(counts.items())),
        files=draft.write_files(names),
    )


def _warnings(draft: Draft, manifest: Manifest, *, unused: int, contradictory: int) -> Iterator[str]:
    if unused:
        yield f"labels: {unused} keys belong to no image that was read"
    if contradictory:
        yield f"labels: {contradictory} keys have rows that contradict each other: those labels count as unknown"
    if manifest.n_patients == 1:
        yield "cohort: one patient only"
    for index, name in enumerate(manifest.labels):
        found = {image.labels[index] for image in draft.kept} - {None}
        if len(found) == 1:
            yield f"labels: {name}: every image is {found.pop()}"
        elif not found:
            yield f"labels: {name}: no image has a value"
