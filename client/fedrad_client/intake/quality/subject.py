"""What the checks look at: one generation without those who withdrew, by row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.store import Cohort, Owner
from fedrad_client.cohort.withdrawal import withdrawn
from fedrad_client.intake.quality.sketches import Sketches, sketch


@dataclass(frozen=True)
class Subject:
    """Row i of all arrays is the same image; `rows[i]` is its row in the cohort."""

    cohort: Cohort
    rows: npt.NDArray[np.int64]  # (n,)
    owners: tuple[Owner, ...]  # (n,)
    owner: npt.NDArray[np.int64]  # (n,) index of the patient, 0 … n_patients - 1
    validates: npt.NDArray[np.bool_]  # (n,)
    labels: npt.NDArray[np.float32]  # (n, n_labels), 0 or 1; NaN is unlabelled
    sketches: Sketches

    @classmethod
    def of(cls, cohort: Cohort, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Self:
        """Reads every image once. Raises FormatError when a file was changed."""
        gone = withdrawn(cohort.directory.parent)
        rows = np.array([row for row, owner in enumerate(cohort.owners) if owner.patient not in gone], dtype=np.int64)
        owners = tuple(cohort.owners[row] for row in rows.tolist())
        number = {patient: place for place, patient in enumerate(dict.fromkeys(owner.patient for owner in owners))}
        return cls(
            cohort=cohort,
            rows=rows,
            owners=owners,
            owner=np.array([number[owner.patient] for owner in owners], dtype=np.int64),
            validates=np.array([owner.part == "validation" for owner in owners], dtype=bool),
            labels=cohort.labels[rows],
            sketches=sketch(cohort.images.only(rows), progress=progress),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def directory(self) -> Path:
        """The cohort's, with all generations."""
        return self.cohort.directory.parent

    @property
    def n_patients(self) -> int:
        return int(self.owner.max()) + 1 if len(self) else 0

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.cohort.manifest.labels

    def shown(self, groups: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        """(k, m) places here to rows of the cohort, which a person can name."""
        return tuple(tuple(int(self.rows[place]) for place in group) for group in groups)
