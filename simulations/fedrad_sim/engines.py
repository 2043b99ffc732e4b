"""The ways to play a run over many sites on one machine, by name. Each is loaded when asked for: Flower and Ray take seconds to import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedrad_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrad_server.rounds import Outcome, Progress
    from fedrad_server.runs import Run


class Engine(Protocol):
    def __call__(self, run: Run, homes: dict[str, Path], *, seed: int, progress: Progress | None = None) -> Outcome:
        """Play an open run to its end or its pause.

        Args:
            homes: each site's home, by the name that the run's roster has for it.
            seed: of all noise and sampling at all sites. Only a simulation may have one; `Run.create(seeded=True)` marks the run.
        """
        ...


def play_local(run: Run, homes: dict[str, Path], *, seed: int, progress: Progress | None = None) -> Outcome:
    """All sites in this process, one after the other."""
    from fedrad_sim.localgrid import play_local as play

    return play(run, homes, seed=seed, progress=progress)


def play_ray(run: Run, homes: dict[str, Path], *, seed: int, progress: Progress | None = None) -> Outcome:
    """Flower's simulation engine: sites spread over Ray's worker processes."""
    from fedrad_sim.ray import play_ray as play

    return play(run, homes, seed=seed, progress=progress)


ENGINES: dict[str, Engine] = {"local": play_local, "ray": play_ray}


def engine(name: str) -> Callable[..., Outcome]:
    if name not in ENGINES:
        raise MisuseError(f"engine: {name!r} is not known", hint=f"known engines: {', '.join(ENGINES)}")
    return ENGINES[name]
