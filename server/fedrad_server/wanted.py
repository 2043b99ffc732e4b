"""What a person wants of each run, on disk: the supervisor, the player and the command line meet here, and nowhere else."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.files import lock_file, write_json
from fedrad_common.records import Launch
from fedrad_server.layout import is_run, read_signed
from fedrad_server.liveness import patiently

State = Literal["run", "stop", "paused"]
_FILE, _LOCK = "wanted.json", "wanted.lock"


class Wanted(Section):
    format: Literal["fedrad-wanted-1"] = "fedrad-wanted-1"
    state: State
    reason: str = ""  # of a pause that the run's own events do not tell: its player failed again and again


def read(run: Path) -> Wanted | None:
    """None for a run that nobody asked to be played here. Raises FedradError when the file is damaged or cannot be read."""
    try:
        content = (run / _FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        hint = "give it to the account that the coordinator runs as, for instance: chown -R ACCOUNT HOME/runs"
        raise FedradError(f"{run.name}/{_FILE}: cannot be read ({error.strerror})", hint=hint) from None
    return parse_json(content, Wanted, name=f"{run.name}/{_FILE}")


def write(run: Path, state: State, reason: str = "") -> None:
    """Raises BusyError where somebody else is just writing, and does not end."""
    with _locked(run):
        _write(run, state, reason)


def pause(run: Path, reason: str = "") -> None:
    """Say that the run waits for a person, unless a person has said something else meanwhile. Raises what `read` and `write` do."""
    with _locked(run):
        found = read(run)
        if found is None or found.state == "run":
            _write(run, "paused", reason)


def _write(run: Path, state: State, reason: str) -> None:
    write_json(run / _FILE, Wanted(state=state, reason=reason).model_dump(mode="json"))


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    descriptor = patiently(lambda: lock_file(run / _LOCK, what=f"{run.name}/{_FILE}"))
    try:
        yield
    finally:
        os.close(descriptor)


def find(home: Path, name: str) -> Path:
    """The run's folder by its name below HOME/runs, or by its path. Raises MisuseError when there is no such run."""
    runs = home / "runs"
    folder = runs / Path(name).name
    # A path is as good as a name, where it leads to the same folder.
    if name in ("", ".", "..") or (name != folder.name and Path(name).resolve() != folder.resolve()):
        raise MisuseError(f"{name}: is no run of this coordinator", hint="name a folder below HOME/runs, such as: pneumonia")
    if not is_run(folder):
        known = ", ".join(path.name for path in folders(home)) or "none yet"
        raise MisuseError(f"{folder.name}: is no run", hint=f"runs of this coordinator: {known}")
    return folder


def folders(home: Path) -> list[Path]:
    """All runs, by name; also those that cannot be looked into, so that somebody says so."""
    return sorted(path for path in (home / "runs").glob("[!.]*") if is_run(path))


def launch_order(run: Path) -> tuple[str, str]:
    """What runs are sorted by, to be played one after the other. Raises FormatError when the launch is damaged."""
    return read_signed(run / "launch.json").peek(Launch, what=f"{run.name}/launch.json").created, run.name
