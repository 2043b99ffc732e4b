"""Fields of the records as numbers: all that the allow-list keeps about device, view and acquisition, whatever it may keep one day."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.store import RECORDS, Cohort

# Of the patient, or of one image among others of the same stack: where these go with a disease, it is no shortcut.
LEFT_OUT = frozenset(
    ("PatientSex", "PatientAge", "PatientSize", "PatientWeight", "InstanceNumber", "ImagePositionPatient", "SliceLocation")
)
KEPT_UIDS = frozenset(("SOPClassUID",))
_MANY = 50  # different words: rarer ones count as one


@dataclass(frozen=True)
class Column:
    name: str
    values: npt.NDArray[np.float64]  # (n,) a number, or the number of a word; NaN where the field is missing


def columns(cohort: Cohort, rows: npt.NDArray[np.int64]) -> list[Column]:
    """Those that differ between images, by name; a field with several values becomes several columns."""
    raw: dict[str, list[Any]] = {}
    wanted = set(rows.tolist())
    taken = 0
    with (cohort.directory / RECORDS).open("rb") as stream:
        for row, line in enumerate(stream):
            if row in wanted:
                for name, value in _flat(json.loads(line)["fields"]):
                    values = raw.setdefault(name, [])
                    values.extend([None] * (taken - len(values)))
                    values.append(value)
                taken += 1
    made = (Column(name, _numbers(values + [None] * (taken - len(values)))) for name, values in sorted(raw.items()))
    return [column for column in made if len(np.unique(column.values)) > 1]  # NaN counts as one value


def _flat(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for name, value in fields.items():
        if _is_of_device(name):
            found += [(f"{name}[{place}]", item) for place, item in enumerate(value)] if isinstance(value, list) else [(name, value)]
    return found


def _is_of_device(name: str) -> bool:
    return name not in LEFT_OUT and not name.endswith("Date") and (not name.endswith("UID") or name in KEPT_UIDS)


def _numbers(values: list[Any]) -> npt.NDArray[np.float64]:
    if any(isinstance(value, str) for value in values):
        words = [None if value is None else str(value) for value in values]
        counts: dict[str, int] = {}
        for word in words:
            if word is not None:
                counts[word] = counts.get(word, 0) + 1
        number = {word: float(place) for place, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word))[:_MANY])}
        return np.array([np.nan if word is None else number.get(word, float(_MANY)) for word in words])
    return np.array([np.nan if value is None else float(value) for value in values])
