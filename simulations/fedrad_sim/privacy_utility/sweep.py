"""Plays the points of a curve, seed by seed, in a folder that only grows: what is finished there is never played again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.files import exclusive_lock, make_folder, read_json, write_atomic, write_json
from fedrad_sim.privacy_utility.affordable import check_affordable
from fedrad_sim.privacy_utility.outcome import Utility
from fedrad_sim.privacy_utility.points import Point, Points, point_of, read_points
from fedrad_sim.privacy_utility.source import Source

LARGEST = 20.0  # epsilon: beyond, it promises a patient nothing that is worth a curve; a small hospital's ceiling may be lower
_FORMAT = "fedrad-privacy-utility-sweep-1"
_STAMP, _LOCK = "sweep.json", "lock"


@dataclass(frozen=True)
class Grid:
    """Every epsilon is played with every seed, and each seed once without privacy."""

    epsilons: tuple[float, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.epsilons or not self.seeds:
            raise MisuseError("a sweep needs at least one epsilon and one seed", hint="as in --epsilon 1,3,8 --seeds 1,2,3")
        for epsilon in self.epsilons:
            if not (math.isfinite(epsilon) and 0 < epsilon <= LARGEST):
                raise MisuseError(f"--epsilon: {epsilon:g} is not above 0 and at most {LARGEST:g}", hint="usual values are 1, 3 and 8")
        for seed in self.seeds:
            if seed < 0:
                raise MisuseError(f"--seeds: {seed} is below 0", hint="a seed is a whole number from 0 on")

    def plus(self, other: Grid) -> Grid:
        """Both grids' values, each once, the first grid's first."""
        return Grid(tuple(dict.fromkeys(self.epsilons + other.epsilons)), tuple(dict.fromkeys(self.seeds + other.seeds)))


def sweep(
    source: Source,
    out: Path,
    grid: Grid,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Utility:
    """Play what is missing of the grid in `out`, and read back all that is there.

    A sweep of the same source that `out` holds already is gone on with, and grows by the new epsilons and seeds.

    Raises:
        MisuseError: `out` holds something else, or a hospital cannot keep an epsilon; what `out` holds is as it was.
        FedradError: a run could not be finished; what was finished before is kept.
    """
    new = not (out / _STAMP).exists()
    if new:
        _make(out)
    try:
        with exclusive_lock(out / _LOCK, what="this sweep"):
            grid = grid if new else _begun(out, source).plus(grid)
            check_affordable(source, {seed: _missing(out, seed, grid) for seed in grid.seeds}, progress)
            _write(out, source, grid)
            for seed in grid.seeds:
                _play_seed(out, seed, grid, jobs=jobs, say=say, progress=progress)
    except MisuseError:
        if new and not any(out.glob("seed-*/arms/*/run/launch.json")):
            shutil.rmtree(out)
        raise
    found = [read_points(_kept(out, seed)) for seed in grid.seeds]
    points = tuple(point for points in found for point in points.points)
    return Utility(source.scenario, source.private, unit=found[0].unit, points=points)


def _begun(out: Path, source: Source) -> Grid:
    stamp = read_json(out / _STAMP, expected_format=_FORMAT)
    if (stamp["scenario"], stamp["protocol"]) != (_described(source), source.protocol.hash):
        raise MisuseError(f"{out.name}: holds a sweep of another scenario or protocol", hint="name a new folder with --out")
    return Grid(tuple(float(value) for value in stamp["epsilons"]), tuple(stamp["seeds"]))


def _make(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(path.name != _LOCK for path in out.iterdir())):
        raise MisuseError(f"{out.name}: is not empty", hint="name a new folder with --out")
    make_folder(out)


def _write(out: Path, source: Source, grid: Grid) -> None:
    for name, text in source.files().items():
        write_atomic(out / name, text.encode())
    about = {"scenario": _described(source), "protocol": source.protocol.hash}
    write_json(out / _STAMP, {"format": _FORMAT, **about, "epsilons": list(grid.epsilons), "seeds": list(grid.seeds)})


def _described(source: Source) -> dict[str, Any]:
    return source.scenario.model_dump(mode="json")


def _play_seed(out: Path, seed: int, grid: Grid, *, jobs: int, say: Callable[[str], None], progress: Any) -> None:
    kept, before, missing = _kept(out, seed), _before(out, seed), _missing(out, seed, grid)
    finished = {point.epsilon for point in before}
    if not missing and None in finished:
        say(f"seed {seed}: finished before")
        return
    from fedrad_sim.simulate import run

    # The first epsilon names the folder of the run without privacy, so it stays the first; played before, it is only scored again.
    first = grid.epsilons[0]
    wanted: Sequence[object] = [first, *(epsilon for epsilon in missing if epsilon != first)]
    say(f"seed {seed}: {len(missing)} {'epsilon' if len(missing) == 1 else 'epsilons'} to play")
    settings = {"privacy.epsilon": wanted}
    result = run(
        out / "scenario.toml", out / f"seed-{seed}", seed=seed, settings=settings, jobs=jobs, own_sites=False, progress=progress
    )  # fmt: skip
    played = [point_of(arm) for arm in result.arms]
    points = [*before, *(point for point in played if point.state == "finished" and point.epsilon not in finished)]
    make_folder(kept.parent)
    write_atomic(kept, Points(unit=result.unit, points=tuple(points)).model_dump_json(indent=1).encode() + b"\n")
    for point in played:
        if point.state != "finished":
            what = "without privacy" if point.epsilon is None else f"epsilon {point.epsilon:g}"
            raise FedradError(f"seed {seed}, {what}: the run is {point.state}", hint="run the same command again; what is finished is kept")


def _missing(out: Path, seed: int, grid: Grid) -> list[float]:
    finished = {point.epsilon for point in _before(out, seed)}
    return [epsilon for epsilon in grid.epsilons if epsilon not in finished]


def _before(out: Path, seed: int) -> tuple[Point, ...]:
    """The seed's points that are finished."""
    kept = _kept(out, seed)
    return read_points(kept).points if kept.is_file() else ()


def _kept(out: Path, seed: int) -> Path:
    return out / "points" / f"seed-{seed}.json"
