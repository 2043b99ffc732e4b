"""What a program that turned against its site would try from inside the child. Needs nothing but the standard library.

Read as text and run in a process of its own; each attempt reports "done" or the name of what stopped it.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

_SEIZE, _DETACH_MOUNT, _NEW_USER_AND_MOUNTS = 0x4206, 2, 0x10020000  # ptrace without stopping the victim; umount2, unshare
NETWORK = ("tcp", "udp", "other network family")
SOCKETS = ("unix socket", "abstract socket")
FILES = (
    "read keys/envelope.key", "read keys/pseudonym.key", "read ledger.chain", "read audit.chain", "read site.toml", "list outbox",
    "write into the home", "read a key past a mount", "read a key through another process",
)  # fmt: skip
PROCESSES = ("read environ", "read mem", "open a descriptor", "ptrace")
WRITES = ("write into the cohort", "write beside the home")
WORK = ("read the cohort", "open a device")


def attempts(target: Mapping[str, str], victim: int) -> dict[str, Callable[[], object]]:
    """Args: target: `home`, and `tcp`, `udp` (ports) and `unix`, `abstract` (addresses) of listeners outside."""
    home = Path(target["home"])
    c = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), "")

    def connect(family: int, kind: int, address: object) -> None:
        with socket.socket(family, kind) as made:
            made.connect(address)
            os.write(made.fileno(), b"x")  # as a file: `send` is another call

    def behind_the_mount() -> None:
        """With whatever privileges a new name space brings; in a process of its own, which could not come back."""
        child = os.fork()
        if child == 0:
            c.unshare(_NEW_USER_AND_MOUNTS)
            c.umount2(os.fsencode(home), _DETACH_MOUNT)
            try:
                (home / "keys" / "envelope.key").read_bytes()
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            raise OSError(status, "")

    def a_descriptor() -> None:
        """Any of them: some are of another user."""
        for entry in Path(f"/proc/{victim}/fd").iterdir():
            try:
                return os.close(os.open(entry, os.O_RDONLY | os.O_NONBLOCK))
            except OSError as error:
                reason = error
        raise reason

    read = {f"read {name}": (lambda name=name: (home / name).read_bytes()) for name in (
        "keys/envelope.key", "keys/pseudonym.key", "ledger.chain", "audit.chain", "site.toml",
    )}  # fmt: skip
    return read | {
        "tcp": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", int(target["tcp"]))),
        "udp": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", int(target["udp"]))),
        "other network family": lambda: connect(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", int(target["udp"]))),
        "unix socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, target["unix"]),
        "abstract socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + target["abstract"]),
        "list outbox": lambda: list((home / "outbox").iterdir()),
        "write into the home": lambda: (home / "paused").write_bytes(b""),
        "write into the cohort": lambda: (home / "cohort" / "current").write_bytes(b"00001\n"),
        "write beside the home": lambda: (home.parent / "written").write_bytes(b""),
        "read a key past a mount": behind_the_mount,
        "read a key through another process": lambda: Path(f"/proc/{victim}/root{home}/keys/envelope.key").read_bytes(),
        "read environ": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "read mem": lambda: os.close(os.open(f"/proc/{victim}/mem", os.O_RDONLY)),
        "open a descriptor": a_descriptor,
        "ptrace": lambda: checked(c.ptrace(_SEIZE, victim, None, None)),
        "read the cohort": (home / "cohort" / "current").read_bytes,
        "open a device": lambda: Path("/dev/null").write_bytes(b"x"),
    }


def outcomes(target: Mapping[str, str], victim: int) -> dict[str, str]:
    found = {}
    for name, attempt in attempts(target, victim).items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, "?")
    return found
