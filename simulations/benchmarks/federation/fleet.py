"""A whole federation on loopback, over TLS: a coordinator and its sites, enrolled through their own commands, ports chosen at run time."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hospital import PATIENTS, write_cohort  # type: ignore[import-not-found] # beside this one
from programs import BrokenError, Programs  # type: ignore[import-not-found] # beside this one

from fedrad_common.errors import FedradError
from fedrad_common.files import read_json
from fedrad_server.supervisor import is_finished

NAMES = ("north", "south", "west")
_CEILING = 20.0  # epsilon of a site: more than a hundred runs of one protocol fit
COORDINATOR, SITE = "fedrad-coordinator", "fedrad-site"


class Fleet:
    """The programs of a coordinator and of its sites, and what they have on disk."""

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES) -> None:
        self.folder, self.names, self.programs = folder, names, Programs(folder)
        self.home = folder / "coordinator"

    def enrol(self) -> None:
        """What two people do by hand: invite, request, compare six words, admit; and each site's data."""
        programs = self.programs
        programs.run(COORDINATOR, "init", "coordinator")
        self.coordinate()
        programs.run(COORDINATOR, "invite", "coordinator", "--out", "invitation.json")
        for name in self.names:
            programs.start(
                f"init-{name}", SITE, "init", "--invitation", "invitation.json", "--name", name, "-n", PATIENTS, "--epsilon", _CEILING,
                "--home", name, "--json",
            )  # fmt: skip
        programs.finish(*(f"init-{name}" for name in self.names))
        for name in self.names:
            words = json.loads(programs.logs[f"init-{name}"].with_suffix(".out").read_text())["words"]
            programs.run(COORDINATOR, "admit", "coordinator", f"{name}/enrolment/request.json", "--words", words)
            settings = self.folder / name / "site.toml"
            settings.write_text(settings.read_text().replace('tasks = ["classification"]', 'tasks = ["classification", "echo"]'))
            write_cohort(self.folder / name / "cohort")

    def approve(self, name: str, content: str, *, runs: int = 1) -> Path:
        """Every site approves a protocol. Returns its file, for `launch`. The nodes may be running."""
        path = self.folder / f"{name}.toml"
        path.write_text(content)
        for site in self.names:
            self.programs.start(f"approve-{site}", SITE, "approve", path.name, "-n", PATIENTS, "--runs", runs, "--home", site)
        self.programs.finish(*(f"approve-{site}" for site in self.names))
        return path

    def coordinate(self) -> None:
        """`fedrad-coordinator start`, until it says that sites can connect."""
        self.programs.start("coordinator", COORDINATOR, "start", "coordinator", "--json")
        self.programs.until(self.ready, what="the coordinator is ready")

    def ready(self) -> bool:
        if self.programs.running["coordinator"].poll() is not None:
            raise BrokenError(f"the coordinator ended\n{self.programs.log('coordinator')}")
        content: bytes = self.programs.logs["coordinator"].with_suffix(".out").read_bytes()
        return content.endswith(b"\n")

    def address(self) -> tuple[str, int]:
        """Host and port of the server, as its ready line names them."""
        ready: dict[str, Any] = json.loads(self.programs.logs["coordinator"].with_suffix(".out").read_text())
        return "127.0.0.1", int(ready["public"])

    def node(self, site: str, *, server: str | None = None) -> None:
        """As `fedrad-site start` (see `distinct_node`). `server`: where it connects to instead of the address in its settings."""
        self.programs.start(site, "distinct_node.py", site, *([] if server is None else [server]))

    def online(self, *sites: str) -> bool:
        return all(self.programs.log(site).rstrip().endswith("online") or " online\n" in self.programs.log(site) for site in sites)

    def begin(self, *, servers: dict[str, str] | None = None) -> None:
        """Start every site's node and wait until each is online."""
        for site in self.names:
            self.node(site, server=(servers or {}).get(site))
        self.programs.until(lambda: self.online(*self.names), what="all sites are online")

    def launch(self, protocol: Path, name: str) -> Path:
        """Ask for a run to be played. Returns its folder."""
        self.programs.run(COORDINATOR, "launch", "coordinator", protocol.name, "--name", name, "--detach")
        return self.home / "runs" / name

    def finished(self, run: Path) -> bool:
        """Raises BrokenError where it is paused: it would never finish by itself."""
        if (run / "result" / "result.json").exists():
            return is_finished(run)
        try:
            asked = read_json(run / "wanted.json", expected_format="fedrad-wanted-1")
        except FedradError:  # being replaced
            return False
        if asked["state"] != "run":
            raise BrokenError(f"run {run.name}: {asked['state']}: {asked.get('reason', '')}\n{self.programs.log('coordinator')[-3000:]}")
        return False

    def await_end(self, run: Path, *, seconds: float = 900.0) -> float:
        """Seconds until the run is finished."""
        waited: float = self.programs.until(lambda: self.finished(run), what=f"run {run.name} is finished", seconds=seconds, interval=0.02)
        return waited


@dataclass(frozen=True)
class Moments:
    """When a round began, had each answer, and was closed: seconds since 1970, by the times of its files. Logs have whole seconds."""

    begun: float
    accepted: tuple[float, ...]  # the first one first
    closed: float

    @classmethod
    def of(cls, run: Path, number: int) -> Self:
        folder = run / "rounds" / f"{number:04d}"
        accepted = sorted(map(_written, (folder / "updates").glob("[!.]*.json")))
        return cls(_written(folder / "evaluations"), tuple(accepted), _written(folder / "manifest.json"))


def _written(path: Path) -> float:
    return path.stat().st_mtime_ns / 1e9


@contextmanager
def enrolled(folder: Path | None, *, keep: bool = False) -> Iterator[Fleet]:
    """Three sites and a running coordinator in a new folder below `folder`; at the end all programs are ended and the folder is removed."""
    place = Path(tempfile.mkdtemp(prefix="fedrad-federation-", dir=folder))
    fleet = Fleet(place)
    try:
        fleet.enrol()
        yield fleet
    finally:
        orphans = fleet.programs.end()
        if orphans:
            print(f"warning: {len(orphans)} processes outlived their program and were killed")
        if keep:
            print(f"kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
