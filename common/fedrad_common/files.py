"""Files that are whole or absent: write beside, fsync, rename, fsync the folder; and one lock per directory."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import BusyError, DiskError, FormatError, MisuseError

_NOTHING_LOST = "and run the same command again; nothing was half-written"
_TROUBLE = {  # what a disk may answer to a write: what it means, and what a person may do
    errno.ENOSPC: ("no space left on the disk", f"free space {_NOTHING_LOST}"),
    errno.EDQUOT: ("no space left on the disk (quota)", f"free space {_NOTHING_LOST}"),
    errno.EROFS: ("the file system is read-only", f"look at the system's log for why, make it writable {_NOTHING_LOST}"),
    errno.EIO: ("the disk fails to read or write", "look at the system's log; copy the site's folder to a sound disk before anything else"),
}


def fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | memoryview, *, mode: int = 0o600) -> None:
    """Replace `path` by `content`, durable when this returns; on any failure the old file is untouched.

    Raises:
        DiskError: no space left, read-only, or failing.
    """
    with atomic_stream(path, mode=mode) as stream:
        stream.write(content)


@contextlib.contextmanager
def atomic_stream(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """The same for what should not be in memory as a whole; the stream can be read and sought in."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside `path` and rename it at the end; a leftover at `path` gives way. On any failure nothing is there.

    Raises:
        DiskError: no space left, read-only, or failing.
    """
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    try:
        with disk_errors(path):
            beside.mkdir(mode=0o700)
            yield beside
            fsync_directory(beside)
            shutil.rmtree(path, ignore_errors=True)
            beside.rename(path)
            fsync_directory(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder that a person named, and those above it. Raises MisuseError when something is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise MisuseError(f"{path}: cannot be made ({type(error).__name__})", hint="name a folder that you may write to") from None


def check_target(path: Path, *, option: str, force: bool) -> None:
    """Can the file be written that a person named with `option`? Asked before anything is done for it.

    Raises:
        MisuseError: it is there already and `force` was not said, it is a folder, or its folder is missing or not for this account.
    """
    where = f"{option}: {path.name}"
    try:
        there, is_file, has_folder = path.exists(), path.is_file(), path.parent.is_dir()
    except OSError as error:  # a folder above that this account may not look into, a name that is too long
        raise MisuseError(
            f"{where}: cannot be looked at ({type(error).__name__})", hint=f"name one in a folder of yours with {option}"
        ) from None
    if there and not is_file:
        raise MisuseError(f"{where}: exists already, and is no file", hint="name another file")
    if there and not force:
        raise MisuseError(f"{where}: exists already", hint="name another file, or add --force")
    if not has_folder:
        raise MisuseError(f"{where}: there is no such folder", hint="make the folder first, or name another file")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise MisuseError(f"{where}: its folder cannot be written to", hint=f"name one in a folder of yours with {option}")


def check_account(folder: Path) -> None:
    """Raises MisuseError: this is another account than the folder's, which could not read what it writes, were it root."""
    owner = folder.stat().st_uid
    if os.geteuid() != owner:
        hint = f"run this as that account: sudo -u '#{owner}' and the same command"
        raise MisuseError(f"{folder.name}: belongs to another account than this one", hint=hint)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name the disk's trouble with `path`; any other OSError is a bug and shows its traceback.

    Raises:
        DiskError: no space left, read-only, or failing.
    """
    try:
        yield
    except OSError as error:
        if trouble := disk_error(path.name, error):
            raise trouble from None
        raise


def disk_error(name: str, error: OSError) -> DiskError | None:
    """The disk's trouble with a file of that name; None where it is another kind of error."""
    found = _TROUBLE.get(error.errno or 0)
    return DiskError(f"{name}: {found[0]}", hint=found[1]) if found else None


def write_json(path: Path, value: Any, *, mode: int = 0o600) -> None:
    write_atomic(path, canonical_json(value) + b"\n", mode=mode)


def read_json(path: Path, *, expected_format: str) -> dict[str, Any]:
    """Read an object whose `format` key is `NAME/VERSION`; an unknown version is refused.

    Raises:
        FormatError: not JSON, not an object, or of another format or version.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, UnicodeDecodeError):
        raise FormatError(f"{path.name}: is not valid JSON", hint="restore the file from a backup or make it anew") from None
    found = value.get("format") if isinstance(value, dict) else None
    if found != expected_format:
        raise FormatError(
            f"{path.name}: format {found!r} is not {expected_format!r}",
            hint="it was written by another version of fedrad: use that version, or make the file anew with this one",
        )
    return value  # type: ignore[no-any-return]


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold `path` as a lock file for the block; the kernel frees it when the process dies.

    Raises:
        BusyError: another process holds it.
    """
    descriptor = lock_file(path, what=what)
    try:
        yield
    finally:
        os.close(descriptor)


def lock_file(path: Path, *, what: str) -> int:
    """Take the lock and return its descriptor; closing it frees the lock. Raises BusyError, or DiskError where no file can be written."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(f"{what} is in use by another process", hint="wait for it to end, or stop it, and try again") from None
    return descriptor
