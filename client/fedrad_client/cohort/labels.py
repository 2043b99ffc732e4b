"""A hospital's label table: CSV by image, series or patient, read strictly; errors name line and column, never what stands there."""

import csv
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.protocol import Label

Level = Literal["SOPInstanceUID", "SeriesInstanceUID", "PatientID"]
LEVELS: tuple[Level, ...] = get_args(Level)  # most specific first
CELLS: dict[str, int | None] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "": None}  # spreadsheets turn 1 into 1.0
ENCODING = "utf-8-sig"

Values = tuple[int | None, ...]  # one per label; None is unknown


@dataclass(frozen=True)
class LabelTable:
    """What is known, by key. Holds identifiers: lives in memory only and is never printed."""

    names: tuple[str, ...]
    rows: dict[tuple[Level, str], Values] = field(repr=False)

    def find(self, keys: dict[Level, str]) -> tuple[Values, tuple[tuple[Level, str], ...]]:
        """One image's labels, each from the most specific row that has it, and the keys of all rows that speak of the image."""
        used = tuple((level, keys[level]) for level in LEVELS if (level, keys.get(level, "")) in self.rows)
        found = [self.rows[key] for key in used]
        values = tuple(next((row[i] for row in found if row[i] is not None), None) for i in range(len(self.names)))
        return values, used


def read_labels(path: Path, names: tuple[str, ...] = ()) -> LabelTable:
    """Read a CSV with a header: key columns of the three names, and one column of 0, 1 or nothing per label.

    A row is keyed by the most specific key that it fills; other columns are ignored. Without `names`, every other column is a label.

    Raises:
        MisuseError: no such file, no rows, a missing column, a malformed row, or rows that contradict each other.
    """
    rows: dict[tuple[Level, str], Values] = {}
    contradictions = 0
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
        key = next(((level, cells[column]) for level, column in levels.items() if cells[column]), None)
        if key is None:
            raise MisuseError(f"{path.name}: line {line}: no key", hint=f"fill one of {', '.join(levels)}")
        values = tuple(_cell(cells[column], where=f"{path.name}: line {line}: column {column + 1}") for column in columns.values())
        known = rows.get(key, values)
        contradictions += any(None not in pair and pair[0] != pair[1] for pair in zip(known, values, strict=True))
        rows[key] = tuple(new if old is None else old for old, new in zip(known, values, strict=True))
    if contradictions:
        raise MisuseError(
            f"{path.name}: {contradictions} rows contradict an earlier row with the same key",
            hint="keep one row a key, or leave the label empty where it is not known",
        )
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
    wanted = names or tuple(column for column in header if column not in levels)
    if not wanted:
        raise MisuseError(f"{file}: line 1: no label column", hint="add one column of 0 and 1 per label")
    for name in wanted:
        try:
            TypeAdapter(Label).validate_python(name)
        except ValidationError:
            where = f"{file}: line 1: column {header.index(name) + 1}"
            raise ConfigError(f"{where}: is not a label's name", hint="letters, digits, space, - and _, a letter first") from None
    return {name: header.index(name) for name in wanted}, levels


def _cell(text: str, *, where: str) -> int | None:
    try:
        return CELLS[text]
    except KeyError:
        raise MisuseError(f"{where}: is not 0, 1 or empty", hint="leave uncertain labels empty") from None
