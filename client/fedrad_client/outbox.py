"""Sealed answers on disk, by the question they answer: once sealed, the same question gets the same bytes, for free."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from fedrad_common.canonical import sha256_hex
from fedrad_common.config import parse_json
from fedrad_common.errors import FormatError
from fedrad_common.files import write_atomic
from fedrad_common.packing import Vector, from_bytes, to_bytes
from fedrad_common.records import Answer, Envelope, Signed


@dataclass(frozen=True)
class Outbox:
    directory: Path

    def put(self, question: str, envelope: Signed, vector: Vector) -> None:
        """Durable when this returns. The first line is the signed envelope, the rest the vector's bytes."""
        dtype = envelope.peek(Envelope, what="outbox").dtype
        write_atomic(self._path(question), envelope.model_dump_json().encode() + b"\n" + to_bytes(vector, dtype))

    def get(self, question: str) -> Answer | None:
        """The sealed answer, or None.

        Raises:
            FormatError: the stored bytes are not those that the envelope names.
        """
        try:
            content = self._path(question).read_bytes()
        except FileNotFoundError:
            return None
        header, _, payload = content.partition(b"\n")
        signed = parse_json(header, Signed, name="outbox")
        envelope = signed.peek(Envelope, what="outbox")
        if sha256_hex(payload) != envelope.payload:
            raise FormatError("outbox: a sealed answer is damaged", hint="nothing was sent; restore the outbox, or answer the next round")
        return Answer(envelope=signed, vector=from_bytes(payload, length=envelope.length, what="outbox", dtype=envelope.dtype))

    def drop(self, question: str) -> None:
        """Forget an answer. One that cannot be deleted stays until the next time."""
        with contextlib.suppress(OSError):
            self._path(question).unlink(missing_ok=True)

    def _path(self, question: str) -> Path:
        return self.directory / f"{question}.answer"
