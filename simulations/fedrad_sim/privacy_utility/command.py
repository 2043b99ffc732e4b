"""From what a person typed to a played sweep and its three files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedrad_common.errors import MisuseError
from fedrad_server.report import words
from fedrad_sim.privacy_utility.files import write_files
from fedrad_sim.privacy_utility.outcome import Utility
from fedrad_sim.privacy_utility.source import find_source
from fedrad_sim.privacy_utility.sweep import Grid, sweep

Number = TypeVar("Number", int, float)


def play(
    protocol: str,
    out: Path,
    epsilon: str,
    seeds: str,
    *,
    over: str | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Utility, Path]:
    """What was found, and the page's path.

    Args:
        epsilon, seeds: numbers between commas.

    Raises:
        MisuseError: a number, the protocol or the folder is not what it must be; nothing was written.
    """
    grid = Grid(_numbers("--epsilon", epsilon, float), _numbers("--seeds", seeds, int))
    found = sweep(find_source(protocol, over=over), out, grid, jobs=jobs, say=say, progress=progress)
    return found, write_files(found, out)


def lines(found: Utility, page: Path) -> list[str]:
    """What a person reads on the terminal."""
    shown = [f"{'epsilon':<10}{'AUC':>7}   {'band':<18}  sigma"]
    for band in found.curve("scored"):
        assert band.epsilon is not None
        noise = [plan.noise_multiplier for plan in found.plans(band.epsilon, found.seeds[0])]
        shown.append(f"{band.epsilon:<10g}{band.median:>7.3f}   {band.low:.3f} … {band.high:.3f}    {min(noise):.2f} … {max(noise):.2f}")
    if (none := found.reference("scored")) is not None:
        shown.append(f"{'none':<10}{none.median:>7.3f}   {none.low:.3f} … {none.high:.3f}")
    count = words.count(len(found.seeds), "seed")
    shown.append(f"\nmedian of {count}; band: their 95 % intervals together. sigma: at the hospitals of seed {found.seeds[0]}.")
    return [*shown, f"page: {page}"]


def _numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(math.isfinite(value) for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise MisuseError(f"{option}: {text!r} is not a list of {what}", hint=f"numbers between commas, as in {option} 1,3,8")
    return tuple(dict.fromkeys(values))
