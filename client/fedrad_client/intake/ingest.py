"""Files of DICOM become a new cohort generation: streamed, whole or absent, the same bytes whatever the order."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.cohort.draft import Draft, check_continuity, new_generation, next_generation, publish
from fedrad_client.cohort.labels import read_labels
from fedrad_client.cohort.merged import read_table
from fedrad_client.cohort.store import Manifest
from fedrad_client.cohort.withdrawal import withdrawn
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.rules import BurnRules
from fedrad_client.intake.codes import Code
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.filling import Filling, Progress
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.process import Recipe, keyed_name
from fedrad_client.intake.reading.folder import find_files
from fedrad_client.intake.states import open_states, recipe_id
from fedrad_common.errors import DiskError, MisuseError

NOTHING_DECIDED = BurnRules()


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
        filled = Filling(draft, states, recipe, review, queue.contents(review) if review else set())
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
