"""A snapshot for a person: a table of site × round on a terminal, plain lines for what changed elsewhere. Reads nothing, knows no clock."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fedrad_server.contacts import GONE
from fedrad_server.watch import Cell, Mark, SiteLine, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# One character a round, and one that needs no colour. (character, style)
MARKS: dict[Mark, tuple[str, str]] = {
    "accepted": ("+", "green"),
    "late": ("L", "yellow"),
    "refused": ("R", "yellow"),
    "gone": ("G", "red"),
    "rejected": ("X", "red"),
    "waiting": (".", "dim"),
}
LEGEND = " · ".join(f"{character} {mark}" for mark, (character, _) in MARKS.items())
BOUND = "epsilon: at most, so far, by a quick bound (Rényi); the report prints the closer one (PRV), which sites approve"
_MOST_ROUNDS = 40  # columns; of a longer run the last ones
_STYLES = {"running": "green", "finished": "green", "paused": "red", "stopped": "yellow", "waiting": "yellow", "open": "yellow"}


def as_value(shown: Snapshot) -> dict[str, Any]:
    """For a program: plain JSON."""
    return {"format": "fedrad-snapshot-1", **dataclasses.asdict(shown)}


def headline(shown: Snapshot) -> str:
    return f"run {shown.run}: {shown.state}, round {shown.round} of {shown.rounds}" + (f": {shown.reason}" if shown.reason else "")


def in_progress(shown: Snapshot) -> str:
    """What is asked now, for how long; empty where nothing is."""
    asked = shown.exchange
    if asked is None:
        return ""
    what = f"round {asked.round}" if asked.kind == "train" else f"evaluation after round {asked.round}"
    again = f", attempt {asked.attempt} of {asked.attempts}" if asked.attempt > 1 else ""
    answered = sum(line.now == Cell("accepted") for line in shown.sites)
    limit = f" of at most {asked.deadline_seconds * asked.attempts:.0f} s"
    return f"{what}: {answered} of {len(shown.sites)} answered, {shown.quorum} needed; {asked.seconds:.0f} s{limit}{again}"


def state_of(line: SiteLine) -> str:
    """Of the open exchange, in words, and why: a site that is gone says since when."""
    if line.now is None:
        return "-"
    if line.now.mark == "gone":
        return "gone: never spoke to the coordinator" if line.age is None else f"gone: silent for {seconds(line.age)}"
    return line.now.mark + (f": {line.now.code}" if line.now.code else "")


def epsilon_of(line: SiteLine) -> str:
    if not line.bounded:
        return "no bound"
    return "-" if line.epsilon is None else f"{line.epsilon:.3f}"


def contact_of(line: SiteLine) -> str:
    return "never" if line.age is None else f"{seconds(line.age)} ago"


def seconds(value: float) -> str:
    """4 s, 12 min, 3 h, 2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def lines(shown: Snapshot) -> list[str]:
    """All of it without a terminal's help."""
    first = _first(shown)
    width = max([4, *(len(line.site) for line in shown.sites)])
    found = [headline(shown), *([in_progress(shown)] if shown.exchange else [])]
    found.append(f"{'site':{width}}  {'rounds from ' + str(first):{max(14, shown.round - first + 1)}}  epsilon   contact      now")
    for line in shown.sites:
        grid = "".join(MARKS[cell.mark][0] for cell in line.rounds[first - 1 :])
        found.append(
            f"{line.site:{width}}  {grid:{max(14, shown.round - first + 1)}}  {epsilon_of(line):8}  {contact_of(line):11}  {state_of(line)}"
        )
    return [*found, LEGEND, BOUND]


def table(shown: Snapshot) -> RenderableType:
    """The same for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for title in ("site", f"rounds {_first(shown)} to {max(1, shown.round)}", "epsilon", "contact", "now"):
        grid.add_column(title)
    for line in shown.sites:
        cells = Text().join(_character(cell) for cell in line.rounds[_first(shown) - 1 :])
        fresh = "red" if line.age is None or line.age > GONE else ""
        style = MARKS[line.now.mark][1] if line.now else ""
        grid.add_row(line.site, cells, epsilon_of(line), Text(contact_of(line), fresh), Text(state_of(line), style))
    bar = ProgressBar(total=shown.rounds, completed=shown.round, width=_MOST_ROUNDS)
    return Group(Text(headline(shown), _STYLES[shown.state]), bar, Text(in_progress(shown)), grid, Text(f"{LEGEND}\n{BOUND}", "dim"))


def _first(shown: Snapshot) -> int:
    return max(1, shown.round - _MOST_ROUNDS + 1)


def _character(cell: Cell) -> Text:
    from rich.text import Text

    return Text(*MARKS[cell.mark])


def changes(before: Snapshot | None, after: Snapshot) -> list[str]:
    """One plain line for each thing that happened between two looks."""
    said = []
    for number in range((before.round if before else after.round) + 1, after.round + 1):
        missing = [f"{line.site} {_short(line.rounds[number - 1])}" for line in after.sites if line.rounds[number - 1].mark != "accepted"]
        answered = len(after.sites) - len(missing)
        said.append(f"round {number}: closed, {answered} of {len(after.sites)}" + (f" ({', '.join(missing)})" if missing else ""))
    if asked := after.exchange:
        same = (
            before is not None
            and before.exchange is not None
            and (before.exchange.kind, before.exchange.round) == (asked.kind, asked.round)
        )
        former = {line.site: line.now for line in before.sites} if before and same else {}
        place = f"round {asked.round}" if asked.kind == "train" else f"evaluation {asked.round}"
        for line in after.sites:
            if line.now is not None and line.now != former.get(line.site) and (line.now.mark != "waiting" or line.site in former):
                said.append(f"{place}: {line.site}: {state_of(line)}")
    if before is None or (before.state, before.reason) != (after.state, after.reason):
        said.append(headline(after))
    return said


def _short(cell: Cell) -> str:
    return cell.code or cell.mark
