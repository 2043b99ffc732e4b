"""Nodes as real programs, ours and Flower's, each with a folder of its own that holds all it may write."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asking import free_port, until  # type: ignore[import-not-found] # beside this one, as are the next
from enrolled import hospital  # type: ignore[import-not-found]
from servers import Place, Site  # type: ignore[import-not-found]

from fedrad_common import processes

# isort: split
from cryptography.hazmat.primitives import serialization

_CODE = {".py", ".pyc", ".so", ".pth", ".fab", ".zip", ".whl", ".toml"}


@dataclass(frozen=True)
class Hospital:
    """A folder that holds all that its node may write: its home, its user's home, its temporary files."""

    folder: Path
    site: Site

    @property
    def environment(self) -> dict[str, str]:
        for name in ("canary", "user", "tmp"):
            (self.folder / name).mkdir(exist_ok=True, parents=True)
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.folder / "user"), "TMPDIR": str(self.folder / "tmp"),
            "FLWR_HOME": str(self.folder / "user" / "flwr"), "FEDRAD_CANARY": str(self.folder / "canary"), "LANG": "C.UTF-8",
            "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }  # fmt: skip

    @property
    def canaries(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "canary").iterdir())

    def code(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.suffix in _CODE or path.name == "CONTENT"}

    def await_online(self, place: Place, node: "subprocess.Popen[bytes]") -> None:
        until(lambda: place.online(self.site) or node.poll() is not None, what="a node is online")
        if node.poll() is not None:
            raise RuntimeError((self.folder / "node.log").read_text()[-3000:])

    @contextlib.contextmanager
    def running(self, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
        with (self.folder / "node.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self.folder)
        try:
            yield process
        finally:
            processes.end(process, grace=10)


def start(home: Path, server: str, *, lean: bool) -> list[str]:
    """Our node's command line. `lean`: without the child that works, which takes seconds to load."""
    if lean:
        return [sys.executable, str(Path(__file__).with_name("failing_site.py")), str(home), server, "0"]
    return [str(Path(sys.executable).with_name("fedrad-site")), "start", "--home", str(home), "--server", server]


@contextlib.contextmanager
def ours(place: Place, folder: Path, port: int, *, lean: bool) -> Iterator[Hospital]:
    """Our node, at whatever server is there."""
    (folder / "north").mkdir()
    home, key = hospital(folder / "north" / "home", place.home)
    made = Hospital(folder / "north", Site("north", key))
    place.register(made.site)
    with made.running(*start(home.path, f"localhost:{port}", lean=lean)) as node:
        made.await_online(place, node)
        yield made


@contextlib.contextmanager
def supernode(place: Place, folder: Path, port: int) -> Iterator[Hospital]:
    """`flower-supernode`, registered like ours."""
    made = Hospital(folder / "south", Site("south"))
    made.folder.mkdir()
    form = serialization.PrivateFormat.OpenSSH
    private = made.site.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (made.folder / "key").write_bytes(private)
    place.register(made.site)
    command = [
        str(Path(sys.executable).with_name("flower-supernode")), "--superlink", f"localhost:{port}", "--root-certificates",
        str(place.home.directory / "keys" / "authority.pem"), "--auth-supernode-private-key", str(made.folder / "key"),
        "--port", str(free_port()),
    ]  # fmt: skip
    with made.running(*command) as node:
        made.await_online(place, node)
        yield made
