"""Pictures that wait for a person, with what was found in them. They show what the gate held back: mode 0600, and gone with the verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.codes import Code
from fedrad_common.canonical import Sha256
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FormatError
from fedrad_common.files import write_atomic, write_json

WAITING = Path("review") / "waiting"


class Waiting(Section):
    """One file; its picture lies beside it."""

    format: Literal["fedrad-review-1"] = "fedrad-review-1"
    content: Sha256  # of the file
    code: Code
    device: str
    patient: str  # pseudonym, so that a withdrawal finds it
    rows: PositiveInt
    columns: PositiveInt
    frame: NonNegativeInt
    boxes: tuple[Box, ...]

    @property
    def id(self) -> str:
        """What a person types."""
        return self.content[:8]


def put(home: Path, waiting: Waiting, picture: bytes) -> None:
    """Once a file, whatever was found in it before. Raises DiskError."""
    folder = home / WAITING
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / f"{waiting.content}.png", picture)
    write_json(folder / f"{waiting.content}.json", waiting.model_dump(mode="json"))


def entries(home: Path) -> list[Waiting]:
    """All that wait, in the order of device and id. A damaged one is left out: the next ingest writes it anew."""
    return sorted(_readable(home), key=lambda waiting: (waiting.device, waiting.rows, waiting.columns, waiting.content))


def _readable(home: Path) -> Iterator[Waiting]:
    for path in (home / WAITING).glob("*.json"):
        with contextlib.suppress(FormatError, OSError):
            yield parse_json(path.read_bytes(), Waiting, name="review")


def contents(home: Path) -> set[str]:
    return {path.stem for path in (home / WAITING).glob("*.json")}


def picture_path(home: Path, waiting: Waiting) -> Path:
    return home / WAITING / f"{waiting.content}.png"


def remove(home: Path, contents: Collection[str]) -> None:
    """The picture first: without its description nobody would find it."""
    for content in contents:
        for end in ("png", "json"):
            (home / WAITING / f"{content}.{end}").unlink(missing_ok=True)


def forget(home: Path, patients: Collection[str]) -> None:
    """Of patients who withdrew nothing waits."""
    remove(home, [waiting.content for waiting in entries(home) if waiting.patient in patients])
