"""A generation being written: images come in any order, the finished folder is sorted and whole, or it never was."""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.labels import Values
from fedrad_client.cohort.store import (
    CURRENT,
    DIGESTS,
    LABELS,
    MANIFEST,
    QUARANTINE,
    RECORDS,
    File,
    Manifest,
    Record,
    current,
    folder_name,
    open_cohort,
    read_manifest,
)
from fedrad_common.canonical import canonical_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import disk_error, disk_errors, exclusive_lock, fsync_directory, write_atomic, write_json

PART_BYTES = 256 * 10**6
SPOOL, LOCK = "spool", ".lock"


@dataclass(frozen=True)
class Kept:
    """One image in the spool, without its pixels."""

    entry: int  # number of the file it came from
    series: int | None  # running number of its series in this ingest
    patient: str
    image: str
    line: bytes  # its record
    labels: Values
    place: int  # of its first byte in the spool
    digest: bytes  # of all of it: decides between duplicates, whatever order they came in


@dataclass
class Draft:
    """Pixels go straight to disk; only records stay in memory."""

    folder: Path
    height: int
    width: int
    spool: BinaryIO
    kept: list[Kept]
    quarantine: list[dict[str, Any]]
    depth: int | None = None

    @property
    def size(self) -> int:
        """Of one image's pixels, bytes."""
        return 2 * (self.depth or 1) * self.height * self.width

    def borrow(self, spool: BinaryIO) -> None:
        """Take pixels from a file that is not this draft's own, and stays."""
        self.spool = spool

    def add(
        self,
        record: Record,
        pixels: npt.NDArray[np.uint16],
        labels: Values,
        *,
        entry: int,
        series: int | None,
        place: int | None = None,
    ) -> None:
        """Args: place: where the pixels stand in a borrowed spool already."""
        line, content = record.line(), pixels.astype("<u2", copy=False).tobytes()
        digest = hashlib.sha256(line + repr(labels).encode() + content).digest()
        if place is None:
            place = self.spool.tell()
            self.spool.write(content)
        self.kept.append(Kept(entry, series, record.patient, record.image, line, labels, place, digest))

    def set_aside(self, code: str, *, entry: int, series: int | None) -> None:
        self.quarantine.append({"entry": entry, "code": code, "series": series})

    def settle(self) -> list[Kept]:
        """Sort by pseudonym and set duplicates aside. Only within a patient: a copy of somebody else's image changes nothing for them."""
        unique: list[Kept] = []
        for image in sorted(self.kept, key=lambda kept: (kept.patient, kept.image, kept.digest, kept.entry)):
            if unique and (unique[-1].patient, unique[-1].image) == (image.patient, image.image):
                self.set_aside("duplicate", entry=image.entry, series=image.series)
            else:
                unique.append(image)
        self.kept = unique
        return unique

    def write_files(self, labels: tuple[str, ...]) -> dict[str, File]:
        """Write all but the manifest; returns size and hash of each file."""
        files = {RECORDS: self._write(RECORDS, (kept.line for kept in self.kept))}
        if labels:
            files[LABELS] = self._write(LABELS, (_label_line(kept, labels) for kept in self.kept))
        entries = sorted(self.quarantine, key=lambda entry: entry["entry"])
        files[QUARANTINE] = self._write(QUARANTINE, (canonical_json(entry) + b"\n" for entry in entries))
        self.spool.flush()
        step, digests = max(1, PART_BYTES // self.size), bytearray()
        for number, start in enumerate(range(0, len(self.kept), step)):
            name, part = f"pixels/{number:05d}.npy", self.kept[start : start + step]
            files[name] = self._write(name, self._pixels(part, digests))
        files[DIGESTS] = self._write(DIGESTS, iter([bytes(digests)]))
        (self.folder / SPOOL).unlink()
        return files

    def _pixels(self, part: list[Kept], digests: bytearray) -> Iterator[bytes]:
        header = io.BytesIO()
        shape = {
            "descr": "<u2",
            "fortran_order": False,
            "shape": (len(part), *((self.depth,) if self.depth else ()), self.height, self.width),
        }
        np.lib.format.write_array_header_1_0(header, shape)
        yield header.getvalue()
        for kept in part:
            content = os.pread(self.spool.fileno(), self.size, kept.place)
            digests += hashlib.sha256(content).digest()
            yield content

    def _write(self, name: str, chunks: Iterator[bytes]) -> File:
        path, hashed, size = self.folder / name, hashlib.sha256(), 0
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with path.open("xb") as stream:
            path.chmod(0o600)
            for chunk in chunks:
                stream.write(chunk)
                hashed.update(chunk)
                size += len(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        fsync_directory(path.parent)
        return File(bytes=size, sha256=hashed.hexdigest())


def _label_line(kept: Kept, names: tuple[str, ...]) -> bytes:
    values = {name: value for name, value in zip(names, kept.labels, strict=True) if value is not None}
    return canonical_json({"patient": kept.patient, "image": kept.image, "values": values}) + b"\n"


@contextlib.contextmanager
def new_generation(directory: Path, *, height: int, width: int, depth: int | None = None) -> Iterator[Draft]:
    """A draft in a hidden folder beside the generations; gone when the block ends, unless it was published.

    Raises:
        BusyError: another ingest is running. FedradError: no space left; the old generation stays current.
    """
    existed = directory.exists()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if trouble := disk_error(directory.name, error):
            raise trouble from None
        raise MisuseError("cohort: its folder cannot be made", hint="see `cohort` in site.toml: a path that you may write to") from None
    folder = directory / ".draft.tmp"
    with exclusive_lock(directory / LOCK, what="the cohort"):
        shutil.rmtree(folder, ignore_errors=True)  # of an ingest that was killed
        try:
            with disk_errors(directory):
                folder.mkdir(mode=0o700)
                with (folder / SPOOL).open("x+b") as spool:
                    yield Draft(folder, height, width, spool, [], [], depth)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if not existed and {path.name for path in directory.iterdir()} <= {LOCK}:
                shutil.rmtree(directory, ignore_errors=True)


def current_manifest(directory: Path) -> Manifest | None:
    """Of the current generation, its files unverified; None before the first ingest."""
    return read_manifest(directory, current(directory)) if (directory / CURRENT).exists() else None


def next_generation(directory: Path) -> int:
    return 1 + max((int(path.name) for path in directory.iterdir() if path.name.isdecimal()), default=0)


def check_continuity(directory: Path, *, key: str, validation_fraction: float) -> None:
    """Refuse what would move a patient between training and validation (privacy.md, rule 5)."""
    before = current_manifest(directory)
    if before and before.key != key:
        raise MisuseError("cohort: was made with another pseudonym key", hint="restore keys/pseudonym.key from the backup")
    if before and before.validation_fraction != validation_fraction:
        raise MisuseError(
            f"privacy.validation_fraction: {validation_fraction:g}, this cohort was split at {before.validation_fraction:g}",
            hint="the split is for the site's lifetime: set the old value again",
        )


def _sound(directory: Path) -> bool:
    try:
        open_cohort(directory)
    except FormatError:
        return False
    return True


def publish(draft: Draft, directory: Path, manifest: Manifest) -> Manifest:
    """Rename the draft to its generation and point to it, last. The same content as the current one changes nothing."""
    before = current_manifest(directory)
    if before and before.model_copy(update={"generation": manifest.generation}) == manifest and _sound(directory):
        return before
    write_json(draft.folder / MANIFEST, manifest.model_dump(mode="json"))
    name = folder_name(manifest.generation)
    draft.folder.rename(directory / name)
    try:
        fsync_directory(directory)
        write_atomic(directory / CURRENT, f"{name}\n".encode())
    except BaseException:
        if not (directory / CURRENT).exists() or current(directory) != manifest.generation:
            shutil.rmtree(directory / name, ignore_errors=True)
        raise
    return manifest
