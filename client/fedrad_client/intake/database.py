"""The database of states: thrown away where it is damaged or of another version, for it says nothing that the files would not say again."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from fedrad_common.errors import DiskError, FormatError

_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS files (
    content BLOB NOT NULL,      -- SHA-256 of the file
    recipe  BLOB NOT NULL,      -- what it was processed for
    ingest  INTEGER NOT NULL,   -- the last one that met it
    state   TEXT NOT NULL,
    code    TEXT,               -- why it is quarantined
    element TEXT,               -- DICOM keyword of the element at fault
    patient TEXT,               -- pseudonym
    outcome TEXT,               -- answers.py; NULL: to be processed again
    place INTEGER, size INTEGER, digest BLOB,  -- of its pixels in the recipe's file
    PRIMARY KEY (content, recipe)
) WITHOUT ROWID
"""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_SHMSIZE)


def connect(path: Path) -> sqlite3.Connection:
    """For reading and writing; mode 0600. Raises DiskError: no space left."""
    make(path)
    with disk_full(path.name):
        database = sqlite3.connect(path)
        try:
            if _sound(database):
                return _prepared(database)
        except BaseException:
            database.close()
            raise
        database.close()
    for part in path.parent.glob(f"{path.name}*"):  # a log of the old one would be played back into the new one
        part.unlink()
    return connect(path)


def _sound(database: sqlite3.Connection) -> bool:
    """An empty one is, too."""
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return not tables or (version == _VERSION and database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:  # of the disk, or a lock
        raise
    except sqlite3.DatabaseError:
        return False


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA secure_delete = ON")
    database.execute(f"PRAGMA user_version = {_VERSION}")
    database.execute(_TABLE)
    database.execute("CREATE INDEX IF NOT EXISTS by_patient ON files (patient)")
    return database


@contextlib.contextmanager
def looking(path: Path) -> Iterator[sqlite3.Connection]:
    """For reading only, while an ingest may write. Raises FormatError: it is damaged or of another version."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        try:
            yield database
        except sqlite3.DatabaseError:
            raise FormatError(f"{path.name}: is damaged or of another version", hint="the next ingest makes it anew") from None


def make(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def disk_full(name: str) -> Iterator[None]:
    """Raises DiskError where the database has no space left."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in _FULL:
            raise DiskError(f"{name}: no space left on the disk", hint="free space and run the same command again; it goes on") from None
        raise
