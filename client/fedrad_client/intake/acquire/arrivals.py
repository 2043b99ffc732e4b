"""What was fetched before, so that an interrupted pull goes on. Keyed hashes: the file names no series and no image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.intake.deid.keys import PseudonymKeys, mac
from fedrad_common.files import disk_errors

ARRIVALS = "arrivals.txt"  # beside the inbox's files


@dataclass
class Arrivals:
    """Read once, appended to."""

    path: Path
    key: bytes = field(repr=False)
    known: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, keys: PseudonymKeys) -> Arrivals:
        path = folder / f".{ARRIVALS}"
        known = set(path.read_text().split()) if path.is_file() else set()
        return cls(path, mac(keys.uid, b"arrivals"), known)

    def has(self, *names: str) -> bool:
        return self._hash(names) in self.known

    def add(self, *names: str) -> None:
        """Durable when this returns. Raises DiskError."""
        line = self._hash(names)
        if line in self.known:
            return
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(f"{line}\n")
                stream.flush()
                os.fsync(descriptor)
        self.known.add(line)

    def _hash(self, names: tuple[str, ...]) -> str:
        return mac(self.key, "\0".join(names).encode())[:16].hex()
