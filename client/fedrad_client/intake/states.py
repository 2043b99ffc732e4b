"""How far every file came, and what was made of it: an ingest that was killed goes on, and nothing is decoded twice for one recipe.

A row is found by the SHA-256 of the file and by the recipe. It holds pseudonyms and fields of the allow-list; the pixels lie beside it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from fedrad_client.cohort.draft import LOCK
from fedrad_client.intake.burnin.gate import SEARCH
from fedrad_client.intake.codes import Code
from fedrad_client.intake.database import connect, disk_full, looking, make
from fedrad_client.intake.deid.keys import mac
from fedrad_client.intake.deid.rules import RULES
from fedrad_client.intake.process import Recipe, State
from fedrad_common.canonical import canonical_json
from fedrad_common.errors import BusyError, DiskError
from fedrad_common.files import disk_errors, exclusive_lock

FILE, PIXELS = "states.sqlite", "read"  # and a folder of pixels, one file a recipe
RECIPES = 4  # of which something is kept
# Looked at again each time: another label table, merge or machine may change their lot.
AGAIN: frozenset[Code] = frozenset(
    ("unlabelled", "contradictory", "withdrawn", "two-parts", "internal", "too-slow", "burned-in", "needs-mask", "rejected")
)
_AT_ONCE = 64  # rows; as many are lost when the process is killed
_PUT = """
INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (content, recipe) DO UPDATE SET ingest = excluded.ingest, state = excluded.state, code = excluded.code,
    element = excluded.element, patient = excluded.patient, outcome = excluded.outcome, place = excluded.place, size = excluded.size,
    digest = excluded.digest
"""
_COUNT = """
SELECT state, code, count(*) FROM (SELECT state, code, max(ingest) FROM files GROUP BY content) GROUP BY state, code ORDER BY state, code
"""


def recipe_id(recipe: Recipe) -> bytes:
    """16 bytes; another for whatever changes what one file becomes, but for labels, merges and withdrawals, which are looked at anew."""
    geometry, keys = recipe.geometry, recipe.keys
    made_by = {
        "version": version("fedrad"),
        "rules": [[rule.keyword, rule.keeps] for rule in RULES],
        "profile": geometry.profile.hash,
        "size": [geometry.depth, geometry.height, geometry.width],
        "spacing": geometry.spacing,
        "keys": [keys.id, mac(keys.split, b"states").hex()],
        "fraction": recipe.validation_fraction,
        "burn": [SEARCH, recipe.burn.id],
    }
    return hashlib.sha256(canonical_json(made_by)).digest()[:16]


@dataclass(frozen=True)
class Row:
    """What is known of a file that was processed before."""

    head: dict[str, Any]
    place: int
    size: int
    digest: bytes | None


@dataclass
class States:
    """Open for one ingest; `pixels` is the recipe's file in `folder`."""

    folder: Path
    database: sqlite3.Connection
    recipe: bytes
    pixels: BinaryIO
    ingest: int
    waiting: list[tuple[Any, ...]] = field(default_factory=list)

    def seen(self) -> frozenset[bytes]:
        """SHA-256 of the files that need not be processed again for this recipe."""
        rows = self.database.execute("SELECT content FROM files WHERE recipe = ? AND outcome IS NOT NULL", (self.recipe,))
        return frozenset(content for (content,) in rows)

    def find(self, content: str) -> Row | None:
        row = self.database.execute(
            "SELECT outcome, place, size, digest FROM files WHERE content = ? AND recipe = ?", (bytes.fromhex(content), self.recipe)
        ).fetchone()
        return None if row is None or row[0] is None else Row(json.loads(row[0]), row[1] or 0, row[2] or 0, row[3])

    def body(self, row: Row) -> bytes | None:
        """None where the pixels are not what they were: after a power cut, the rows may be ahead of them."""
        if not row.size:
            return b""
        found = os.pread(self.pixels.fileno(), row.size, row.place)
        return found if hashlib.sha256(found).digest() == row.digest else None

    def append(self, body: bytes) -> int:
        """Returns its place."""
        place = self.pixels.seek(0, os.SEEK_END)
        self.pixels.write(body)
        return place

    def put(self, content: str, head: dict[str, Any], *, place: int, body: bytes) -> None:
        code, record = head["code"], head["record"]
        kept = json.dumps(head) if code not in AGAIN else None
        patient = None if kept is None else record["patient"] if record else head["named"]
        digest = hashlib.sha256(body).digest() if body else None
        state = "quarantined" if code else "normalised"
        key = bytes.fromhex(content), self.recipe, self.ingest
        self.waiting.append((*key, state, code, head["element"], patient, kept, place, len(body), digest))
        if len(self.waiting) >= _AT_ONCE:
            self.commit()

    def commit(self) -> None:
        self.pixels.flush()
        with disk_full(FILE):
            self.database.executemany(_PUT, self.waiting)
            self.database.commit()
        self.waiting.clear()

    def settle(self, fates: Iterable[tuple[str, State, Code | None]]) -> None:
        """What became of each file in the end."""
        self.commit()
        rows = ((self.ingest, state, code, bytes.fromhex(content), self.recipe) for content, state, code in fates)
        with disk_full(FILE):
            self.database.executemany("UPDATE files SET ingest = ?, state = ?, code = ? WHERE content = ? AND recipe = ?", rows)
            self.database.commit()

    def forget(self, patients: Collection[str]) -> None:
        _forget(self.database, self.folder, patients)


def erase(directory: Path, patients: Collection[str]) -> None:
    """Nothing of these patients stays among what ingests have read. While one runs, nothing happens: the next one does the same."""
    if not (directory / FILE).exists():
        return
    with (
        contextlib.suppress(BusyError),
        exclusive_lock(directory / LOCK, what="the cohort"),
        contextlib.closing(connect(directory / FILE)) as database,
    ):
        _forget(database, directory / PIXELS, patients)


def _forget(database: sqlite3.Connection, folder: Path, patients: Collection[str]) -> None:
    """Neither the rows nor the pixels of any recipe."""
    for patient in patients:
        rows = database.execute("SELECT recipe, place, size FROM files WHERE patient = ? AND size > 0", (patient,)).fetchall()
        for recipe, place, size in rows:
            path = pixels_file(folder, recipe)
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as stream:
                stream.seek(place)
                stream.write(bytes(size))
        with disk_full(FILE):
            database.execute(
                "UPDATE files SET state = 'quarantined', code = 'withdrawn', element = NULL, patient = NULL, outcome = NULL, size = 0, "
                "digest = NULL WHERE patient = ?",
                (patient,),
            )
            database.commit()


def _drop_old(database: sqlite3.Connection, folder: Path, recipe: bytes) -> None:
    """What no recent ingest was for is read again when it is wanted again: nothing is kept for ever."""
    newest = [found for (found,) in database.execute("SELECT recipe FROM files GROUP BY recipe ORDER BY max(ingest) DESC")]
    for old in [found for found in newest if found != recipe][RECIPES - 1 :]:
        pixels_file(folder, old).unlink(missing_ok=True)
        with disk_full(FILE):
            database.execute("DELETE FROM files WHERE recipe = ?", (old,))
            database.commit()


def pixels_file(folder: Path, recipe: bytes) -> Path:
    return folder / f"{recipe.hex()}.pixels"


@contextlib.contextmanager
def open_states(directory: Path, recipe: bytes) -> Iterator[States]:
    """What is kept of earlier ingests; of the first one nothing, where it could use no file at all.

    Raises:
        DiskError: no space left.
    """
    folder, existed = directory / PIXELS, (directory / FILE).exists()
    with disk_errors(directory / FILE):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            make(pixels_file(folder, recipe))
            with pixels_file(folder, recipe).open("r+b") as pixels, contextlib.closing(connect(directory / FILE)) as database:
                (last,) = database.execute("SELECT coalesce(max(ingest), 0) FROM files").fetchone()
                if not last:  # without rows, nobody could say whose the pixels of other recipes are
                    _clear(folder, but=pixels_file(folder, recipe))
                _match(database, pixels, recipe)
                _drop_old(database, folder, recipe)
                states = States(folder, database, recipe, pixels, last + 1)
                try:
                    yield states
                finally:
                    with contextlib.suppress(DiskError, OSError):  # what was read so far is worth keeping, whatever ended the ingest
                        states.commit()
        finally:
            if not existed and not _size(pixels_file(folder, recipe)):
                shutil.rmtree(folder, ignore_errors=True)
                for path in directory.glob(f"{FILE}*"):
                    path.unlink()


def _match(database: sqlite3.Connection, pixels: BinaryIO, recipe: bytes) -> None:
    """Leave no row whose pixels are lost, and no pixels of an ingest that ended before it could say whose they are."""
    with disk_full(FILE):
        database.execute(
            "UPDATE files SET outcome = NULL, size = 0, digest = NULL WHERE recipe = ? AND size > 0 AND place + size > ?",
            (recipe, os.fstat(pixels.fileno()).st_size),
        )
        database.commit()
    (end,) = database.execute("SELECT coalesce(max(place + size), 0) FROM files WHERE recipe = ? AND size > 0", (recipe,)).fetchone()
    pixels.truncate(end)


def _clear(folder: Path, *, but: Path) -> None:
    for path in folder.iterdir():
        if path != but:
            path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def counts(directory: Path) -> Counter[tuple[State, Code | None]]:
    """How many files are in each state, by their last ingest; of quarantined ones by code. Empty before the first.

    Raises:
        FormatError: the database is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return Counter()
    with looking(path) as database:
        return Counter({(state, code): count for state, code, count in database.execute(_COUNT)})


def contents(directory: Path) -> frozenset[str]:
    """SHA-256 of all files that any ingest met, in hexadecimal digits."""
    path = directory / FILE
    if not path.exists():
        return frozenset()
    with looking(path) as database:
        return frozenset(content.hex() for (content,) in database.execute("SELECT DISTINCT content FROM files"))
