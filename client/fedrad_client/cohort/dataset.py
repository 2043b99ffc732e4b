"""What training and evaluation see of a cohort: images, labels and whose they are. No name, no date, no path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Dataset:
    """One part (training or validation) of one generation, sorted by pseudonym, so that its order says nothing about arrival."""

    pixels: npt.NDArray[np.uint16]  # (n_images, H, W), profile's scale: 0 … 65535; may be a memory map
    labels: npt.NDArray[np.float32]  # (n_images, n_labels), 0 or 1; NaN is unlabelled
    owner: npt.NDArray[np.int64]  # (n_images,), index of the patient, 0 … n_patients - 1, ascending
    n_patients: int
