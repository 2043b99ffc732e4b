"""A site that can be made ill for doctor: healthy at first, and with everything at hand that a fault needs."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.door import Authority, Door, certify
from fakes.terminal import small_disk
from fedrad_client.doctor import Finding, Subject, examine
from fedrad_client.doctor.imports import ImportCheck, Imported

NAMES = ("127.0.0.1", "localhost", "coordinator.test")


class Sound(ImportCheck):
    """A machine on which everything can be imported; without the process that would find that out."""

    def __init__(self, found: Imported = Imported((), gpu=False)) -> None:  # noqa: B008 - frozen
        self.found, self.patience = found, 60.0

    def result(self) -> Imported:
        return self.found


@dataclass
class World:
    """A healthy, enrolled site, and the door of its coordinator."""

    home: Path
    door: Door
    authority: Authority
    folder: Path  # for whatever else a test needs
    patch: pytest.MonkeyPatch
    stack: contextlib.ExitStack
    server: str = ""
    imports: ImportCheck = field(default_factory=Sound)
    patience: float = 5.0

    def __post_init__(self) -> None:
        self.server = self.door.address

    def findings(self) -> list[Finding]:
        return list(examine(Subject(self.home, self.server or None, patience=self.patience, imports=self.imports)))

    def rename(self, old: str, new: str) -> None:
        """In site.toml."""
        path = self.home / "site.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def certify(self, *names: str, **kind: Any) -> None:
        self.door.certificate = certify(kind.pop("by", self.authority), self.folder / "other.pem", *(names or NAMES), **kind)

    def hold(self, name: str) -> "subprocess.Popen[bytes]":
        """Another process with a lock of the site's."""
        script = (
            "import fcntl, os, sys\nlock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)\n"
            "fcntl.flock(lock, fcntl.LOCK_EX)\nprint(flush=True)\nsys.stdin.read()"
        )
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stack.enter_context(child)
        self.stack.callback(child.kill)
        assert child.stdout
        child.stdout.readline()
        return child

    def mount(self) -> Path:
        """The home on a small file system of its own."""
        place = self.stack.enter_context(small_disk(self.folder / "mounted", 65536))
        self.home = Path(shutil.copytree(self.home, place / "home", dirs_exist_ok=True))
        return place


FAULT_OF: list[tuple[str, Callable[[World], None]]] = []


def injects(*codes: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def add(inject: Callable[[World], None]) -> Callable[[World], None]:
        FAULT_OF.extend((code, inject) for code in codes)
        return inject

    return add


def sets(code: str, **values: Any) -> None:
    """A door that differs by these values."""

    def inject(world: World) -> None:
        for name, value in values.items():
            setattr(world.door, name, value)
        if "silent" in str(values.get("fails")):
            world.patience = 0.3

    inject.__name__ = "_".join(str(value).replace(" ", "_") for value in values.values())
    FAULT_OF.append((code, inject))
