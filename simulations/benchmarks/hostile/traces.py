"""What a request may not change: every row of Flower's database and every file of the coordinator, but for the server's own upkeep."""

import contextlib
import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from servers import Place  # type: ignore[import-not-found] # beside this one

# Rewritten by that upkeep, a while later: who was heard last, until when requests were signed; SQLite's bookkeeping; locks.
_OWN = {"contacts.json", "signed.json", "state.db", "state.db-wal", "state.db-shm", "lock", "ready.json", "ports.json"}


@dataclass(frozen=True)
class Trace:
    """Digests by table and by file."""

    parts: dict[str, str]

    def differs(self, other: "Trace") -> list[str]:
        return sorted(name for name in self.parts.keys() | other.parts.keys() if self.parts.get(name) != other.parts.get(name))


def look(place: Place) -> Trace:
    parts = {f"table {name}": digest for name, digest in _tables(place.database).items()}
    if not place.stock:
        root = place.home.directory
        files = [path for path in root.rglob("*") if path.is_file() and path.name not in _OWN and not path.name.startswith(".")]
        parts |= {f"file {path.relative_to(root)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return Trace(parts)


def _tables(database: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: hashlib.sha256(repr(opened.execute(f"SELECT * FROM {name}").fetchall()).encode()).hexdigest() for name in names}
