"""A cohort on disk: immutable generations, each with its manifest; opened only when format, sizes and hashes fit."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from fedrad_client.cohort.split import Part
from fedrad_common.canonical import Sha256, canonical_json
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import read_json, sha256_file
from fedrad_common.protocol import TrainingProtocol

FORMAT: Literal["fedrad-cohort-1"] = "fedrad-cohort-1"
CURRENT, MANIFEST, RECORDS, LABELS, QUARANTINE = "current", "cohort.json", "records.jsonl", "labels/labels.jsonl", "quarantine.jsonl"
Count = Annotated[int, Field(ge=0)]


class File(Section):
    bytes: Count
    sha256: Sha256


class Manifest(Section):
    """What a generation is made of and what happened to every file. Stays at the site: it counts patients."""

    format: Literal["fedrad-cohort-1"] = FORMAT
    generation: PositiveInt
    profile: str
    profile_hash: Sha256
    height: PositiveInt  # pixels
    width: PositiveInt
    key: str  # id of the pseudonym key; another key names and splits patients anew
    validation_fraction: Annotated[float, Field(ge=0, le=1)]
    labels: tuple[str, ...]
    n_files: Count  # that were looked at
    n_images: PositiveInt
    n_patients: PositiveInt
    counts: dict[str, PositiveInt] = {}  # files set aside, by code
    files: dict[str, File]  # of this generation, by path inside it


@dataclass(frozen=True)
class Record:
    """One image, de-identified."""

    patient: str  # pseudonym, 32 hexadecimal digits
    image: str  # pseudonymous SOP Instance UID; unique within a patient
    part: Part
    fields: dict[str, Any]  # by DICOM keyword, from the allow-list of intake/deid

    def line(self) -> bytes:
        return canonical_json({"patient": self.patient, "image": self.image, "part": self.part, "fields": self.fields}) + b"\n"


@dataclass(frozen=True)
class Cohort:
    """One generation. Row i of records, labels and pixels is the same image; sorted by patient, then image."""

    directory: Path  # of the generation
    manifest: Manifest

    @property
    def generation(self) -> int:
        return self.manifest.generation

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(Record(**json.loads(line)) for line in (self.directory / RECORDS).read_bytes().splitlines())

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.float32]:
        """(n_images, n_labels), 0 or 1; NaN is unlabelled."""
        names = self.manifest.labels
        if not names:
            return np.empty((self.manifest.n_images, 0), dtype=np.float32)
        rows = [json.loads(line)["values"] for line in (self.directory / LABELS).read_bytes().splitlines()]
        return np.array([[row.get(name, np.nan) for name in names] for row in rows], dtype=np.float32)

    @functools.cached_property
    def pixels(self) -> tuple[npt.NDArray[np.uint16], ...]:
        """Memory maps of the parts, (n, H, W) each, in row order."""
        names = sorted(name for name in self.manifest.files if name.startswith("pixels/"))
        return tuple(np.load(self.directory / name, mmap_mode="r", allow_pickle=False) for name in names)


def folder_name(generation: int) -> str:
    return f"{generation:05d}"


def current(directory: Path) -> int:
    """The newest generation. Raises MisuseError when there is none."""
    try:
        return int((directory / CURRENT).read_text())
    except FileNotFoundError:
        raise MisuseError("cohort: nothing was ingested yet", hint="run `fedrad-site ingest` first") from None
    except ValueError:
        raise FormatError(
            "cohort: its pointer to the current generation is damaged", hint="it holds the name of the newest folder beside it, as 00001"
        ) from None


def newest_fitting(directory: Path, protocol: TrainingProtocol) -> int:
    """The newest generation with the protocol's geometry and labels: a later ingest may have been for another project.

    Raises:
        MisuseError: nothing was ingested yet, or nothing that fits.
    """
    newest = current(directory)
    for number in sorted((int(path.name) for path in directory.iterdir() if path.name.isdecimal()), reverse=True):
        if number <= newest and misfit(read_manifest(directory, number), protocol) is None:
            return number
    raise MisuseError(f"cohort: {misfit(read_manifest(directory, newest), protocol)}", hint="ingest again with --protocol")


def misfit(manifest: Manifest, protocol: TrainingProtocol) -> str | None:
    """Why a protocol cannot be trained on a generation; None where it can."""
    wanted = protocol.input
    if (manifest.profile, manifest.height, manifest.width) != (wanted.profile, wanted.height, wanted.width):
        held = f"{manifest.profile} {manifest.height}×{manifest.width}"
        return f"holds {held}, the protocol wants {wanted.profile} {wanted.height}×{wanted.width}"
    missing = [label for label in protocol.task.labels if label not in manifest.labels]
    return f"has no label {missing[0]!r}" if missing else None


def open_cohort(directory: Path, generation: int | None = None) -> Cohort:
    """Open one generation, the current one by default. Sizes are checked always, hashes once a process.

    Raises:
        MisuseError: nothing was ingested, or this generation does not exist.
        FormatError: another format, or a file that is missing, short or changed.
    """
    number = current(directory) if generation is None else generation
    folder, manifest = directory / folder_name(number), read_manifest(directory, number)
    for name, file in manifest.files.items():
        path = folder / name
        found = path.stat() if path.is_file() else None
        if found is None or found.st_size != file.bytes or _sha256(path, found.st_mtime_ns) != file.sha256:
            raise FormatError(
                f"cohort: generation {number}: {name} is missing or was changed", hint="restore it from the backup, or ingest again"
            )
    return Cohort(folder, manifest)


def read_manifest(directory: Path, generation: int) -> Manifest:
    """Raises MisuseError when there is no such generation, FormatError when it is of another format."""
    path = directory / folder_name(generation) / MANIFEST
    if not path.is_file():
        raise MisuseError(f"cohort: no generation {generation}", hint="restore it from the backup")
    read_json(path, expected_format=FORMAT)
    return parse_json(path.read_bytes(), Manifest, name=MANIFEST)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, _changed: int) -> str:
    return sha256_file(path)
