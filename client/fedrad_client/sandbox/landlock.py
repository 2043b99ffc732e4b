"""Landlock: what a process may open, by an allow-list of its own (Linux 5.13 and later; docs.kernel.org/userspace-api/landlock)."""

import ctypes
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fedrad_client.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_WHICH_VERSION, _BENEATH = 1, 1
# Rights to a file or folder: version of the interface that brought them, as many bits as there were by then. The right to a device's own
# commands (version 5) is not handled, so that a graphics card goes on working.
_RIGHTS = {1: 13, 2: 14, 3: 15}
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8  # files and folders, and remove them: no sockets, pipes, devices and links
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE
_TCP, _OTHERS = 3, 3  # bind and connect (version 4); abstract UNIX sockets and signals to others (version 6)
_DEVICES = Path("/dev")
_NODES = ("null", "zero", "full", "random", "urandom", "nvidia*")  # all that work needs of them; of cards, folders too (nvidia-caps)


class _Ruleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "network", "scope"))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def restrict(home: Path | None, kept: Iterable[Path], *, scratch: Path | None) -> None:
    """From now on: read all but devices and `home`, of which only the folders `kept`; write to a few devices, threads' names,
    and files and folders in `scratch`; no TCP, no signals.

    Raises:
        OSError: this kernel has no Landlock, or it is off; nothing has changed.
    """
    version = kernel.system_call(_CREATE, None, ctypes.c_size_t(0), _WHICH_VERSION)
    handled = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    ruleset = _Ruleset(files=handled, network=_TCP if version >= 4 else 0, scope=_OTHERS if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = kernel.system_call(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    try:
        for path in [*_around(Path("/"), {home, _DEVICES}), *(folder for folder in kept if folder != home)]:
            _allow(rules, path, handled & (_EXECUTE | _READ | _LIST))
        _allow(rules, _DEVICES, _LIST)
        for path in (found for pattern in _NODES for found in _DEVICES.glob(pattern)):
            _allow(rules, path, handled & (_WRITE | _READ))
        if scratch is not None:
            _allow(rules, scratch, handled & (_WRITE | _READ | _LIST | _MAKE | _TRUNCATE))
        _allow(rules, kernel.own_threads(), handled & (_WRITE | _TRUNCATE | _READ | _LIST))
        os.open(kernel.own_threads(), os.O_PATH)  # for good: the rule is on this entry of /proc, which might be forgotten and made anew
        kernel.system_call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _around(folder: Path, hidden: Collection[Path | None]) -> Iterator[Path]:
    """`folder` without the folders `hidden`, in as few pieces as there are: rules can only add."""
    if folder in hidden:
        return
    if not any(path is not None and path.is_relative_to(folder) for path in hidden):
        yield folder
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_symlink():  # what it points to has a rule of its own, or none
                yield from _around(Path(entry.path), hidden)


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH)
    except OSError:  # gone, or not ours to open anyway
        return
    try:
        allowed = rights if stat.S_ISDIR(os.fstat(descriptor).st_mode) else rights & _OF_FILES
        rule = _Beneath(allowed=allowed, parent=descriptor)
        kernel.system_call(_ADD, rules, _BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
