"""Are the labels there, used, and of one mind? From counts and values that the ingest left."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedrad_client.intake.quality.findings import Finding, counted, fine, flagged
from fedrad_client.intake.quality.subject import Subject

LEAST_OF_A_CLASS = 10  # patients


def labels(subject: Subject) -> Iterator[Finding]:
    """Has every image a label, and did every row of the label table speak of an image?"""
    manifest, known = subject.cohort.manifest, ~np.isnan(subject.labels)
    left_out = manifest.counts.get("unlabelled", 0)
    if not subject.label_names:
        yield flagged("warn", "this generation has no labels", "ingest with --labels before a protocol is approved")
        return
    if left_out:
        yield flagged(
            "warn",
            f"{counted(left_out, 'file')} set aside: the label table has no value",
            "add their rows, or leave them out",
            files=left_out,
        )
    for index, name in enumerate(subject.label_names):
        missing = int((~known[:, index]).sum())
        if missing == len(subject):
            yield flagged("fail", f"{name}: no image has a value", "fill the column, or leave the label out of the protocol", label=name)
        elif missing:
            yield flagged(
                "warn", f"{name}: {missing} of {counted(len(subject), 'image')} have no value",
                "they teach nothing about it; fill the column where the answer is known", label=name, images=missing,
            )  # fmt: skip
    unused = manifest.unused_label_keys or 0
    if unused:
        yield flagged(
            "warn", f"{unused} of {counted(manifest.label_keys or unused, 'key')} in the label table belong to no image",
            "check how they are written, and whether all files were there", keys=unused,
        )  # fmt: skip
    if not left_out and not unused and known.all():
        yield fine(f"each of {counted(len(subject), 'image')} has all {counted(len(subject.label_names), 'label')}")


def contradictions(subject: Subject) -> Iterator[Finding]:
    """Do rows of the label table with the same key contradict each other?"""
    manifest = subject.cohort.manifest
    files, keys = manifest.counts.get("contradictory", 0), manifest.contradictory_label_keys or 0
    if files or keys:
        said = [counted(keys, "key") + " of the label table" if keys else "", counted(files, "file") + " set aside for it" if files else ""]
        yield flagged(
            "fail", f"rows contradict each other: {', '.join(filter(None, said))}", "decide which row is right, and ingest again",
            files=files, keys=keys,
        )  # fmt: skip
    else:
        yield fine("no two rows of the label table contradict each other")


def class_sizes(subject: Subject) -> Iterator[Finding]:
    """Are there at least ten patients with an image of each class in both parts?"""
    for index, name in enumerate(subject.label_names):
        counts = {
            (part, word): len(np.unique(subject.owner[(subject.labels[:, index] == value) & (subject.validates == (part == "validation"))]))
            for part in ("training", "validation")
            for word, value in (("positive", 1), ("negative", 0))
        }
        shown = ", ".join(f"{count} {word} in {part}" for (part, word), count in counts.items())
        figures: dict[str, Any] = {"label": name, **{f"{part}_{word}": count for (part, word), count in counts.items()}}
        short = {part for (part, _), count in counts.items() if count < LEAST_OF_A_CLASS}
        if "training" in short:
            remedy = "take in more patients, or leave the label out: so few teach a model little, and single ones much"
            yield flagged("fail", f"{name}: fewer than {LEAST_OF_A_CLASS} patients with a class: {shown}", remedy, **figures)
        elif short:
            remedy = "scores of this site will say little about it; take in more patients"
            yield flagged("warn", f"{name}: fewer than {LEAST_OF_A_CLASS} patients with a class: {shown}", remedy, **figures)
        else:
            yield fine(f"{name}: {shown}", **figures)
