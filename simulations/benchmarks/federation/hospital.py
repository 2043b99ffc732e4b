"""What a benchmark's sites hold and approve: a few invented pixels, and protocols that learn nothing, so that only the path is timed."""

from pathlib import Path
from typing import Literal

import numpy as np

from fedrad_client.cohort.draft import new_generation, next_generation, publish
from fedrad_client.cohort.store import Manifest, Record
from fedrad_common.profiles import profile

SMALL, LARGE = 25_000, 11_000_000  # parameters: 0.1 MB and 44 MB in float32
PATIENTS = 60
_PROTOCOL = """
format = "fedrad-protocol-1"
name = "{name}"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = {length} }} }}
privacy = {{ unit = "patient", epsilon = {epsilon}, expected_batch = 5.0, steps_per_round = 2, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {quorum}, deadline_seconds = {deadline}, retries = 2, dtype = "{dtype}" }}
"""


def protocol(
    name: str, *, length: int, rounds: int, quorum: int = 3, dtype: Literal["float32", "float16"] = "float32", deadline: float = 300.0
) -> str:  # fmt: skip
    return _PROTOCOL.format(name=name, length=length, rounds=rounds, quorum=quorum, dtype=dtype, deadline=deadline, epsilon=0.1)


def write_cohort(folder: Path) -> None:
    """A generation of 8 × 8 images, one a patient: the echo task never looks at them, the approval does."""
    with new_generation(folder, height=8, width=8) as draft:
        for number in range(PATIENTS):
            part: Literal["training", "validation"] = "validation" if number % 5 == 0 else "training"
            record = Record(f"{number:032x}", f"2.25.{number + 1}", part, {})
            draft.add(record, np.full((8, 8), number, np.uint16), (number % 2,), entry=number, series=0)
        kept = draft.settle()
        manifest = Manifest(
            generation=next_generation(folder), profile="xr", profile_hash=profile("xr").hash, height=8, width=8, key="benchmark",
            validation_fraction=0.2, labels=("lesion",), n_files=PATIENTS, n_images=len(kept), n_patients=PATIENTS,
            files=draft.write_files(("lesion",)),
        )  # fmt: skip
        publish(draft, folder, manifest)
