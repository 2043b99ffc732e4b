"""Where received files lie until an ingest reads them: each once, under the hash of its content, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.intake.reading.content import MAX_FILE_BYTES
from fedrad_common.errors import DiskError, FedradError
from fedrad_common.files import disk_errors, fsync_directory

INBOX = "inbox"  # in the site's home
LEAST_FREE = 1 << 30  # bytes that stay free for the logs and the cohort


@dataclass
class Inbox:
    """Of one site. Several threads may put files at once."""

    folder: Path
    received: int = 0  # since this object was made
    known: int = 0  # of them, already there
    _checked: int = field(default=0, repr=False)

    @classmethod
    def of(cls, home: Path) -> Inbox:
        """Makes the folder, mode 0700, and sweeps out what a killed process left half-written. Raises DiskError."""
        folder = home / INBOX
        with disk_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            for path in folder.glob(".*.tmp"):
                path.unlink()
        return cls(folder)

    def put(self, content: bytes) -> bool:
        """Durable when this returns; mode 0600. False where the same bytes were there already.

        Raises:
            DiskError: no space left, or hardly any; nothing was written.
            FedradError: larger than any file that is read.
        """
        if len(content) > MAX_FILE_BYTES:
            raise FedradError(
                "inbox: a file is larger than any that is read", hint="it was not kept; split it, or leave it out of the query"
            )
        name = f"{hashlib.sha256(content).hexdigest()}.dcm"
        self.received += 1
        if (self.folder / name).exists():
            self.known += 1
            return False
        self._leave_room()
        beside = self.folder / f".{secrets.token_hex(8)}.tmp"
        with disk_errors(self.folder):
            try:
                descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fdatasync(descriptor)
                beside.rename(self.folder / name)
                fsync_directory(self.folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
                raise
        return True

    def _leave_room(self) -> None:
        """Looked at every few files."""
        if self._checked % 32 == 0:
            free = os.statvfs(self.folder)
            if free.f_bavail * free.f_frsize < LEAST_FREE:
                raise DiskError("inbox: less than 1 GiB is free on the disk", hint="free space, or ingest and delete what was received")
        self._checked += 1
