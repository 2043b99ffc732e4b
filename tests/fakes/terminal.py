"""A person at a terminal: types a command of one of the three programs, and looks at the screen and at the disk."""

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedrad_common.cli import run_cli

PROGRAMS = {"fedrad-site": "fedrad_client.cli", "fedrad-coordinator": "fedrad_server.cli", "fedrad-sim": "fedrad_sim.cli"}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line after `PROGRAM: error: `, or nothing."""
        return next((line.partition(": error: ")[2] for line in self.err.splitlines() if ": error: " in line), "")

    @property
    def hint(self) -> str:
        return next((line.partition(": hint: ")[2] for line in self.err.splitlines() if ": hint: " in line), "")


class Keyboard(io.StringIO):
    """In place of `sys.stdin`: somebody sits at a terminal and has typed this."""

    def isatty(self) -> bool:
        return True


@dataclass
class Terminal:
    """Commands run in this process, through the same last mile as the installed programs."""

    folder: Path  # everything below it is watched
    capture: pytest.CaptureFixture[str]
    said: list[Said] = field(default_factory=list)

    def type(self, program: str, *arguments: object) -> Said:
        self.capture.readouterr()
        app = importlib.import_module(PROGRAMS[program]).app
        with pytest.raises(SystemExit) as end:
            run_cli(app, program, [str(argument) for argument in arguments])
        shown = self.capture.readouterr()
        self.said.append(Said(int(end.value.code or 0), shown.out, shown.err))
        return self.said[-1]

    def do(self, program: str, *arguments: object) -> Said:
        """A command that must work."""
        said = self.type(program, *arguments)
        assert said.code == 0, said.err
        return said

    def fail(self, program: str, *arguments: object, code: int = 2, hint: bool = True) -> Said:
        """A command that must fail as promised: its exit code, one error, one hint, and a disk on which nothing has changed."""
        before = on_disk(self.folder)
        said = self.type(program, *arguments)
        assert said.code == code, (said.code, said.err)
        complaints = [line for line in said.err.splitlines() if not line.startswith(("reading DICOM", "arrays to DICOM", "$ ", "  "))]
        assert complaints[0].startswith(f"{program}: error: "), said.err
        assert "Traceback" not in said.err
        assert said.out == ""
        assert bool(said.hint) or not hint, said.err
        assert changes(before, on_disk(self.folder)) == []
        return said


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes and every folder, by path. Locks hold nothing, and what an ingest has read so far is no result: neither counts."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not path.name.endswith(".lock") and path.name != ".lock" and not is_progress(path)
    }


def is_progress(path: Path) -> bool:
    """Of an ingest: kept however it ends, so that the next one goes on; and the folder that holds nothing else."""
    if path.is_dir() and path.name == "cohort":
        return all(is_progress(inside) or inside.name == ".lock" for inside in path.iterdir())
    return path.name.startswith("states.sqlite") or path.suffix == ".pixels" or path.name == "read"


def changes(before: dict[str, bytes | None], after: dict[str, bytes | None]) -> list[str]:
    """Paths that came, went or hold something else."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path, b"?") != after.get(path, b"?"))


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A real file system of that size at `folder`; skips where this process may not mount one."""
    import subprocess

    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Fill the file system of `folder`, all but `leave` bytes (whole pages of 4096); returns the ballast."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - leave) // 4096 * 4096)
    return ballast
