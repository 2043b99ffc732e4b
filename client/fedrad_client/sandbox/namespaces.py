"""Namespaces of one's own: a network without an interface, and a file system in which a folder is empty and nothing can be written."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fedrad_client.sandbox import kernel


def without_network() -> None:
    """Enter namespaces with no network. Only a process with one thread can; a new user namespace needs no privilege.

    Raises:
        OSError: this machine forbids it; nothing has changed.
    """
    flags = kernel.NEW_NETWORK | kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_HOST_NAME
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(kernel.NEW_USER | flags)
    except OSError:
        if user != 0:
            raise
        kernel.unshare(flags)  # root needs none
        return
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(content)


def without_files(home: Path | None, kept: Iterable[Path]) -> None:
    """Empty `home` but for the folders `kept` below it, and let nothing on any disk be written. After `without_network`.

    Raises:
        OSError: this machine forbids it.
    """
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    if home is not None:
        _hide(home, kept)
    with suppress(OSError):  # before Linux 5.12
        kernel.make_read_only()
        kernel.keep_writable(kernel.own_threads())
    plain = kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_EXEC
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", plain, "mode=0700")  # noqa: S108 - in memory, this process's own


def _hide(home: Path, kept: Iterable[Path]) -> None:
    held = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in kept}
    try:
        kernel.mount("tmpfs", home, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES | kernel.NO_EXEC, "mode=0700,size=1m")
        for path, descriptor in held.items():
            path.mkdir(parents=True, exist_ok=True)
            kernel.mount(f"/proc/self/fd/{descriptor}", path, None, kernel.BIND | kernel.RECURSIVE)
    finally:
        for descriptor in held.values():
            os.close(descriptor)
