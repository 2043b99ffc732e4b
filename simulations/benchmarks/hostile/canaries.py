"""Do 50 failures at a site let anything of a patient out? `python simulations/benchmarks/hostile/canaries.py`.

A real node answers a real coordinator's run over TLS. Each order fails in another way: in reading it, in approval, ledger, data set, work,
seal or outbox, by exceptions of many classes or by spoilt files, whose text carries four canaries (a header's value, a name, a path, a
UID). All are looked for in what passes on the wire (TLS ends at a recorder with the coordinator's key), in both sides' logs, in Flower's
database while the run lasts, in both audit logs, and in the coordinator's folder. Control: a stock SuperLink, SuperNode and ClientApp that
raises such an exception. Exit status 1 where fedrad let one out, or where the control did not.
"""

import argparse
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asking import until  # type: ignore[import-not-found] # beside this one, as are the next
from enrolled import PROTOCOL, admitted  # type: ignore[import-not-found]
from failing_site import failures  # type: ignore[import-not-found]
from nodes import supernode  # type: ignore[import-not-found]
from packed import plain  # type: ignore[import-not-found]
from planted import all_canaries, below, canaries, found, text  # type: ignore[import-not-found]
from servers import Place, guarded, stock  # type: ignore[import-not-found]
from wire import Wire, recorder  # type: ignore[import-not-found]

from fedrad_client.site import Home as Site
from fedrad_common import chain, processes
from fedrad_server.app.task import play_run
from fedrad_server.home import Home
from fedrad_server.launching import create_run
from fedrad_server.runs import Run

HERE = Path(__file__).resolve().parent


@dataclass
class Sinks:
    """Where something could have got to, by name."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def leaks(self, wanted: set[str]) -> dict[str, set[str]]:
        seen = {name: found(content, wanted) for name, content in self.contents.items()}
        return {name: those for name, those in seen.items() if those}


@contextlib.contextmanager
def failing(site: Site, wire: Wire, count: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, str(HERE / "failing_site.py"), str(site.path), f"localhost:{wire.port}", str(count)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=dict(os.environ))
    try:
        yield process
    finally:
        processes.end(process, grace=10)


def database(path: Path) -> bytes:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = [value for name in names for row in opened.execute(f"SELECT * FROM {name}") for value in row]
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


@dataclass
class Watch:
    """Reads the database again and again while the run lasts: what was in it for a moment counts."""

    place: Place
    seen: list[bytes] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        while not self.ended.wait(0.1):
            content = database(self.place.database)
            if not self.seen or self.seen[-1] != content:
                self.seen.append(content)


def fail(folder: Path, count: int) -> tuple[Sinks, Counter[str]]:
    """Play the run; the site fails `count` times and then answers. Returns what there is to search, and the codes that left."""
    codes: Counter[str] = Counter()
    protocol = folder / "failing.toml"
    protocol.write_text(PROTOCOL)
    with guarded(folder) as place:
        site = admitted(place, folder)
        run = create_run(place.home.directory, protocol, None)
        watch = Watch(place)
        watching = threading.Thread(target=watch)
        with recorder(place) as wire, failing(site, wire, count, folder / "north.log") as node:
            until(lambda: "online" in (folder / "north.log").read_text() or node.poll() is not None)
            watching.start()
            try:
                with Run.open(run, place.home.key) as opened:
                    outcome = play_run(opened, place.home.superlink, progress=lambda number, who, what: codes.update([what] if who else []))
            finally:
                watch.ended.set()
                watching.join()
        if outcome != "finished":
            raise RuntimeError(f"the run is {outcome}: {codes}\n{(folder / 'north.log').read_text()[-3000:]}")
        sinks = Sinks({"wire": b"\n".join(wire.passed), "Flower's database": b"\n".join(watch.seen)})
        sinks.contents["coordinator's log"] = (folder / "guarded.log").read_bytes()
        sinks.contents["node's own words"] = (folder / "north.log").read_bytes()
        sinks.contents |= below(place.home.directory)
        sinks.contents |= below(site.path, without=[site.cohort])
        sinks.contents["site's audit log"] = "\n".join(str(entry.body) for entry in chain.read(site.path / "audit.chain", "audit")).encode()
    return sinks, codes


def fail_stock(folder: Path) -> dict[str, bytes]:
    """One failure of a ClientApp in Flower's own programs: what its server is told, and what its node says."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(stock(folder, Home.create(folder / "coordinator")))
        node = stack.enter_context(supernode(place, folder, place.public))
        bundle = plain(0, text(0))
        flowing = place.start(bundle.digest, bundle.content)
        message = flowing.tell(node.site.number)
        reply = until(lambda: flowing.replied(message), what="an answer")
    return {"what the server is told": str(reply.error.reason).encode(), "the node's own words": (node.folder / "node.log").read_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", type=int, default=50)
    parser.add_argument("--without-stock", action="store_true", help="leave the control with Flower's own programs out")
    options = parser.parse_args()
    wanted, script = all_canaries(options.failures), failures()[: options.failures]
    with tempfile.TemporaryDirectory() as folder:
        sinks, codes = fail(Path(folder), options.failures)
    leaked = sinks.leaks(wanted)
    print(f"fedrad: {len(set().union(*leaked.values()))} of {len(wanted)} canaries of {options.failures} failures got out")
    print(f"  answered: {', '.join(f'{code} × {times}' for code, times in codes.most_common())}")
    print(f"  searched: {len(sinks.contents)} places, {sum(map(len, sinks.contents.values())) / 1e6:.1f} MB")
    for name, those in leaked.items():
        numbers = [number for number in range(options.failures) if set(canaries(number).values()) & those]
        print(f"  {name}: {len(those)}, of " + "; ".join(f"{script[number].where}: {script[number].what}" for number in numbers))
    if b"POST /v1/fleet/push-object" not in sinks.contents["wire"]:
        raise RuntimeError("the recorder saw no answer: nothing was looked for where it matters")
    told: dict[str, set[str]] = {}
    if not options.without_stock:
        with tempfile.TemporaryDirectory() as folder:
            told = Sinks(fail_stock(Path(folder))).leaks(wanted)
        where = ", ".join(f"{len(those)} in {name}" for name, those in told.items())
        print(f"control: Flower's own programs: of the 4 canaries of one failure {where or 'none'}")
    sys.exit(1 if leaked or (not told and not options.without_stock) else 0)


if __name__ == "__main__":
    main()
