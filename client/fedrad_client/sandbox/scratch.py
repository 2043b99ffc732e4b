"""A folder for what a child may write where it has no file system of its own: made by its parent, and gone with either of them."""

import contextlib
import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PREFIX = "fedrad-scratch-"
_TRIES = 3  # another process may take a folder for a leftover before it is locked


@dataclass(frozen=True)
class Scratch:
    """Locked for as long as its maker lives: whoever gets the lock later knows that nobody needs it any more."""

    path: Path
    _lock: int

    @classmethod
    def make(cls) -> Self | None:
        """In memory where there is such a place; None where nothing can be written. Clears away what dead processes of this user left."""
        roots = [Path("/dev/shm"), Path(f"/run/user/{os.geteuid()}")]  # noqa: S108 - a folder of mode 0700
        with contextlib.suppress(OSError):  # a full disk
            roots.append(Path(tempfile.gettempdir()))
        for root in roots:
            _sweep(root)
        for root in [root for root in roots for _ in range(_TRIES)]:
            with contextlib.suppress(OSError):
                path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
                return cls(path, _locked(path))
        return None

    def remove(self) -> None:
        """After the end of whoever writes there."""
        _empty(self.path)
        os.close(self._lock)


def _locked(path: Path) -> int:
    """Raises OSError: it is somebody else's, in use, or gone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, named = os.fstat(descriptor), path.stat(follow_symlinks=False)
        if found.st_uid != os.geteuid() or (found.st_dev, found.st_ino) != (named.st_dev, named.st_ino):
            raise PermissionError
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = _locked(path)
            _empty(path)
            os.close(descriptor)


def _empty(path: Path) -> None:
    """And remove. Whatever is deeper is moved up first: however deep somebody nested folders, there is no recursion."""
    with contextlib.suppress(OSError):  # the next sweep tries again
        while entries := list(path.iterdir()):
            for entry in entries:
                if _is_folder(entry):
                    _lift(entry, path)
                else:
                    entry.unlink()
        path.rmdir()


def _lift(folder: Path, target: Path) -> None:
    folder.chmod(0o700)
    for inner in list(folder.iterdir()):
        if _is_folder(inner):
            inner.chmod(0o700)  # else its owner could not move it
        inner.rename(target / os.urandom(8).hex())
    folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
