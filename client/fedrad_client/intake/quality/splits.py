"""Does nobody train here and validate there? It cannot happen by construction; here the files themselves are asked."""

import json
import math
from collections.abc import Iterator

from fedrad_client.cohort.store import LABELS, Cohort, owners
from fedrad_client.intake.quality.findings import Finding, counted, fine, flagged
from fedrad_client.intake.quality.subject import Subject

_STAND_STILL = "stop: restore the cohort from the backup, or ingest again; if it stays so, report it"
_UNLIKELY = 5.0  # standard deviations


def split(subject: Subject) -> Iterator[Finding]:
    """Is each patient in one part, in this generation and all others, and does each row belong to its image?"""
    known = list(_faults(subject))
    yield from known
    if not known:
        validating = len({owner.patient for owner in subject.owners if owner.part == "validation"})
        yield fine(
            f"{counted(subject.n_patients - validating, 'patient')} train and {validating} validate, nobody both",
            training=subject.n_patients - validating, validation=validating,
        )  # fmt: skip


def _faults(subject: Subject) -> Iterator[Finding]:
    parts: dict[str, set[str]] = {}
    for owner in subject.cohort.owners:
        parts.setdefault(owner.patient, set()).add(owner.part)
    both = sum(len(found) > 1 for found in parts.values())
    if both:
        yield flagged("fail", f"{counted(both, 'patient')} in training and in validation", _STAND_STILL, patients=both)
    moved = _moved(subject, parts)
    if moved:
        yield flagged("fail", f"{counted(moved, 'patient')} in another part than in another generation", _STAND_STILL, patients=moved)
    if len({owner[:2] for owner in subject.cohort.owners}) < len(subject.cohort.owners):
        yield flagged("fail", "two records are of the same image of the same patient", _STAND_STILL)
    if not _labels_in_step(subject.cohort):
        yield flagged("fail", "labels and records are not of the same images, row by row", _STAND_STILL)
    fraction, share = subject.cohort.manifest.validation_fraction, sum("validation" in found for found in parts.values()) / len(parts)
    if abs(share - fraction) > _UNLIKELY * math.sqrt(fraction * (1 - fraction) / len(parts)) + 1 / len(parts):
        yield flagged(
            "warn", f"{share:.0%} of the patients validate, {fraction:.0%} were to", "chance does not do that: were files copied by hand?"
        )  # fmt: skip


def _moved(subject: Subject, parts: dict[str, set[str]]) -> int:
    """Patients whom another generation on this disk has in another part."""
    moved: set[str] = set()
    for folder in subject.directory.glob("[0-9]*"):
        if folder == subject.cohort.directory or not folder.is_dir():
            continue
        try:
            moved.update(owner.patient for owner in owners(folder) if owner.part not in parts.get(owner.patient, {owner.part}))
        except (OSError, ValueError, KeyError):  # a damaged one is for `doctor` to find; no run is pinned to it
            continue
    return len(moved)


def _labels_in_step(cohort: Cohort) -> bool:
    if not cohort.manifest.labels:
        return True
    with (cohort.directory / LABELS).open("rb") as stream:
        found = [(value["patient"], value["image"]) for value in map(json.loads, stream)]
    return found == [owner[:2] for owner in cohort.owners]
