"""The parent's side: start a program of ours confined, and read the one byte that says what holds."""

import contextlib
import fcntl
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrad_client.sandbox.confinement import Confinement
from fedrad_client.sandbox.scratch import Scratch
from fedrad_common import processes

# What such a child may know of our environment: nothing that could hold a secret.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV")
_SCRATCH = "/dev/shm"  # noqa: S108 - in memory, and the child's own where it has a file system of its own; else it gets a `Scratch`
_PATIENCE = 60.0  # seconds until an interpreter has started, on a machine that is busy
_BETWEEN = 1 << 20  # bytes that a pipe holds


@dataclass(frozen=True)
class Launched:
    process: "subprocess.Popen[bytes]"
    answers: int  # a descriptor; whoever launched closes it
    held: Confinement | None  # None: it ended before it could say so
    scratch: Scratch | None

    def tidy(self) -> None:
        """After its end: remove whatever it wrote."""
        if self.scratch is not None:
            self.scratch.remove()


def launch(
    program: Sequence[str], *, home: Path | None, kept: Sequence[Path] = (), required: bool = False, environment: Mapping[str, str]
) -> Launched:  # fmt: skip
    """Start `program` (a module, its arguments) in a confined child. Its stdin is a pipe, its first argument the descriptor to answer on.

    Call it from a thread that lives as long as the child should (`processes.start`).

    Args:
        home: the folder to hide but for `kept`.
        required: end the child with status `UNCONFINED` where not all of it holds.
    """
    ours, its = os.pipe()
    scratch = None
    try:
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, _BETWEEN)
        scratch = Scratch.make()
        named = {"--home": home and home.resolve(), "--scratch": scratch and scratch.path}
        arguments = ["--report", str(its), *(["--required"] if required else [])]
        arguments += [argument for name, path in named.items() if path for argument in (name, str(path))]
        arguments += [argument for path in kept for argument in ("--keep", str(path.resolve()))]
        process = processes.start(
            "fedrad_client.sandbox", *arguments, "--", *program, environment=environment, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(its,), close_fds=True, cwd="/", pipesize=_BETWEEN, bufsize=0,
        )  # fmt: skip
    except BaseException:
        os.close(ours)
        if scratch is not None:
            scratch.remove()
        raise
    finally:
        os.close(its)
    launched = Launched(process, ours, None, scratch)
    try:
        return replace(launched, held=_report(ours))
    except BaseException:
        process.kill()
        process.wait()
        os.close(ours)
        launched.tidy()
        raise


def environment(**more: str) -> dict[str, str]:
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {"TMPDIR": _SCRATCH} | more


def probe() -> Confinement:
    """What would hold here for a child that works, tried with one that does nothing and hides a folder made for this."""
    with _invented_home() as home:
        child = launch([], home=home, kept=[home / "cohort"] if home else [], environment=environment())
        os.close(child.answers)
        with child.process:
            child.process.kill()  # it has said what it had to say, or never will
        child.tidy()
        return child.held or Confinement(network=False, files=False)


@contextlib.contextmanager
def _invented_home() -> Iterator[Path | None]:
    """None where there is no room for one."""
    with contextlib.ExitStack() as stack:
        home = None
        with contextlib.suppress(OSError):
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedrad-probe-")))
            (made / "cohort").mkdir()
            (made / "keys").mkdir()
            home = made
        yield home


def _report(descriptor: int) -> Confinement | None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    said = os.read(descriptor, 1) if waiting.poll(1000 * _PATIENCE) else b""
    return Confinement.from_byte(said[0]) if said else None
