"""A cohort on disk: immutable generations, each with its manifest; opened only when format, sizes and hashes fit."""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt

from fedrad_client.cohort.images import DIGEST_BYTES, Images, open_part
from fedrad_client.cohort.split import Part
from fedrad_common.canonical import Sha256, canonical_json
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import read_json, sha256_file
from fedrad_common.protocol import Input, TrainingProtocol

FORMAT: Literal["fedrad-cohort-1"] = "fedrad-cohort-1"
CURRENT, MANIFEST, RECORDS, LABELS, QUARANTINE = "current", "cohort.json", "records.jsonl", "labels/labels.jsonl", "quarantine.jsonl"
PIXELS, DIGESTS = "pixels/", "pixels.sha256"  # folder of the parts; SHA-256 of each image's stored bytes, 32 bytes each, in row order
# Of pixels: as much is hashed whenever a generation is opened. Of more, each image is, when it is read.
HASHED_AT_ONCE = 256 * 10**6
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
    depth: PositiveInt | None = None  # slices of each volume; None: pictures
    spacing: tuple[PositiveFloat, ...] | None = None  # mm a pixel: (depth,) height, width; None: fitted
    key: str  # id of the pseudonym key; another key names and splits patients anew
    validation_fraction: Annotated[float, Field(ge=0, le=1)]
    labels: tuple[str, ...]
    n_files: Count  # that were looked at
    n_images: PositiveInt
    n_patients: PositiveInt
    counts: dict[str, PositiveInt] = {}  # files set aside, by code
    label_keys: Count | None = None  # of the label table, and of these: those that spoke of no file, and those whose rows contradict
    unused_label_keys: Count | None = None
    contradictory_label_keys: Count | None = None
    files: dict[str, File]  # of this generation, by path inside it

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (H, W), or (D, H, W)."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def parts(self) -> list[str]:
        """Names of the pixels' files, in row order."""
        return sorted(name for name in self.files if name.startswith(PIXELS))


@dataclass(frozen=True)
class Record:
    """One image, de-identified."""

    patient: str  # pseudonym, 32 hexadecimal digits
    image: str  # pseudonymous SOP Instance UID; unique within a patient
    part: Part
    fields: dict[str, Any]  # by DICOM keyword, from the allow-list of intake/deid

    def line(self) -> bytes:
        return canonical_json({"patient": self.patient, "image": self.image, "part": self.part, "fields": self.fields}) + b"\n"


class Owner(NamedTuple):
    """What training needs of a record."""

    patient: str
    image: str
    part: Part


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
    def owners(self) -> tuple[Owner, ...]:
        """Of the records what training needs, in a tenth of their time and memory."""
        return tuple(owners(self.directory))

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.float32]:
        """(n_images, n_labels), 0 or 1; NaN is unlabelled."""
        names, out = self.manifest.labels, np.full((self.manifest.n_images, len(self.manifest.labels)), np.nan, dtype=np.float32)
        if names:
            known: dict[bytes, list[float]] = {}  # few combinations of 0 and 1 occur
            with (self.directory / LABELS).open("rb") as stream:
                for row, line in enumerate(stream):
                    end = line[line.rindex(b',"values":') + 1 :]
                    if end not in known:
                        values = json.loads(b"{" + end)["values"]
                        known[end] = [values.get(name, np.nan) for name in names]
                    out[row] = known[end]
        return out

    @functools.cached_property
    def pixels(self) -> tuple[npt.NDArray[np.uint16], ...]:
        """Memory maps of the parts, (n, H, W) or (n, D, H, W) each, in row order: for looking at some. `images` reads many."""
        return tuple(np.load(self.directory / name, mmap_mode="r", allow_pickle=False) for name in self.manifest.parts)

    @functools.cached_property
    def images(self) -> Images:
        """All images, none of them in memory. Raises FormatError when the parts are not what the manifest says."""
        parts = tuple(open_part(self.directory / name, name, self.manifest.shape) for name in self.manifest.parts)
        if sum(part.n for part in parts) != self.manifest.n_images:
            raise FormatError(f"cohort: generation {self.generation} has not the images that it counts", hint="ingest again")
        return Images(parts, self.manifest.shape, np.arange(self.manifest.n_images), self._digests())

    def _digests(self) -> npt.NDArray[np.uint8] | None:
        if DIGESTS not in self.manifest.files:
            return None
        return np.fromfile(self.directory / DIGESTS, dtype=np.uint8).reshape(self.manifest.n_images, DIGEST_BYTES)


def owners(folder: Path) -> Iterator[Owner]:
    """Of each record of a generation, by the end of its line: canonical JSON sorts keys, and `fields`, which is long, comes first."""
    with (folder / RECORDS).open("rb") as stream:
        for line in stream:
            end = line[line.rindex(b',"image":"') + 1 :]
            match end.decode().split('"'):
                case [_, "image", ":", image, ",", "part", ":", "training" | "validation" as part, ",", "patient", ":", patient, "}\n"]:
                    yield Owner(patient, image, part)
                case _:
                    value = json.loads(b"{" + end)
                    yield Owner(value["patient"], value["image"], value["part"])


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
    held, wanted = _geometry(manifest), _geometry(protocol.input)
    if held != wanted:
        return f"holds {held}, the protocol wants {wanted}"
    missing = [label for label in protocol.task.labels if label not in manifest.labels]
    return f"has no label {missing[0]!r}" if missing else None


def _geometry(what: Manifest | Input) -> str:
    """`xr 128×128`, `mr 32×64×64 at 3×1×1 mm`."""
    size = "×".join(str(length) for length in (what.depth, what.height, what.width) if length is not None)
    spacing = "" if what.spacing is None else f" at {'×'.join(f'{length:g}' for length in what.spacing)} mm"
    return f"{what.profile} {size}{spacing}"


def open_cohort(directory: Path, generation: int | None = None) -> Cohort:
    """Open one generation, the current one by default. Sizes are checked always, hashes once a process.

    Of more than `HASHED_AT_ONCE` bytes of pixels only the size: each of those images is checked when it is read.

    Raises:
        MisuseError: nothing was ingested, or this generation does not exist.
        FormatError: another format, or a file that is missing, short or changed.
    """
    number = current(directory) if generation is None else generation
    folder, manifest = directory / folder_name(number), read_manifest(directory, number)
    later = _checked_when_read(manifest)
    for name, file in manifest.files.items():
        path = folder / name
        found = path.stat() if path.is_file() else None
        if found is None or found.st_size != file.bytes or (name not in later and _sha256(path, found.st_mtime_ns) != file.sha256):
            raise FormatError(
                f"cohort: generation {number}: {name} is missing or was changed", hint="restore it from the backup, or ingest again"
            )
    return Cohort(folder, manifest)


def _checked_when_read(manifest: Manifest) -> frozenset[str]:
    many = sum(manifest.files[name].bytes for name in manifest.parts) > HASHED_AT_ONCE
    return frozenset(manifest.parts) if many and DIGESTS in manifest.files else frozenset()


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
