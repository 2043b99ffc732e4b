"""Files are rebuilt by the reader processes of intake/reading: one that ends or hangs its reader costs itself, and a code says how."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client.intake.burnin.suspicion import Suspicion
from fedrad_client.intake.deid.exported import Exported, ExportRecipe, export
from fedrad_client.intake.reading.desk import Answer, read_all


@dataclass(frozen=True)
class Exporting:
    """The work of a reader process: a file's path to what it becomes."""

    recipe: ExportRecipe

    def __call__(self, path: Path) -> tuple[dict[str, Any], bytes]:
        done = export(path, self.recipe)
        head = {"code": done.code, "series": done.series, "place": done.place, "named": done.named, "sha256": done.sha256}
        if done.suspicion is None:
            return {**head, "suspicion": None}, done.content
        return {**head, "suspicion": done.suspicion.head()}, done.suspicion.picture


def exported(paths: Iterable[Path], recipe: ExportRecipe, *, workers: int = 1) -> Iterator[Exported]:
    """Each file's outcome, in the order of `paths`."""
    return map(_outcome, read_all(paths, Exporting(recipe), workers=workers))


def _outcome(answer: Answer) -> Exported:
    if answer.code:
        return Exported(answer.code)
    if (found := answer.head.get("suspicion")) is None:
        return Exported(**answer.head, content=answer.body)
    return Exported(**{**answer.head, "suspicion": Suspicion.read(found, answer.body)})
