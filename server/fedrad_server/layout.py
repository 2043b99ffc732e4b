"""Where the files of a run lie, and folders that are whole or absent."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.config import parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import fsync_directory, write_atomic
from fedrad_common.packing import Vector
from fedrad_common.records import Kind, Signed

FOLDERS: dict[Kind, str] = {"train": "updates", "evaluate": "evaluations"}
RECEIPTS = "receipts.chain"
EVENTS = "events.chain"


def round_folder(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:04d}"


def answers_folder(run: Path, number: int, kind: Kind) -> Path:
    return round_folder(run, number) / FOLDERS[kind]


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


def read_vector(path: Path, expected: str, *, length: int | None = None) -> Vector:
    """One file of float32 numbers, whose SHA-256 must be `expected`.

    Raises:
        FormatError: missing, damaged, or not of `length` numbers.
    """
    content = read_whole(path)
    if sha256_hex(content) != expected or len(content) % 4 or (length is not None and len(content) != 4 * length):
        raise FormatError(f"{_place(path)}: is damaged: not the bytes that were signed", hint="restore it from a backup")
    return np.frombuffer(content, "<f4")


def _place(path: Path) -> str:
    """Name and folder inside the run: never the path above it."""
    return "/".join(path.parts[-3:] if path.parent.name in FOLDERS.values() else path.parts[-2:])
