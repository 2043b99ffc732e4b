"""What training and evaluation see of a cohort: images, labels and whose they are. No name, no date, no path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.images import Images
from fedrad_client.cohort.withdrawal import withdrawn as read_withdrawn
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.profiles import profile

if TYPE_CHECKING:
    from collections.abc import Collection

    from fedrad_client.cohort.split import Part
    from fedrad_client.cohort.store import Cohort


Pixels = npt.NDArray[np.uint16] | Images  # in memory, or read by `pixels[rows]`


@dataclass(frozen=True)
class Dataset:
    """One part (training or validation) of one generation, sorted by pseudonym, so that its order says nothing about arrival."""

    pixels: Pixels  # (n_images, H, W) or (n_images, D, H, W), profile's scale: 0 … 65535
    labels: npt.NDArray[np.float32]  # (n_images, n_labels), 0 or 1; NaN is unlabelled
    owner: npt.NDArray[np.int64]  # (n_images,), index of the patient, 0 … n_patients - 1, ascending
    n_patients: int


def load_dataset(cohort: Cohort, *, part: Part, labels: tuple[str, ...], withdrawn: Collection[str] | None = None) -> Dataset:
    """One part with the named labels, in their order. An empty part is a dataset of 0 images.

    Args:
        withdrawn: pseudonyms of those who left since the generation was made; without it, those that the cohort's own list names.

    Raises:
        MisuseError: the cohort has no such label.
        FormatError: its pixels were made by another version of the profile than other sites use now.
    """
    manifest = cohort.manifest
    if profile(manifest.profile).hash != manifest.profile_hash:
        raise FormatError(f"cohort: was made with another version of the profile {manifest.profile!r}", hint="ingest again")
    for label in labels:
        if label not in manifest.labels:
            raise MisuseError(f"cohort: has no label {label!r}", hint="ingest again with a label table that has this column")
    gone = read_withdrawn(cohort.directory.parent) if withdrawn is None else withdrawn
    kept = (index for index, owner in enumerate(cohort.owners) if owner.part == part and owner.patient not in gone)
    rows = np.fromiter(kept, dtype=np.int64)
    patients = [cohort.owners[row].patient for row in rows.tolist()]
    places = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
    return Dataset(
        pixels=_gather(cohort, rows),
        labels=cohort.labels[rows][:, [manifest.labels.index(label) for label in labels]],
        owner=np.array([places[patient] for patient in patients], dtype=np.int64),
        n_patients=len(places),
    )


def _gather(cohort: Cohort, rows: npt.NDArray[np.int64]) -> Pixels:
    return cohort.images.only(rows)
