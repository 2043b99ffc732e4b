"""System calls that work needs none of, refused for the rest of a process's life: network, other processes' memory, new namespaces, and
whatever outlives a process that writes no file: System V memory and queues, POSIX queues, the kernel's keys, modes and times of files.

A UNIX socket may be made and listened on, which CUDA does when it starts, but neither connected, nor accepted from, nor sent from.
"""

import ctypes
import os

from fedrad_client.sandbox import kernel

# By machine: its number in linux/audit.h, then each call's (asm/unistd.h).
MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "ptrace": 101, "process_vm_readv": 310,
            "process_vm_writev": 311, "unshare": 272, "setns": 308, "mount": 165, "accept": 43, "accept4": 288, "shmget": 29, "semget": 64,
            "msgget": 68, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "truncate": 76, "chmod": 90, "fchmod": 91,
            "fchmodat": 268, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
            "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "ptrace": 117, "process_vm_readv": 270,
            "process_vm_writev": 271, "unshare": 97, "setns": 268, "mount": 40, "accept": 202, "accept4": 242, "shmget": 194, "semget": 190,
            "msgget": 186, "mq_open": 180, "add_key": 217, "request_key": 218, "keyctl": 219, "truncate": 45, "fchmod": 52, "fchmodat": 53,
            "fchownat": 54, "fchown": 55, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "utimensat": 88,
        },
    ),
}  # fmt: skip
EVERYWHERE = {"io_uring_setup": 425, "pidfd_getfd": 438, "fchmodat2": 452, "setxattrat": 463}  # the first is another way to a socket
_UNIX = 1  # AF_UNIX
_FOREIGN = 0x40000000  # x86's other set of numbers (x32)
_FILTER = 2  # SECCOMP_MODE_FILTER
# linux/seccomp.h: answer with EPERM, or let it through. linux/filter.h: load a word; go on there if equal, or at least; return.
_REFUSE, _ALLOW = 0x00050001, 0x7FFF0000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


class _Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


def refuse_calls() -> None:
    """Needs no privilege but that no program started later may gain any (`kernel.gain_nothing`).

    Raises:
        OSError: the kernel has no such filters, or this machine's numbers are not known here; nothing has changed.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError("no table of system calls for this machine")
    steps = _steps(*MACHINES[machine])
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    kernel.control(kernel.SET_SECCOMP, _FILTER, ctypes.byref(program))


def _steps(machine: int, numbers: dict[str, int]) -> list[_Step]:
    """Straight on, each refusal beside its test."""
    refuse = _Step(_RETURN, 0, 0, _REFUSE)
    steps = [
        _Step(_LOAD, 0, 0, _MACHINE),
        _Step(_IF_EQUAL, 1, 0, machine),
        refuse,  # the numbers of another machine, as of 32 bits
        _Step(_LOAD, 0, 0, _NUMBER),
        _Step(_IF_AT_LEAST, 0, 1, _FOREIGN),
        refuse,
    ]
    for name, number in (numbers | EVERYWHERE).items():
        if name != "socket":
            steps += [_Step(_IF_EQUAL, 0, 1, number), refuse]
    if "socket" in numbers:
        of_family = [_Step(_LOAD, 0, 0, _FIRST_ARGUMENT), _Step(_IF_EQUAL, 1, 0, _UNIX), refuse]
        steps += [_Step(_IF_EQUAL, 0, len(of_family), numbers["socket"]), *of_family]
    return [*steps, _Step(_RETURN, 0, 0, _ALLOW)]
