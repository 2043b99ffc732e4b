"""Where vectors lie between their sender and their receiver: one file each, gone as soon as the receiver has it.

Flower's own store keeps them as values in its database: the file never shrinks, each vector is written twice, and deleted ones can still be
read in it. Here the database holds the names, the trees and who waits for what; the bytes are files that can be unlinked. They are not
fsynced: after a power cut a file may be short, which counts as absent, and the message is asked for again.

Transactions take turns. SQLite lets one write at a time, and whoever comes second sleeps up to a tenth of a second before it looks again:
a round of three sites writes some thousand times from many threads, and spent most of its time asleep. This process is the only one that
opens the database, so a lock of its own wakes the next one at once.
"""

import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from fedrad_common.errors import DiskError
from fedrad_server.superlink import trees
from fedrad_server.superlink.bounds import MOST_PER_SITE, PUSHING

MOST_BYTES = 4 * 1024**3  # in all; a bound for what sites can fill, far above what rounds need


class FileObjectStore(SqlObjectStore):  # type: ignore[misc] # Flower's classes are Any to mypy
    """Flower's store of objects, with the objects' bytes beside the database."""

    def __init__(self, database: Path, folder: Path, *, most_bytes: int = MOST_BYTES, most_per_site: int = MOST_PER_SITE) -> None:
        super().__init__(str(database))
        self.folder, self.most_bytes, self.most_per_site, self.total = folder, most_bytes, most_per_site, 0
        self.turn = threading.RLock()
        self._lock = threading.Lock()  # of `total` and the next two
        self._owners: dict[str, str] = {}  # of objects that a site pushed, since this process began
        self._shares: defaultdict[str, int] = defaultdict(int)  # bytes
        self._prepared = threading.local()  # the file of the object that this thread is about to put

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Flower's, in turn. Nested ones are the same transaction."""
        with self.turn, super().session() as session:
            yield session

    def open(self) -> None:
        """Connect, and drop what a killed process left: files without a row, and uploads that were not complete."""
        self.initialize()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        known = {str(row["object_id"]) for row in self.query("SELECT object_id FROM objects WHERE is_available = 1")}
        for path in self.folder.iterdir():
            if path.name in known:
                self.total += path.stat().st_size
            else:
                path.unlink()

    @contextmanager
    def beforehand(self, object_id: str, object_content: bytes) -> Iterator[Path]:
        """Check and write an object's file; a `put` in this block only gives it its name, so that nobody waits for the disk.

        Raises:
            ValueError: not what the id says. DiskError: the store is full, or the share of the site that pushes.
        """
        if object_id != get_object_id(object_content):
            raise ValueError("the content is not what its id says")
        validate_object_content(content=object_content)
        if self.total + len(object_content) > self.most_bytes:
            raise DiskError("the store of objects is full")
        if (site := PUSHING.get()) and self._shares[site] + len(object_content) > self.most_per_site:
            raise DiskError("the store of objects: this site's share is full")
        beside = self.folder / f"{uuid.uuid4()}.tmp"
        try:
            beside.write_bytes(object_content)
            self._prepared.file = (object_id, beside)
            yield beside
        finally:
            self._prepared.file = None
            beside.unlink(missing_ok=True)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Raises NoObjectInStoreError when nobody announced it, and what `beforehand` does."""
        prepared = getattr(self._prepared, "file", None)
        if prepared is None or prepared[0] != object_id:
            with self.beforehand(object_id, object_content):
                return self.put(object_id, object_content)
        with self.session():
            claimed = self.query(
                # Its length stands in for the content: Flower tells an object that is still awaited by its emptiness.
                "UPDATE objects SET is_available = 1, content = :length WHERE object_id = :id AND is_available = 0 RETURNING object_id",
                {"id": object_id, "length": str(len(object_content)).encode()},
            )
            if claimed:
                prepared[1].replace(self._path(object_id))
                self._count(object_id, len(object_content), site=PUSHING.get())
            elif object_id not in self:
                raise NoObjectInStoreError("an object that nobody announced")
        return None

    def get(self, object_id: str) -> bytes | None:
        """None where it is unknown, empty where it is still awaited, as Flower wants it."""
        found = self.query("SELECT is_available, content FROM objects WHERE object_id = :id", {"id": object_id})
        if not found:
            return None
        if not found[0]["is_available"]:
            return b""
        try:
            content = self._path(object_id).read_bytes()
        except FileNotFoundError:
            return None
        return content if len(content) == int(found[0]["content"]) else None

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        with self._mutation_session():
            return trees.announce(self.query, run_id, object_tree)

    def get_object_tree(self, object_id: str) -> ObjectTree:
        with self.session():
            found = trees.read(self.query, object_id)
        if found is None:
            raise NoObjectInStoreError("an object that nobody announced")
        return found

    def delete(self, object_id: str) -> None:
        """It and what only it needs, unless something else needs it."""
        with self._mutation_session():
            for gone in trees.remove(self.query, object_id):
                self._unlink(gone)

    def clear(self) -> None:
        super().clear()
        for path in self.folder.iterdir():
            path.unlink()
        self.total = 0
        self._owners.clear()
        self._shares.clear()

    def _unlink(self, object_id: str) -> None:
        path = self._path(object_id)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        self._count(object_id, -size, site=self._owners.get(object_id, ""))

    def _count(self, object_id: str, size: int, *, site: str) -> None:
        with self._lock:
            self.total += size
            self._owners.pop(object_id, None)
            if site:
                self._shares[site] += size
                if size > 0:
                    self._owners[object_id] = site

    def _path(self, object_id: str) -> Path:
        if not trees.ID.fullmatch(object_id):  # it comes from a site, and must not lead elsewhere
            raise ValueError("no id of an object")
        return self.folder / object_id
