"""Which file became which: the one link back from an export, on the hospital's disk only, mode 0600."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import MisuseError
from fedrad_common.files import disk_errors, write_atomic

FORMAT: Literal["fedrad-deid-map-1"] = "fedrad-deid-map-1"


@dataclass(frozen=True)
class Row:
    """What became of one input file. Each row names its format and key, so that every line can be read alone."""

    input: str  # path below the folder that was read
    outcome: Literal["written", "set-aside"]
    sha256: str  # of the input's bytes; empty where they could not be read
    output: str | None = None  # path below the output folder
    written: str | None = None  # sha256 of the output's bytes
    code: str | None = None

    def line(self, key: str) -> bytes:
        told = {name: value for name, value in asdict(self).items() if value is not None}
        return canonical_json({"format": FORMAT, "key": key, **told}) + b"\n"


class Map:
    """Rows by input. While a run goes on they stand in a journal beside the map, so that a killed run goes on where it was."""

    def __init__(self, path: Path, *, key: str, rows: dict[str, Row]) -> None:
        self.path, self.key, self.rows = path, key, rows
        self._journal = os.open(_beside(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        for row in rows.values():
            self._append(row.line(key))

    @classmethod
    def open(cls, path: Path, *, key: str, force: bool) -> "Map":
        """The map at `path`, with what a killed run left beside it; a new one where there is none, or with `force`.

        Args:
            key: id of the project's key: another one's pseudonyms do not belong into the same map.

        Raises:
            MisuseError: another file is there, or a map of another project.
        """
        rows: dict[str, Row] = {}
        if not force:
            rows |= _read(path, key=key) or {}
            rows |= _read(_beside(path), key=key) or {}
        with disk_errors(path):
            return cls(path, key=key, rows=rows)

    def add(self, row: Row) -> None:
        self.rows[row.input] = row
        self._append(row.line(self.key))

    def close(self) -> None:
        """The whole map, sorted by input, in place of the old one."""
        os.close(self._journal)
        write_atomic(self.path, b"".join(self.rows[name].line(self.key) for name in sorted(self.rows)))
        _beside(self.path).unlink(missing_ok=True)

    def __enter__(self) -> "Map":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            os.close(self._journal)

    def _append(self, line: bytes) -> None:
        with disk_errors(self.path):
            os.write(self._journal, line)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _read(path: Path, *, key: str) -> dict[str, Row] | None:
    """Rows; a torn last line is no row. None where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    told: list[dict[str, Any]] = []
    try:
        told = [json.loads(line) for line in lines[:-1]]  # what stands behind the last line end is torn
        made = {(row.pop("format"), row.pop("key")) for row in told}
        rows = {row["input"]: Row(**row) for row in told}
    except (ValueError, KeyError, TypeError, AttributeError):
        made, rows = {("", "")}, {}
    if made - {(FORMAT, key)} or (lines[-1] and not told):
        raise MisuseError(f"--map: {path.name}: exists already, and is no map of this project", hint="name another file, or add --force")
    return rows
