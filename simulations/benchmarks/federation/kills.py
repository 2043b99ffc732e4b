"""Kills the whole coordinator, and sites, at random points of a 12-round run with three sites over TLS; and times how a death is noticed.

`python simulations/benchmarks/federation/kills.py`. Each run is one kill -9 of every process of one program, at a moment drawn uniformly
from an undisturbed run's length; the program is started again `--restart-after` seconds later (systemd would wait 20). A run must finish,
its model be what `fedrad-coordinator replay` folds, and every accepted update be counted once. No site's ledger may hold less than left it,
neither right after its death nor at the end. A site that stays dead must show as gone within 15 s, and its run must end at quorum.
"""

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure, arguments, conclude, load, of, say  # type: ignore[import-not-found] # beside this one, as are the next
from fleet import NAMES, Fleet, enrolled  # type: ignore[import-not-found]
from hospital import SMALL, protocol  # type: ignore[import-not-found]
from outcome import ledger_troubles, left_site, run_troubles  # type: ignore[import-not-found]
from programs import BrokenError, kill  # type: ignore[import-not-found]

from fedrad_client.privacy.ledger import KIND
from fedrad_common import chain
from fedrad_server.history import read_run
from fedrad_server.layout import EVENTS

NOTICED = 15.0  # seconds
QUORUM = 2
COORDINATOR = "coordinator"
OVER = "when all was done, which does not count"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=None, help="of the coordinator, and as many of a site; 50, or 2 with --quick")
    parser.add_argument("--only", choices=("coordinator", "sites"), default=None, help="kill nothing else")
    parser.add_argument("--deaths", type=int, default=None, help="of a site that stays dead; 5, or 1 with --quick")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--length", type=int, default=SMALL, help="parameters of the model")
    parser.add_argument("--restart-after", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills, deaths = (given if given is not None else few if options.quick else many
                     for given, few, many in ((options.kills, 2, 50), (options.deaths, 1, 5)))  # fmt: skip
    before, figures, draw = load(), list[Figure](), random.Random(options.seed)
    with enrolled(options.folder, keep=options.keep) as fleet:
        content = protocol("twelve", length=options.length, rounds=options.rounds, quorum=QUORUM)
        rig = Rig(fleet, fleet.approve("twelve", content, runs=4 * kills + deaths + 2), options.restart_after)
        fleet.begin()
        calm = rig.undisturbed()
        figures.append(Figure("an undisturbed run", calm, "s"))
        if options.only != "sites":
            figures += rig.coordinator(kills, calm, draw)
        if options.only != "coordinator":
            figures += rig.sites(kills, calm, draw)
        figures += rig.dead(deaths, calm, draw)
        fleet.programs.stop(*NAMES, COORDINATOR)
        rig.troubles += rig.at_the_end()
    conclude(figures, before=before, as_json=options.json, troubles=rig.troubles)


@dataclass
class Rig:
    fleet: Fleet
    protocol: Path
    restart_after: float
    troubles: list[str] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)

    def launch(self, name: str) -> Path:
        run: Path = self.fleet.launch(self.protocol, name)
        self.runs.append(run)
        return run

    def undisturbed(self) -> float:
        """Seconds of a run in which nobody dies; the second one, when every program has done it once."""
        for name in ("warm", "calm"):
            seconds = float(self.fleet.await_end(self.launch(name)))
        say(f"undisturbed: {seconds:.1f} s, load {load()}")
        return seconds

    def coordinator(self, kills: int, calm: float, draw: random.Random) -> list[Figure]:
        where, seconds, wrong = Counter[str](), list[float](), 0
        for number in itertools.count():
            if where.total() == kills:
                break
            run = self.launch(f"coordinator-{number:02d}")
            begun = time.monotonic()
            struck = self.strike(run, COORDINATOR, draw, calm)
            time.sleep(self.restart_after)
            self.fleet.coordinate()
            found = self.ended(run)
            wrong += bool(found)
            where[struck] += bool(struck)
            seconds.append(time.monotonic() - begun)
            self.told(f"coordinator {where.total()} of {kills}: killed {struck or OVER}; {seconds[-1]:.1f} s", found)
        say(f"coordinator killed: {spoken(where)}")
        return [
            Figure(f"coordinator killed -9 in {kills} runs: not finished, not its replay, or miscounted", wrong, "", bar=0),
            *([of("  seconds of a run with a kill", seconds, "s")] if seconds else []),
        ]

    def sites(self, kills: int, calm: float, draw: random.Random) -> list[Figure]:
        where, again, wrong = Counter[str](), 0, 0
        for number in itertools.count():
            if where.total() == kills:
                break
            run, site = self.launch(f"site-{number:02d}"), draw.choice(NAMES)
            struck = self.strike(run, site, draw, calm)
            found = list(ledger_troubles(self.fleet.folder / site, self.runs))
            time.sleep(self.restart_after)
            self.fleet.node(site)
            found += self.ended(run)
            found += ledger_troubles(self.fleet.folder / site, self.runs)
            wrong += bool(found)
            where[struck] += bool(struck)
            self.told(f"site {where.total()} of {kills}: {site} killed {struck or OVER}", found)
        for site in NAMES:
            paid = [entry for entry in chain.read(self.fleet.folder / site / "ledger.chain", KIND) if entry.type == "answer"]
            again += sum(entry.body["cost"] > 0 for entry in paid)
        say(f"sites killed: {spoken(where)}; {again} answers were paid anew")
        return [
            Figure(f"a site killed -9 in {kills} runs: ledger below what left, or no end at quorum", wrong, "", bar=0),
            Figure("  answers that a death took with it, paid anew", again, ""),
        ]

    def dead(self, deaths: int, calm: float, draw: random.Random) -> list[Figure]:
        """From the kill to the `gone` event in the run's own log, which every screen shows."""
        noticed, ended = list[float](), list[float]()
        for number in range(deaths):
            run, site = self.launch(f"dead-{number:02d}"), NAMES[number % len(NAMES)]
            self.strike(run, site, draw, calm / 2)
            killed = time.monotonic()
            self.fleet.programs.until(lambda run=run, site=site: gone(run, site), what=f"{site} is gone", seconds=60)
            noticed.append(time.monotonic() - killed)
            found = self.ended(run)
            ended.append(time.monotonic() - killed)
            last = read_run(run, files=False).manifests[-1]
            if last.missing != {site: "gone"}:
                found.append(f"{run.name}: the last manifest says {last.missing}, not that {site} is gone")
            found += ledger_troubles(self.fleet.folder / site, self.runs)
            self.fleet.node(site)
            self.fleet.programs.until(lambda site=site: self.fleet.online(site), what=f"{site} is online again")
            self.told(
                f"dead {number + 1} of {deaths}: {site} noticed after {noticed[-1]:.1f} s, the run ended after {ended[-1]:.1f} s", found
            )
        if not deaths:
            return []
        return [
            Figure("a site killed -9: noticed after, at most", max(noticed), "s", bar=NOTICED, spread=f"least {min(noticed):.1f}"),
            of("  until the run has ended at quorum", ended, "s"),
        ]  # fmt: skip

    def strike(self, run: Path, program: str, draw: random.Random, within: float) -> str:
        """Kill a program at a drawn moment. Returns what the run was doing; empty where it was faster than the moment drawn."""
        time.sleep(draw.uniform(0, within))
        killed = kill(self.fleet.programs.running[program])
        if not killed:
            raise BrokenError(f"{program} was dead already\n{self.fleet.programs.log(program)[-2000:]}")
        return doing(run)

    def ended(self, run: Path) -> list[str]:
        try:
            self.fleet.await_end(run, seconds=240)
        except BrokenError as error:
            return [str(error)]
        return list(run_troubles(run, quorum=QUORUM))

    def told(self, what: str, found: list[str]) -> None:
        say(f"{what}{', WRONG' if found else ''}; load {load()}")
        self.troubles += found

    def at_the_end(self) -> Iterator[str]:
        """Every site's ledger once more, and the command that a person would type, for the last run."""
        for site in NAMES:
            yield from ledger_troubles(self.fleet.folder / site, self.runs)
            audit = chain.read(self.fleet.folder / site / "audit.chain", "audit")
            say(f"{site}: {len(left_site(audit))} distinct answers left in {len(self.runs)} runs")
        self.fleet.programs.run("fedrad-coordinator", "replay", f"coordinator/runs/{self.runs[-1].name}")


def gone(run: Path, site: str) -> bool:
    return any(entry.type == "gone" and entry.body["site"] == site for entry in chain.read(run / EVENTS, "events"))


def doing(run: Path) -> str:
    """What a run's files say of the moment; empty when all is done."""
    if (run / "result" / "result.json").exists():
        return ""
    rounds = run / "rounds"
    closed = len(list(rounds.glob("[0-9]*/manifest.json"))) - 1
    folder = rounds / f"{closed + 1:04d}"
    if not folder.exists():
        return "before its first round" if closed == 0 else "between two rounds"
    return f"in a round with {len(list((folder / 'updates').glob('[!.]*.json')))} answers"


def spoken(where: Counter[str]) -> str:
    return " · ".join(f"{what} {times}" for what, times in where.most_common())


if __name__ == "__main__":
    main()
