"""Two Patient IDs of one person: the site's merge table, beside the generations, by pseudonyms (privacy.md: a patient is one identity).

A generation made before the merge holds the person twice, so its readers leave the other ID's images out from then on, as they do with
patients who withdrew; the next ingest brings them back under the one pseudonym. Whose IDs had come to stand in training and in validation
is left out of both for good: nobody moves from one to the other.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedrad_common.canonical import canonical_json
from fedrad_common.chain import Entry
from fedrad_common.errors import FormatError
from fedrad_common.files import make_folder, write_atomic

MERGED = "merged.jsonl"
FORMAT = "fedrad-merged-1"


@dataclass(frozen=True)
class Merge:
    """One ID that is somebody else's, too."""

    alias: str  # its pseudonym, never used any more
    person: str  # the pseudonym that stays
    apart: bool  # the person stood in training and in validation
    sealed: str = field(repr=False)  # the identity that stays, encrypted under the site's key for this table


@dataclass(frozen=True)
class Table:
    key: str | None = None  # id of the pseudonym key; None before the first merge
    merges: tuple[Merge, ...] = ()

    @property
    def left_out(self) -> frozenset[str]:
        """Pseudonyms that no reader of any generation takes."""
        return frozenset(row.alias for row in self.merges) | frozenset(row.person for row in self.merges if row.apart)


def read_table(directory: Path) -> Table:
    """The table of the cohort in `directory`, empty where there is none.

    Raises:
        FormatError: it is damaged; then nobody knows who is one person, and nothing is read.
    """
    try:
        content = (directory / MERGED).read_bytes()
    except FileNotFoundError:
        return Table()
    try:
        head, *lines = map(json.loads, content.splitlines())
        rows = tuple(Merge(**line) for line in lines)
        if head["format"] == FORMAT and head["merges"] == len(rows) == len({row.alias for row in rows}):
            return Table(str(head["key"]), rows)
    except (ValueError, KeyError, TypeError):
        pass
    raise FormatError(f"cohort: {MERGED} is damaged or of another version", hint="restore it from the backup: it says who is one person")


def write_table(directory: Path, table: Table) -> None:
    """Durable when this returns; mode 0600. Sorted, so that the order says nothing about who was merged when."""
    head = {"format": FORMAT, "key": table.key, "merges": len(table.merges)}
    rows = sorted(table.merges, key=lambda row: row.alias)
    make_folder(directory)
    write_atomic(directory / MERGED, b"".join(canonical_json(line) + b"\n" for line in (head, *map(asdict, rows))))


def check_merges(directory: Path, log: Iterable[Entry]) -> None:
    """Refuse where the table is missing or shorter than the audit log says, as with a cohort folder restored from before a merge.

    Raises:
        FormatError: one person could count as two.
    """
    listed = max((entry.body["listed"] for entry in log if entry.type == "merge"), default=0)
    missing = listed - len(read_table(directory).merges)
    if missing > 0:
        raise FormatError(
            f"cohort: {MERGED} lacks {missing} of {listed} merged ids",
            hint="restore it from the backup, or merge them again; nothing was ingested or answered",
        )
