"""A cohort of pictures without any DICOM: whole people, each with pictures, labels and fields, so that one fault can be planted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.draft import new_generation, next_generation, publish
from fedrad_client.cohort.split import Part
from fedrad_client.cohort.store import Manifest, Record
from fedrad_common.profiles import profile

Picture = npt.NDArray[np.uint16]
SIDE = 32


@dataclass(frozen=True, eq=False)
class Patient:
    pictures: tuple[Picture, ...]
    labels: tuple[int | None, ...] = ()
    part: Part = "training"
    fields: dict[str, Any] = field(default_factory=dict)


def chest(seed: int, side: int = SIDE) -> Picture:
    """Something that all have in common, with a left and an upper side, and much of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    wide, high, turn = rng.uniform(0.3, 0.45), rng.uniform(0.5, 0.7), rng.uniform(-0.1, 0.1)
    body = 0.55 - 0.4 * ((((x + 0.4 + turn * y) / wide) ** 2 + (y / high) ** 2 < 1) | (((x - 0.45) / wide) ** 2 + (y / high) ** 2 < 1))
    heart = 0.4 * np.exp(-(((x - 0.25 - rng.normal(0, 0.05)) / 0.25) ** 2) - ((y - 0.45 - rng.normal(0, 0.05)) / 0.3) ** 2)
    own = rng.normal(size=(6, 6)).repeat(-(-side // 6), 0).repeat(-(-side // 6), 1)[:side, :side]
    pixels = body + heart + 0.1 * own + rng.normal(0, 0.01, (side, side))
    return (np.clip(pixels, 0, 1) * 65535).astype(np.uint16)


def chests(count: int, *, first: int = 0, **fields: Any) -> list[Patient]:
    """Every other one is positive, every fourth validates."""
    return [
        Patient((chest(number),), (number % 2,), "validation" if number % 4 > 1 else "training", dict(fields))
        for number in range(first, first + count)
    ]


def write_cohort(
    directory: Path, patients: Iterable[Patient], *, labels: Sequence[str] = ("lesion",), fraction: float = 0.5, **changed: Any
) -> None:
    """A new generation; `changed` goes into its manifest."""
    people = list(patients)
    height, width = people[0].pictures[0].shape
    with new_generation(directory, height=height, width=width) as draft:
        entry = 0
        for number, patient in enumerate(people):
            for pixels in patient.pictures:
                record = Record(f"{number:032x}", f"2.25.{entry + 1}", patient.part, patient.fields)
                draft.add(record, pixels, patient.labels, entry=entry, series=number)
                entry += 1
        kept = draft.settle()
        manifest = Manifest(
            generation=next_generation(directory), profile="xr", profile_hash=profile("xr").hash, height=height, width=width, key="k",
            validation_fraction=fraction, labels=tuple(labels), n_files=entry, n_images=len(kept),
            n_patients=len({image.patient for image in kept}), files=draft.write_files(tuple(labels)),
        )  # fmt: skip
        publish(draft, directory, manifest.model_copy(update=changed))
