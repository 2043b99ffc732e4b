"""Where the files of a run lie, and folders that are whole or absent."""

import contextlib
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.config import parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import fsync_directory, write_atomic
from fedrad_common.packing import BYTES, WIRE, Dtype, Vector, from_bytes
from fedrad_common.records import Envelope, Kind, Signed

FOLDERS: dict[Kind, str] = {"train": "updates", "evaluate": "evaluations"}
RECEIPTS = "receipts.chain"
EVENTS = "events.chain"
_SUFFIXES: dict[Dtype, str] = {"float32": "f32", "float16": "f16"}


def is_run(folder: Path) -> bool:
    """Also one that may not be looked into: whoever reads it is told so."""
    try:
        return stat.S_ISREG((folder / "launch.json").stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def round_folder(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:04d}"


def answers_folder(run: Path, number: int, kind: Kind) -> Path:
    return round_folder(run, number) / FOLDERS[kind]


def vector_file(answers: Path, envelope: Envelope) -> Path:
    """Where the vector of an accepted answer lies, in the bytes that its site signed."""
    return answers / f"{envelope.site}.{_SUFFIXES[envelope.dtype]}"


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Build a folder beside its place and rename it at the end: a failure or a kill leaves nothing at `folder`.

    Raises:
        MisuseError: something is there already, or its parent cannot be written to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MisuseError(f"{folder.name}: exists already", hint="name a folder that does not exist; nothing was changed")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for killed in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        shutil.rmtree(killed, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir(mode=0o700)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise MisuseError(f"{folder}: cannot be made ({type(error).__name__})", hint="name a folder that you may write to") from None
    try:
        yield beside
        fsync_directory(beside)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    fsync_directory(folder.parent)


def sweep(folder: Path) -> None:
    """Remove what a killed process left beside its place; only for whoever holds the lock."""
    for path in list(folder.glob("**/.*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_signed(path: Path, signed: Signed) -> None:
    write_atomic(path, canonical_json(signed.model_dump(mode="json")) + b"\n")


def read_signed(path: Path) -> Signed:
    """Raises FormatError: missing, or no signed record. The signature is for the caller to verify."""
    return parse_json(read_whole(path), Signed, name=path.name)


def read_whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{_place(path)}: is missing", hint="restore it from a backup") from None
    except PermissionError:
        hint = "give it to the account that the coordinator runs as, and run this as that account"
        raise FormatError(f"{_place(path)}: cannot be read by this account", hint=hint) from None


def read_vector(path: Path, expected: str, *, length: int | None = None, dtype: Dtype = "float32") -> Vector:
    """One file of numbers, whose SHA-256 must be `expected`; in float32.

    Raises:
        FormatError: missing, damaged, or not of `length` numbers.
    """
    content = read_whole(path)
    found = len(content) // BYTES[dtype]
    if sha256_hex(content) != expected or len(content) != BYTES[dtype] * (found if length is None else length):
        raise FormatError(f"{_place(path)}: is damaged: not the bytes that were signed", hint="restore it from a backup")
    return from_bytes(content, length=found, what=_place(path), dtype=dtype)


def map_vector(path: Path, expected: str, *, length: int, dtype: Dtype) -> npt.NDArray[np.floating[Any]]:
    """The same without a copy in memory, in the numbers that it is stored in: the kernel brings in what is looked at.

    Raises:
        FormatError: missing, damaged, or not of `length` numbers.
    """
    if not path.is_file():
        raise FormatError(f"{_place(path)}: is missing", hint="restore it from a backup")
    if path.stat().st_size == BYTES[dtype] * length:
        content = np.asarray(np.memmap(path, np.uint8, "r"))
        if sha256_hex(content.data) == expected:
            return content.view(WIRE[dtype])
    raise FormatError(f"{_place(path)}: is damaged: not the bytes that were signed", hint="restore it from a backup")


def _place(path: Path) -> str:
    """Name and folder inside the run: never the path above it."""
    return "/".join(path.parts[-3:] if path.parent.name in FOLDERS.values() else path.parts[-2:])
