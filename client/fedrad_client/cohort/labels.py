"""A hospital's label table: CSV by image, series or patient, read strictly; errors name line and column, never what stands there.

A row that names a patient speaks of nobody else, and two rows with the same key that contradict each other cost that key its label and
stop nothing: one patient's rows never decide over another's (privacy.md, rule 5). A row that names only an image speaks of whoever has it.
"""

import csv
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError

from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.protocol import Label

Level = Literal["SOPInstanceUID", "SeriesInstanceUID", "PatientID"]
LEVELS: tuple[Level, ...] = get_args(Level)  # most specific first
CELLS: dict[str, int | None] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": None}  # spreadsheets turn 1 into 1.0
ISSUER = "IssuerOfPatientID"
ENCODING = "utf-8-sig"
CONTRADICTORY = -1  # of a cell: two rows with this key say 0 and 1

Values = tuple[int | None, ...]  # one per label; None is unknown


class Key(NamedTuple):
    """Whom a row speaks of. An empty field was not filled and fits everybody."""

    level: Level
    value: str
    patient: str = ""
    issuer: str = ""


@dataclass(frozen=True)
class Known:
    """One image's labels, each from the most specific row that has it."""

    values: Values
    contradictory: bool  # at least one value is unknown because rows with the same key contradict each other
    used: tuple[Key, ...]  # of all rows that speak of the image


@dataclass(frozen=True)
class LabelTable:
    """What is known, by key. Holds identifiers: lives in memory only and is never printed."""

    names: tuple[str, ...]
    rows: dict[Key, Values] = field(repr=False)

    @property
    def contradictory(self) -> int:
        """How many keys have a label that two rows contradict."""
        return sum(CONTRADICTORY in row for row in self.rows.values())

    def renamed(self, rename: Callable[[str], str]) -> "LabelTable":
        """The same table by other names: keyed ones identify nobody, and fit images that were renamed likewise."""
        rows: dict[Key, Values] = {
            Key(key.level, *map(rename, (key.value, key.patient, key.issuer))): values for key, values in self.rows.items()
        }
        return LabelTable(self.names, rows)

    def find(self, keys: dict[Level, str], *, issuer: str = "") -> Known:
        """Args: keys: of one image, by level. issuer: of its Patient ID."""
        patient = keys.get("PatientID", "")
        fitting = (
            Key(level, keys[level], *whom)
            for level in LEVELS
            if level in keys
            for whom in product(dict.fromkeys((patient, "")), dict.fromkeys((issuer, "")))
        )
        used = tuple(key for key in fitting if key in self.rows)
        speaking = [self.rows[key] for key in used]
        found = [next((row[i] for row in speaking if row[i] is not None), None) for i in range(len(self.names))]
        return Known(tuple(None if value == CONTRADICTORY else value for value in found), CONTRADICTORY in found, used)


def read_labels(path: Path, names: tuple[str, ...] = ()) -> LabelTable:
    """Read a CSV with a header: key columns of the three names, perhaps their issuer, and one column of 0, 1 or nothing per label.

    A row is keyed by the most specific key that it fills; with a Patient ID or issuer beside it, it speaks of that patient's images only.
    Other columns are ignored. Without `names`, every other column is a label.

    Raises:
        MisuseError: no such file, no rows, a missing column, or a malformed row.
    """
    rows: dict[Key, Values] = {}
    lines = _lines(path)
    _, header = next(lines, (1, []))
    columns, levels = _columns(header, names, path.name)
    for line, cells in lines:
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise MisuseError(
                f"{path.name}: line {line}: {len(cells)} columns, the header has {len(header)}", hint="quote cells with commas"
            )
        filled = {level: cells[column] for level, column in levels.items() if cells[column]}
        if not filled:
            raise MisuseError(f"{path.name}: line {line}: no key", hint=f"fill one of {', '.join(levels)}")
        level = next(iter(filled))
        key = Key(level, filled[level], filled.get("PatientID", ""), cells[header.index(ISSUER)] if ISSUER in header else "")
        values = tuple(_cell(cells[column], where=f"{path.name}: line {line}: column {column + 1}") for column in columns.values())
        rows[key] = tuple(map(_agreed, rows.get(key, values), values))
    if not rows:
        raise MisuseError(f"{path.name}: has no rows", hint="below the header, one line per image, series or patient")
    return LabelTable(tuple(columns), rows)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding=ENCODING, newline="") as stream:
            reader = csv.reader(stream, strict=True)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    raise MisuseError(
                        f"{path.name}: line {reader.line_num}: is not CSV", hint="export it as comma-separated UTF-8"
                    ) from None
                yield reader.line_num, [unicodedata.normalize("NFC", cell.strip()) for cell in cells]
    except FileNotFoundError:
        raise MisuseError(f"{path.name}: no such file", hint="name the label table with --labels") from None
    except UnicodeDecodeError:
        raise MisuseError(f"{path.name}: is not UTF-8 text", hint="export it as comma-separated UTF-8") from None
    except OSError as error:
        raise MisuseError(f"{path.name}: cannot be read ({type(error).__name__})", hint="name a CSV file that you may read") from None


def _columns(header: list[str], names: tuple[str, ...], file: str) -> tuple[dict[str, int], dict[Level, int]]:
    # The header is not quoted either: in a table without one, the first line is a patient.
    levels: dict[Level, int] = {level: header.index(level) for level in LEVELS if level in header}
    if not levels:
        hint = f"the header needs one column named {', '.join(LEVELS)}; the separator is a comma"
        raise MisuseError(f"{file}: line 1: no key column among {len(header)} columns", hint=hint)
    if len(set(header)) != len(header):
        raise MisuseError(f"{file}: line 1: two columns have the same name", hint="rename or remove one of them")
    for name in names:
        if name not in header:
            raise MisuseError(f"{file}: line 1: no column {name!r}", hint="the protocol wants this label; names are case-sensitive")
    wanted = names or tuple(column for column in header if column not in (*levels, ISSUER))
    if not wanted:
        raise MisuseError(f"{file}: line 1: no label column", hint="add one column of 0 and 1 per label")
    for name in wanted:
        try:
            TypeAdapter(Label).validate_python(name)
        except ValidationError:
            where = f"{file}: line 1: column {header.index(name) + 1}"
            raise ConfigError(f"{where}: is not a label's name", hint="letters, digits, space, - and _, a letter first") from None
    return {name: header.index(name) for name in wanted}, levels


def _agreed(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return one if one == other else CONTRADICTORY


def _cell(text: str, *, where: str) -> int | None:
    try:
        return CELLS[text]
    except KeyError:
        raise MisuseError(f"{where}: is not 0, 1 or empty", hint="leave uncertain labels empty") from None
