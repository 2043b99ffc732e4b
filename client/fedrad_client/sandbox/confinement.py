"""Shut a process in, with every means that the machine has, and try afterwards what is open.

The means: namespaces (forbidden on some machines), Landlock (Linux 5.13 and later), a filter of system calls. Nothing here may load a
library that starts threads: a process that has more than one cannot enter a user namespace.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fedrad_client.sandbox import kernel, landlock, namespaces, seccomp

# In the order in which they are entered.
LAYERS = ("network namespace", "private file system", "landlock", "system call filter")
UNCONFINED = 6  # exit status of a child that was to be confined wholly, and could not be
_SHUT = {errno.ENETUNREACH, errno.EPERM, errno.EACCES}
_SHARED = Path("/dev/shm")  # noqa: S108 - where `namespaces` puts a file system of the child's own
_NOBODY = ("127.0.0.1", 9)  # discard, on this machine; a UDP socket that is only connected sends nothing


@dataclass(frozen=True)
class Confinement:
    """What holds for a confined process."""

    network: bool  # it cannot reach any machine, nor this one
    files: bool  # it cannot open the site's home, but for the cohort, nor leave a file or another mark anywhere
    layers: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.network and self.files

    @property
    def how(self) -> str:
        return ", ".join(self.layers) or "nothing"

    @property
    def open_to(self) -> str:
        """What is not shut, in the words of a closed list."""
        return " and ".join(what for what, shut in (("network", self.network), ("files", self.files)) if not shut)

    def to_byte(self) -> int:
        return self.network + 2 * self.files + sum(4 << place for place, layer in enumerate(LAYERS) if layer in self.layers)

    @classmethod
    def from_byte(cls, value: int) -> "Confinement":
        layers = tuple(layer for place, layer in enumerate(LAYERS) if value & (4 << place))
        return cls(network=bool(value & 1), files=bool(value & 2), layers=layers)


def confine(
    home: Path | None, kept: Iterable[Path], *, scratch: Path | None = None, layers: Collection[str] = LAYERS
) -> Confinement:  # fmt: skip
    """Give up for ever what work needs none of. For a process with one thread that was started for this.

    Args:
        home: the folder whose files, but for those of the folders `kept` in it, are hidden; None: no folder is.
        scratch: where it may write files, unless it gets a file system of its own.
        layers: that may be tried; fewer for tests only.
    """
    home = None if home is None else home.resolve()
    inside = _outermost(path.resolve() for path in kept if path.is_dir() and home and path.resolve().is_relative_to(home))
    secrets = [] if home is None else _entries(home, inside)
    kernel.gain_nothing()
    entered: list[str] = []

    def enter(layer: str, how: Callable[[], None]) -> None:
        if layer in layers:
            with contextlib.suppress(OSError):  # forbidden here: the next one is tried
                how()
                entered.append(layer)

    network, files, landlocked, filtered = LAYERS
    shared = _device(_SHARED)
    enter(network, namespaces.without_network)
    if network in entered:  # never before: root would mount over the real folder
        enter(files, lambda: namespaces.without_files(home, inside))
    own = _SHARED if files in entered and _device(_SHARED) != shared else scratch
    enter(landlocked, lambda: landlock.restrict(home, inside, scratch=own))
    with contextlib.suppress(OSError):
        kernel.drop_privileges()
    enter(filtered, seccomp.refuse_calls)
    hidden = bool({files, landlocked}.intersection(entered)) and secrets is not None and not any(map(_opens, secrets))
    marked = [home, *inside, scratch]  # the last is its own in any case, and covered where it has a file system of its own
    shut = hidden and home is not None and not any(map(_keeps, _outside(home, inside) - {own})) and not any(map(_marks, marked))
    return Confinement(network=not _reaches(), files=shut, layers=tuple(entered))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    chosen: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(other) for other in chosen):
            chosen.append(folder)
    return chosen


def _entries(home: Path, inside: Collection[Path]) -> list[Path] | None:
    """Files and folders of the home, a level deep, of which nothing is kept; None where there is no such home to be hidden."""
    try:
        return [path for path in home.iterdir() if not any(folder.is_relative_to(path) for folder in inside)]
    except OSError:
        return None


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _outside(home: Path, inside: Iterable[Path]) -> set[Path]:
    """Folders that anybody may write to, or whoever owns the site."""
    everybodys = (_SHARED, Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - to be refused there
    return {home, home.parent, *inside, Path(os.environ.get("HOME", "/")), *everybodys}


def _keeps(folder: Path) -> bool:
    """Whether a file can be made there."""
    tried = folder / f".fedrad-{os.urandom(8).hex()}"
    try:
        os.close(os.open(tried, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return False
    with contextlib.suppress(OSError):
        tried.unlink()
    return True


def _marks(path: Path | None) -> bool:
    """Whether who may read it can be changed, for Landlock leaves that; it stays as it was."""
    try:
        if path is None:
            return False
        path.chmod(stat.S_IMODE(path.stat().st_mode))
    except OSError:
        return False
    return True


def _device(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _reaches() -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            with socket.socket(socket.AF_INET, kind) as tried:
                tried.connect(_NOBODY)
                return True
        except OSError as error:
            if error.errno not in _SHUT:
                return True
    return False
