"""A site of the roster whom a benchmark plays: it has a key, and says what it likes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from disturbed_run import Parcel, content_of, reply_with  # type: ignore[import-not-found] # beside this one

from fedrad_common import messages
from fedrad_common.canonical import sha256_hex
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Dtype, Vector, rounded, to_bytes
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Asked, Order, Signed, dtype_of

# isort: split
from flwr.app import Message, RecordDict

SITE, SIZE = "mallory", 80  # its declared size


@dataclass(frozen=True)
class Guest:
    """A site's key and what an answer of it would be, were it honest."""

    key: SigningKey
    protocol: TrainingProtocol
    message: Message
    rng: np.random.Generator
    sequence: int

    @property
    def asked(self) -> Asked:
        return messages.read_order(self.message.content)

    @property
    def order(self) -> Order:
        return self.asked.order.peek(Order, what="order")

    @property
    def trains(self) -> bool:
        return self.order.kind == "train"

    @property
    def dtype(self) -> Dtype:
        return dtype_of(self.order.kind, self.protocol)

    def vector(self) -> Vector:
        drawn = self.rng.normal(size=64).astype(np.float32)
        return rounded(drawn, self.dtype) if self.trains else np.rint(3 * drawn)

    def sealed(self, vector: Vector, changes: Mapping[str, object], *, wire: Dtype | None = None) -> Signed:
        """`changes` replace fields of the envelope, however absurd, before it is signed."""
        order, dtype = self.order, wire or self.dtype
        privacy = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 2, "delta": 1e-3, "marked": False}
        body: dict[str, object] = {
            "format": "fedrad-envelope-2", "site": SITE, "run": order.run, "epoch": order.epoch, "round": order.round, "kind": order.kind,
            "sequence": self.sequence, "protocol": order.protocol, "model": order.model,
            "manifest": self.asked.evidence.manifests[-1].digest, "dtype": dtype, "length": vector.size,
            "payload": sha256_hex(to_bytes(vector, dtype)), "declared_size": SIZE, "privacy": privacy,
            "ledger": "a" * 64, "audit": "b" * 64,
        }  # fmt: skip
        return self.signed(json.dumps({key: value for key, value in {**body, **changes}.items() if value is not ...}))

    def signed(self, body: str) -> Signed:
        return Signed(body=body, signature=self.key.sign(body.encode()).hex())

    def content(
        self, vector: Vector | None = None, *, wire: Dtype | None = None, changes: Mapping[str, object] | None = None
    ) -> RecordDict:  # fmt: skip
        vector = self.vector() if vector is None else vector
        return content_of(messages.ANSWER, self.sealed(vector, changes or {}, wire=wire), vector, wire or self.dtype)

    def whole(self, vector: Vector | None = None, *, wire: Dtype | None = None) -> Parcel:
        return reply_with(self.message, self.content(vector, wire=wire))

    def lying(self, **changes: object) -> Parcel:
        return reply_with(self.message, self.content(None, changes=changes))

    def one_of(self, *values: object) -> object:
        return values[int(self.rng.integers(len(values)))]
