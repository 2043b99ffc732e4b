"""Files are rebuilt by the reader processes of intake/reading: one that ends or hangs its reader costs itself, and a code says how."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client.intake.deid.exported import Exported, ExportRecipe, export
from fedrad_client.intake.reading.desk import Answer, read_all


@dataclass(frozen=True)
class Exporting:
    """The work of a reader process: a file's path to what it becomes."""

    recipe: ExportRecipe

    def __call__(self, path: Path) -> tuple[dict[str, Any], bytes]:
        done = export(path, self.recipe)
        return {"code": done.code, "series": done.series, "place": done.place}, done.content


def exported(paths: Iterable[Path], recipe: ExportRecipe, *, workers: int = 1) -> Iterator[Exported]:
    """Each file's outcome, in the order of `paths`."""
    return map(_outcome, read_all(paths, Exporting(recipe), workers=workers))


def _outcome(answer: Answer) -> Exported:
    return Exported(answer.code) if answer.code else Exported(**answer.head, content=answer.body)
