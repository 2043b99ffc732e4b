"""A run's disk, bounded by bytes: the oldest updates and models are deleted, each announced beforehand; what was signed stays for ever.

By age, a round's updates go before the model that they were folded into, so that a replay can always begin at the oldest model whose
later updates are all there. Manifests, envelopes, receipts and evaluations are never touched, nor the newest two models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedrad_server.layout import answers_folder, round_folder

KEEP_BYTES = 1_500_000_000  # of a run's updates and models; a smaller run keeps everything and replays from its start
CHECKPOINT = ("model.f32", "released.f32", "state.npz")


@dataclass(frozen=True)
class Deleted:
    """How far a run's past is gone."""

    through: int = 0  # the updates of rounds up to this one
    before: int = 0  # the models and states of rounds below this one

    @classmethod
    def from_event(cls, body: dict[str, Any]) -> Self:
        return cls(int(body["through"]), int(body.get("before", 0)))

    def event(self) -> dict[str, Any]:
        return {"through": self.through, "before": self.before}


def plan(run: Path, closed: int, deleted: Deleted, *, keep_bytes: int) -> Deleted:
    """What has to go so that the rounds that are closed leave room for the next one, taken to be as large as the last."""
    updates = {number: _size(_updates(run, number)) for number in range(deleted.through + 1, closed + 1)}
    models = {number: _size(_checkpoint(run, number)) for number in range(deleted.before, closed + 1)}
    excess = sum(updates.values()) + sum(models.values()) + updates.get(closed, 0) + models[closed] - keep_bytes
    through, before = deleted.through, deleted.before
    while excess > 0 and (through < closed or before < closed - 1):
        if before < min(through, closed - 1):
            excess -= models[before]
            before += 1
        else:
            through += 1
            excess -= updates[through]
    return Deleted(through, before)


def remove(run: Path, deleted: Deleted, *, since: Deleted) -> None:
    """Unlink what was announced; what a killed process left of it is found by `since=Deleted()`."""
    for number in range(since.through + 1, deleted.through + 1):
        for path in _updates(run, number):
            path.unlink()
    for number in range(since.before, deleted.before):
        for path in _checkpoint(run, number):
            path.unlink()


def _updates(run: Path, number: int) -> list[Path]:
    return list(answers_folder(run, number, "train").glob("[!.]*.f*"))


def _checkpoint(run: Path, number: int) -> list[Path]:
    return [path for name in CHECKPOINT if (path := round_folder(run, number) / name).is_file()]


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
