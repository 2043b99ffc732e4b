"""Does a site speak to anybody but its coordinator? `python simulations/benchmarks/hostile/elsewhere.py` (root; with `strace`, more).

The site lives in a network namespace with one cable, at whose other end the coordinator's server listens. All its routes and its name
server lie beyond that cable and nobody forwards, so that whatever else it tries is seen as a frame, and goes nowhere. In there run doctor,
the node with its child through a whole run, and status. With strace each connect and send of every process is counted too, loopback
included. Control: a stock SuperNode in the same place, with Flower's defaults. Exit status 1 where something was tried, or where the
control was not seen; 3 where there can be no namespaces.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import neighbourhood  # type: ignore[import-not-found] # beside this one, as are the next
from asking import until  # type: ignore[import-not-found]
from enrolled import admitted  # type: ignore[import-not-found]
from neighbourhood import OURS, Listener, Site
from nodes import start  # type: ignore[import-not-found]
from servers import Place, guarded  # type: ignore[import-not-found]

from fedrad_common import processes
from fedrad_server.app.task import play_run
from fedrad_server.coordinator_toml import Settings
from fedrad_server.launching import create_run
from fedrad_server.runs import Run

ROUNDS = 3
PROTOCOL = f"""
format = "fedrad-protocol-1"
name = "elsewhere"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = 25000 }} }}
privacy = {{ unit = "patient", epsilon = 0.1, expected_batch = 5.0, steps_per_round = 1, rounds = {ROUNDS} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = 1, deadline_seconds = 60.0, retries = 10 }}
"""
SETTINGS = Settings(listen="0.0.0.0:0", hosts=(OURS, "localhost"))
_CALLS = "connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def surroundings(folder: Path) -> dict[str, str]:
    (folder / "user").mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(folder / "user"), "LANG": "C.UTF-8", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


def traced(folder: Path, name: str) -> list[str]:
    if shutil.which("strace") is None:
        return []
    return ["strace", "-D", "-f", "-qq", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(folder / f"{name}.strace")]


def calls_made(folder: Path, port: int) -> tuple[Counter[str], int]:
    """By every process of the site: to internet addresses that are not the coordinator's, by address; and to the coordinator's."""
    found: Counter[str] = Counter()
    right = 0
    for path in folder.glob("*.strace"):
        for line in path.read_text(errors="replace").splitlines():
            for number, four, six in _ADDRESS.findall(line):
                if (four or six, int(number)) == (OURS, port):
                    right += 1
                else:
                    found[f"{four or six} port {number}"] += 1
    return found, right


def live(place: Place, site: Site, folder: Path, *, lean: bool) -> tuple[str, list[int]]:
    """What a site does in its life. The run's outcome, and the exit codes of doctor and status."""
    home = admitted(place, folder, protocol=PROTOCOL).path
    (folder / "elsewhere.toml").write_text(PROTOCOL)
    run, codes = create_run(place.home.directory, folder / "elsewhere.toml", None), []
    settings = home / "site.toml"
    settings.write_text(settings.read_text().replace('server = "localhost:1"', f'server = "{OURS}:{place.public}"'))

    def watched(name: str) -> list[str]:
        return [] if lean else traced(folder, name)

    def ask(verb: str) -> int:
        command = site.inside(*watched(verb), program("fedrad-site"), verb, "--home", str(home))
        return subprocess.run(command, env=surroundings(folder), stdout=log, stderr=log, check=False).returncode

    with (folder / "north.log").open("wb") as log:
        codes += [] if lean else [ask("doctor")]
        command = site.inside(*watched("start"), *start(home, f"{OURS}:{place.public}", lean=lean))
        node = subprocess.Popen(command, env=surroundings(folder), stdout=log, stderr=log)
        try:
            until(lambda: "online" in (folder / "north.log").read_text() or node.poll() is not None, what="the node is online")
            with Run.open(run, place.home.key) as opened:
                outcome = play_run(opened, place.home.superlink, progress=lambda number, who, what: None)
            codes += [] if lean else [ask("status")]
        finally:
            processes.end(node, grace=15)
    return str(outcome), codes


def look_up(site: Site) -> None:
    """What any careless program would do: ask for a name, and connect to an address."""
    words = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.create_connection(('192.0.2.1', 443), timeout=1)"
    subprocess.run(site.inside(sys.executable, "-c", words), check=True)


def stock_node(site: Site, folder: Path, port: int, seconds: float) -> None:
    """`flower-supernode` as it comes, for a few seconds."""
    command = site.inside(program("flower-supernode"), "--insecure", "--superlink", f"{OURS}:{port}", "--isolation", "process")
    with (folder / "stock.log").open("wb") as log:
        node = subprocess.Popen(command, env=surroundings(folder), stdout=log, stderr=log)
        try:
            node.wait(seconds)
        except subprocess.TimeoutExpired:
            processes.end(node, grace=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for the stock SuperNode; 0 leaves it out")
    parser.add_argument("--lean", action="store_true", help="the node alone, without its child and without strace")
    options = parser.parse_args()
    if reason := neighbourhood.missing():
        print(f"not measured: {reason}")
        sys.exit(3)
    neighbourhood.enter()
    with tempfile.TemporaryDirectory() as name, Site(Path(name)) as site, guarded(Path(name), SETTINGS) as place:
        folder = Path(name)
        with Listener(place.public) as heard:
            outcome, codes = live(place, site, folder, lean=options.lean)
        calls, right = calls_made(folder, place.public)
        with Listener(place.public) as careless:
            look_up(site)
        with Listener(place.public) as control:
            if options.seconds:
                stock_node(site, folder, place.public, options.seconds)
        words = (folder / "north.log").read_text()
    print(f"fedrad: {heard.elsewhere.total()} frames to others than the coordinator, {heard.coordinator} to it; the run is {outcome}")
    print(*(f"  {what}: {count}" for what, count in heard.elsewhere.most_common()), sep="\n", end="")
    traced_here = f"{calls.total()} ({right} to it)" if right or calls else "not counted"
    print(f"fedrad: connects and sends to others by any of its processes: {traced_here}; doctor and status ended with {codes}")
    print(*(f"  {what}: {count}" for what, count in calls.most_common()), sep="\n", end="")
    for who, what in {"a careless program": careless, "a stock SuperNode": control}.items():
        print(f"control: {who}: {what.elsewhere.total()} frames to others: {', '.join(what.elsewhere) or 'none'}")
    seen = careless.elsewhere and (control.elsewhere or not options.seconds) and heard.coordinator and (right or not traced(folder, "any"))
    failed = heard.elsewhere or calls or outcome != "finished" or not (seen or (options.lean and careless.elsewhere))
    if failed:
        print(words[-3000:], file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
