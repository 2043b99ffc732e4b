"""Does any request that nobody is entitled to make change anything? `python simulations/benchmarks/hostile/intruders.py`.

Every route of Flower's three APIs meets every kind of wrong credential, replay, path and framing in `attacks`, at a coordinator that runs.
Before and after each request all rows of the database and all files of the coordinator are compared. Two controls: what a site's own node
asks does change something, so the comparison sees; and Flower's own server, with TLS and node authentication, lets some of the same
requests change its rows. Exit status 1 where one of ours did, or where a control saw nothing.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asking import request  # type: ignore[import-not-found] # beside this one, as are the next
from attacks import Attacker, Attempt, Overheard  # type: ignore[import-not-found]
from routes import Route, routes  # type: ignore[import-not-found]
from servers import Place, guarded, stock  # type: ignore[import-not-found]
from traces import look  # type: ignore[import-not-found]

from fedrad_server.home import Home
from fedrad_server.superlink.guard import CALLS

_ALL = 2500  # requests, about
_ALWAYS = {"send-node-heartbeat", "start-run", "acquire-task"}  # of each API one route that every kind meets, in the smallest sample too
_BEAT = 8.0  # seconds between two signs of life of the run that is attacked


@dataclass
class Tally:
    """What came of the requests, by kind."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    changed: list[tuple[Attempt, list[str]]] = field(default_factory=list)

    def add(self, attempt: Attempt, statuses: list[int], parts: list[str]) -> None:
        self.statuses.setdefault(attempt.kind, Counter())[" ".join(map(str, statuses)) or "cut"] += 1
        if parts:
            self.changed.append((attempt, parts))

    @property
    def total(self) -> int:
        return sum(row.total() for row in self.statuses.values())

    def lines(self) -> Iterator[str]:
        for kind, row in self.statuses.items():
            yield f"  {kind:<46}{row.total():>5}  " + ", ".join(f"{status} × {count}" for status, count in row.most_common())
        for attempt, parts in self.changed[:20]:
            yield f"  changed: {attempt.kind}: {attempt.route.path}: {', '.join(parts)}"


def try_all(place: Place, attempts: Iterable[Attempt]) -> Tally:
    tally, beaten = Tally(), time.monotonic()
    for attempt in attempts:
        if not place.stock and time.monotonic() - beaten > _BEAT:
            place.flowing.beat()
            beaten = time.monotonic()
        before = look(place)
        statuses = place.send(attempt.raw, private=attempt.private)
        tally.add(attempt, statuses, look(place).differs(before))
    return tally


def overhear(place: Place, calls: list[Route]) -> tuple[Overheard, list[str]]:
    """Let north's node make its own calls. Returns what an eavesdropper has then, and the calls that changed something."""
    seen, changed = Overheard(), []
    for route in calls:
        headers, before = place.sites["north"].signs(route.path, route.body), look(place)
        place.send(request(route.path, route.body, headers))
        if look(place).differs(before):
            changed.append(route.call)
        seen[route.path] = (headers, route.body)
    place.activate(place.sites["north"])
    place.order()
    return seen, changed


def attack_ours(folder: Path, sample: int | None, seed: int) -> tuple[Tally, list[str]]:
    with guarded(folder) as place:
        place.furnish()
        seen, changed = overhear(place, own_calls(place))
        attacker = Attacker(place, seen)
        return try_all(place, drawn(attacker.everything(routes(place, place.sites["north"]), ours=CALLS), sample, seed)), changed


def attack_stock(folder: Path, home: Home, sample: int | None, seed: int) -> Tally:
    with stock(folder, home) as place:
        place.furnish()
        seen, _ = overhear(place, own_calls(place))
        return try_all(place, drawn(Attacker(place, seen).outside(routes(place, place.sites["north"])), sample, seed))


def own_calls(place: Place) -> list[Route]:
    return [route for route in routes(place, place.sites["north"]) if route.api == "fleet" and route.call in CALLS]


def drawn(attempts: Iterable[Attempt], sample: int | None, seed: int) -> Iterator[Attempt]:
    """All, or each by a coin that gives about `sample` of ours; headers are signed as they are drawn, so that none is stale by waiting."""
    coin = random.Random(seed)
    share = 1.0 if sample is None else sample / _ALL
    return (attempt for attempt in attempts if coin.random() < share or attempt.route.call in _ALWAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="about so many of the requests, and three routes whole, instead of all 2,500")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, authorised = attack_ours(Path(folder), options.sample, options.seed)
        control = attack_stock(Path(folder), Home(Path(folder) / "guarded"), options.sample, options.seed)
    print(f"fedrad: {len(ours.changed)} of {ours.total} unauthorised requests changed something")
    print(*ours.lines(), sep="\n")
    print(f"control: {len(authorised)} of {len(CALLS)} calls of a site's own node changed something: {', '.join(authorised)}")
    calls = Counter(f"{attempt.route.api}/{attempt.route.call} ({attempt.kind})" for attempt, _ in control.changed)
    print(f"control: Flower's own server: {len(control.changed)} of {control.total} changed something")
    print(*(f"  {call}: {count}" for call, count in calls.most_common(40)), sep="\n")
    sys.exit(1 if ours.changed or not authorised or not control.changed else 0)


if __name__ == "__main__":
    main()
