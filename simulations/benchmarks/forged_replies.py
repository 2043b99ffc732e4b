"""Replies that a coordinator must not count: older ones, other runs', other sites', edited ones, stale ones that a site signs anew.

Each entry of `REPLIES` makes one from the genuine reply that is on its way, or says that there is none to make yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from disturbed_run import Parcel, Reply, content_of, reply_with  # type: ignore[import-not-found] # beside this one
from forged_orders import edited, mutated, resigned  # type: ignore[import-not-found]

from fedrad_common import messages
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Dtype, Vector, vector_hash
from fedrad_common.records import Answer, Envelope, Order, Signed, sign

# isort: split
from flwr.app import Array, ArrayRecord

Given = tuple[Signed, Vector, Dtype]  # an envelope and a vector that come together, and the vector's type on the wire


@dataclass(frozen=True)
class ReplyFacts:
    """What whoever sits on the wire has at hand, and the site's own key for what a confused site might sign."""

    reply: Reply
    rng: np.random.Generator
    key: SigningKey
    stranger: SigningKey
    past: Sequence[tuple[Order, Answer]]  # of this site, in this run
    finished: Sequence[tuple[Order, Answer]]  # of this site, in a run that is over
    others: Sequence[Answer]  # of other sites, to this very order

    @property
    def signed(self) -> Signed:
        envelope: Signed | None = self.reply.answer.envelope
        assert envelope is not None
        return envelope

    @property
    def vector(self) -> Vector:
        vector: Vector | None = self.reply.answer.vector
        assert vector is not None
        return vector

    @property
    def envelope(self) -> Envelope:
        return self.signed.peek(Envelope, what="envelope")

    def older(self) -> Answer | None:
        """A reply of this site to another order than this one, an epoch apart or more."""
        this = self.reply.order.question
        return self.drawn([answer for order, answer in self.past if order.question != this])

    def drawn(self, among: Sequence[Answer]) -> Answer | None:
        return among[int(self.rng.integers(len(among)))] if among else None

    def as_is(self, answer: Answer | None) -> Given | None:
        if answer is None or answer.envelope is None or answer.vector is None:
            return None
        return answer.envelope, answer.vector, "float32"

    def sealed(self, **changes: object) -> Given:
        """Another vector, in an envelope that the site itself signs."""
        vector = np.rint(self.vector + 1) if self.envelope.kind == "evaluate" else self.vector + np.float32(1)
        fields = {**self.envelope.model_dump(), "payload": vector_hash(vector), **changes}
        return sign(Envelope.model_validate(fields), self.key), vector, "float32"


def stale(facts: ReplyFacts, *, only: Sequence[str] = ()) -> Given | None:
    """Fields by which an answer belongs to another order: one of them is not this order's."""
    envelope, run = facts.envelope, facts.reply.run
    wrong: dict[str, object] = {
        "run": "another-run", "protocol": "b" * 64, "model": "b" * 64, "manifest": "b" * 64, "round": envelope.round + 1,
        "kind": mutated(envelope.kind, facts.rng), "epoch": facts.reply.order.epoch + 1, "site": "dresden", "length": envelope.length + 1,
        "dtype": "float16", "payload": "b" * 64, "sequence": run.sequences.get(envelope.site, 0) or 2**63 - 1,
    }  # fmt: skip
    if envelope.site in run.declared:
        wrong["declared_size"] = envelope.declared_size + 1
    name = str(facts.rng.choice(sorted(set(wrong) & set(only or wrong))))
    return facts.sealed(**{name: wrong[name]})


def _unlike(facts: ReplyFacts) -> Given | None:
    vector = facts.vector.copy()
    vector[int(facts.rng.integers(vector.size))] += np.float32(1)
    return facts.signed, vector, "float32"


def _older_vector(facts: ReplyFacts) -> Given | None:
    older = facts.older()
    return None if older is None or older.vector is None else (facts.signed, older.vector, "float32")


def _older_envelope(facts: ReplyFacts) -> Given | None:
    older = facts.older()
    return None if older is None or older.envelope is None else (older.envelope, facts.vector, "float32")


def _older_signature(facts: ReplyFacts) -> Given | None:
    older = facts.older()
    if older is None or older.envelope is None:
        return None
    return facts.signed.model_copy(update={"signature": older.envelope.signature}), facts.vector, "float32"


def _relabelled(facts: ReplyFacts) -> Parcel:
    """The same bytes, said to be of another type."""
    content = content_of(messages.ANSWER, facts.signed, facts.vector, "float32")
    array = content[messages.VECTOR][messages.VECTOR]
    other = Array(dtype="float16", shape=array.shape, stype=messages.SERIALIZATIONS["float16"], data=array.data)
    content[messages.VECTOR] = ArrayRecord({messages.VECTOR: other})
    return reply_with(facts.reply.message, content)


def flipped(parcel: Parcel, rng: np.random.Generator) -> Parcel:
    """One bit of one object, as a bad cable or a clumsy hand would; what names the object is left as it was."""
    objects = dict(parcel.objects)
    number = sorted(objects)[int(rng.integers(len(objects)))]
    content = bytearray(objects[number])
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    objects[number] = bytes(content)
    return replace(parcel, objects=objects)


def _flip(facts: ReplyFacts) -> Parcel:
    return flipped(reply_with(facts.reply.message, content_of(messages.ANSWER, facts.signed, facts.vector, "float32")), facts.rng)


Forge = Callable[[ReplyFacts], Given | Parcel | None]
SECOND = "a second answer, signed by the site"
STALE = "a field wrong, signed by the site"
REPLIES: dict[str, Forge] = {
    "a reply to an earlier order": lambda f: f.as_is(f.older()),
    "a reply of the finished run": lambda f: f.as_is(f.drawn([answer for _, answer in f.finished])),
    "the reply of another site": lambda f: f.as_is(f.drawn(f.others)),
    "the reply a second time": lambda f: f.as_is(f.reply.answer),
    "a field edited": lambda f: (edited(f.signed, f.rng), f.vector, "float32"),
    "a field edited, signed by another key": lambda f: (resigned(edited(f.signed, f.rng), f.stranger), f.vector, "float32"),
    STALE: stale,
    SECOND: lambda f: f.sealed(sequence=f.envelope.sequence + 1000),
    "the vector of an earlier reply": _older_vector,
    "the envelope of an earlier reply": _older_envelope,
    "the signature of an earlier reply": _older_signature,
    "a number of the vector changed": _unlike,
    "the vector's type changed": _relabelled,
    "a bit flipped on the way": _flip,
}
LATER = frozenset({"the reply a second time", SECOND})  # before the genuine one, they would be it
