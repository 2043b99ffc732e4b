"""The table at the end of a benchmark: each figure beside its bar, the machine's load, and an exit code."""

import argparse
import json
import os
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Figure:
    """One measured number. `bar` is the most that it may be; None: shown only."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    spread: str = ""

    @property
    def holds(self) -> bool:
        return self.bar is None or self.value <= self.bar


def of(name: str, values: Sequence[float], unit: str, *, bar: float | None = None, aim: float | None = None) -> Figure:
    """The median of several, with their least and most."""
    spread = f"{min(values):.3g} … {max(values):.3g}, n = {len(values)}"
    return Figure(name, statistics.median(values), unit, bar=bar, aim=aim, spread=spread)


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every command of this folder takes. From now on SIGTERM ends it as Ctrl-C does: in order, with all that it started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, default=None, help="where the federation lies; the system's folder for temporary files")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--quick", action="store_true", help="a small sample: does it work at all?")
    parser.add_argument("--keep", action="store_true", help="leave the folder where it is")
    return parser


def conclude(figures: Sequence[Figure], *, before: str, as_json: bool, troubles: Sequence[str] = ()) -> NoReturn:
    """Print everything and end: 0 where all bars hold and nothing was wrong, else 1."""
    good = not troubles and all(figure.holds for figure in figures)
    if as_json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        print(json.dumps({"figures": rows, "troubles": list(troubles), "good": good, "load": {"before": before, "after": load()}}))
        sys.exit(not good)
    width = max(len(figure.name) for figure in figures)
    print(f"\n{'figure':<{width}}  {'measured':>12}  {'bar':>8}  {'aim':>8}      spread")
    for figure in figures:
        bar, aim = ("" if limit is None else f"{limit:g}" for limit in (figure.bar, figure.aim))
        verdict = "    " if figure.bar is None else "ok  " if figure.holds else "MISS"
        print(f"{figure.name:<{width}}  {figure.value:>9.3f} {figure.unit:<2}  {bar:>8}  {aim:>8}  {verdict}  {figure.spread}")
    for trouble in troubles:
        print(f"WRONG: {trouble}")
    print(f"load average before {before}, after {load()}; {os.cpu_count()} cores")
    sys.exit(not good)


def say(text: str) -> None:
    """Talk, while the figures come."""
    print(text, file=sys.stderr, flush=True)
