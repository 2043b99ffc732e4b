"""Linux calls that Python 3.11 does not offer: prctl, unshare, mount, capabilities; each raises OSError as the standard library does."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h
NEW_MOUNTS, NEW_HOST_NAME, NEW_IPC, NEW_USER, NEW_NETWORK = 0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x40000000
# linux/mount.h
NO_SETUID, NO_DEVICES, NO_EXEC, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
# linux/prctl.h
_SET_DUMPABLE, SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 4, 22, 38
_MOUNT_SETATTR = 442  # system calls since 5.1 have one number on all machines
_HERE, _WHOLE_TREE, _READ_ONLY = -100, 0x8000, 0x1  # AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace"))


class _Capabilities(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(number: int, *arguments: object) -> int:
    return checked(LIBC.syscall(ctypes.c_long(number), *arguments))


def control(option: int, value: int, pointer: object = None) -> None:
    checked(LIBC.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def unshare(flags: int) -> None:
    checked(LIBC.unshare(flags))


def mount(source: str, target: Path | str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    checked(LIBC.mount(*encoded, ctypes.c_ulong(flags), data.encode()))


def make_read_only() -> None:
    """Every mounted file system, for this mount namespace. Devices stay writable: what is behind them is no file."""
    attributes = _MountAttributes(set=_READ_ONLY)
    system_call(_MOUNT_SETATTR, _HERE, b"/", _WHOLE_TREE, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)))


def keep_writable(folder: Path) -> None:
    """For itself, what `make_read_only` has made so."""
    mount(str(folder), folder, None, BIND)
    attributes = _MountAttributes(clear=_READ_ONLY)
    system_call(_MOUNT_SETATTR, _HERE, os.fsencode(folder), 0, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)))


def own_threads() -> Path:
    """CUDA does not start where it cannot write their names."""
    return Path(f"/proc/{os.getpid()}/task")


def gain_nothing() -> None:
    """No privilege by any program that is started from now on, no core file, and the first to go when memory runs out."""
    control(_SET_NO_NEW_PRIVILEGES, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a read-only /proc
        Path("/proc/self/oom_score_adj").write_text("500")


def drop_privileges() -> None:
    """All capabilities, also those that a new user namespace brought; and nobody may look into this process from now on."""
    nothing = (ctypes.c_uint32 * 6)()
    checked(LIBC.capset(ctypes.byref(_Capabilities(version=_CAPABILITIES)), ctypes.byref(nothing)))
    control(_SET_DUMPABLE, 0)
