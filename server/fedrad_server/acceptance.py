"""Everything that one answer must fit before a byte of it is stored. One bad site cannot spoil a run: it gets a code, the others go on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fedrad_common.errors import FormatError
from fedrad_common.files import write_atomic
from fedrad_common.identity import PublicKey
from fedrad_common.packing import Vector, holds, vector_hash, wire_bytes
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Answer, Envelope, Kind, Order, Signed, dtype_of
from fedrad_server.layout import vector_file, write_signed

RejectionCode = Literal[
    "unknown-site",  # not in the run's roster
    "malformed",  # neither an envelope with a vector nor a refusal, or no envelope of this format
    "signature",  # not signed by the key that the roster holds for the site
    "site",  # signed well, but for another site's name
    "run",
    "protocol",
    "late",  # to an order that is closed
    "round",  # to an order that was never given
    "epoch",  # made in an epoch that has not begun
    "model",  # to another model than the one that was sent
    "manifest",  # made by a site that was shown another past of the run
    "duplicate",  # the very envelope that is stored already: harmless
    "repeated",  # a second, different answer to one order
    "sequence",  # not newer than the site's last one: replayed
    "declared-size",  # the size, hence the weight, changed within the run
    "length",
    "dtype",
    "payload",  # other bytes than those signed
    "non-finite",
    "norm",
    "histogram",  # an evaluation that holds anything but whole numbers in range
]
REJECTION_CODES: tuple[RejectionCode, ...] = get_args(RejectionCode)

_PHASES: dict[Kind, int] = {"train": 0, "evaluate": 1}  # within a round, in this order
_LARGEST_COUNT = 2.0**24  # beyond it float32 does not hold every whole number
_LARGEST_NOISE = 1e4  # of a histogram cell, in patients: more would drown every other site's
_SPREAD = 10  # standard deviations that the sum of a noised histogram may stray
_LARGEST_SIZE = 10**9  # patients; a weight of 400 digits would not even be a float


@dataclass(frozen=True)
class Question:
    """One order, and what is known of the sites when its answers come in."""

    order: Order
    manifest: str  # digest of the one that the order builds on
    protocol: TrainingProtocol
    keys: Mapping[str, PublicKey]
    sequences: Mapping[str, int] = field(default_factory=dict)  # the last accepted one of each site
    declared: Mapping[str, int] = field(default_factory=dict)  # the size that each site has stated in this run
    accepted: Mapping[str, str] = field(default_factory=dict)  # stored answers to this order: digest of the envelope by site

    @property
    def length(self) -> int:
        """Of the answer's vector, in numbers."""
        if self.order.kind == "train":
            return self.order.length
        return len(self.protocol.task.labels) * 2 * self.protocol.evaluation.bins


def norm_bound(protocol: TrainingProtocol, length: int) -> float:
    """The largest L2 norm that an update may have: a sanity bound on overflow and blunder, no defence against poisoning.

    A local step moves a parameter by about the learning rate times the clip norm; a round of such steps, all in one direction and
    with momentum, times 100 for noise and for gradients that nobody clips. Never less than 100 a parameter.
    """
    training, privacy = protocol.training, protocol.privacy
    reach = training.learning_rate * privacy.steps_per_round / (1 - training.momentum)
    return 100 * max(1.0, reach * max(1.0, privacy.clip_norm)) * math.sqrt(length)


def check(site: str, answer: Answer, question: Question) -> Envelope | RejectionCode:
    """The verified envelope, or why the answer is not accepted. `site` is who the transport says it is."""
    if site not in question.keys:
        return "unknown-site"
    if answer.envelope is None or answer.vector is None or answer.refusal is not None:
        return "malformed"
    envelope = _authentic(answer.envelope, question.keys[site])
    if not isinstance(envelope, Envelope):
        return envelope
    if envelope.site != site:
        return "site"
    if question.accepted.get(site) == answer.envelope.digest and vector_hash(answer.vector, envelope.dtype) == envelope.payload:
        return "duplicate"
    return next((code for code, fits in CHECKS if not fits(envelope, answer.vector, question)), envelope)


def store(folder: Path, answer: Answer, envelope: Envelope) -> None:
    """The vector as it was signed, then the envelope: once SITE.json is there, the answer is accepted, for good."""
    assert answer.envelope is not None
    assert answer.vector is not None
    write_atomic(vector_file(folder, envelope), wire_bytes(answer.vector, envelope.dtype))
    write_signed(folder / f"{envelope.site}.json", answer.envelope)


def _authentic(signed: Signed, key: PublicKey) -> Envelope | RejectionCode:
    try:
        key.verify(signed.body.encode(), bytes.fromhex(signed.signature), what="envelope")
    except (FormatError, ValueError):
        return "signature"
    try:
        return signed.peek(Envelope, what="envelope")
    except FormatError:
        return "malformed"


Check = Callable[[Envelope, Vector, Question], bool]


def _phase(record: Envelope | Order) -> tuple[int, int]:
    return record.round, _PHASES[record.kind]


def _is_finite(envelope: Envelope, vector: Vector, question: Question) -> bool:
    del envelope, question
    return bool(np.isfinite(vector).all())


def _is_short(envelope: Envelope, vector: Vector, question: Question) -> bool:
    del envelope
    if question.order.kind != "train":
        return True
    return math.sqrt(np.einsum("i,i->", vector, vector, dtype=np.float64)) <= norm_bound(question.protocol, vector.size)


def _counts(envelope: Envelope, vector: Vector, question: Question) -> bool:
    """Noised counts may be negative; half patients there are none, and no more than were declared, give or take the stated noise."""
    if question.order.kind != "evaluate":
        return True
    noise = envelope.privacy.noise_multiplier
    most = len(question.protocol.task.labels) * envelope.declared_size + _SPREAD * noise * math.sqrt(vector.size)
    believable = noise <= _LARGEST_NOISE and bool((np.abs(vector) <= _LARGEST_COUNT).all())
    return believable and abs(float(vector.sum(dtype=np.float64))) <= most and bool((vector == np.rint(vector)).all())


# In this order: who asks whom first, then what is cheap, and the vector's bytes last. The first that does not hold gives the code.
CHECKS: tuple[tuple[RejectionCode, Check], ...] = (
    ("run", lambda e, v, q: e.run == q.order.run),
    ("protocol", lambda e, v, q: e.protocol == q.order.protocol),
    ("late", lambda e, v, q: _phase(e) >= _phase(q.order)),
    ("round", lambda e, v, q: _phase(e) == _phase(q.order)),
    ("epoch", lambda e, v, q: e.epoch <= q.order.epoch),
    ("model", lambda e, v, q: e.model == q.order.model),
    ("manifest", lambda e, v, q: e.manifest == q.manifest),
    ("repeated", lambda e, v, q: e.site not in q.accepted),
    ("sequence", lambda e, v, q: q.sequences.get(e.site, 0) < e.sequence),
    ("declared-size", lambda e, v, q: e.declared_size == q.declared.get(e.site, min(e.declared_size, _LARGEST_SIZE))),
    ("length", lambda e, v, q: v.shape == (q.length,) and e.length == q.length),
    ("dtype", lambda e, v, q: v.dtype == np.float32 and e.dtype == dtype_of(e.kind, q.protocol)),
    ("payload", lambda e, v, q: vector_hash(v, e.dtype) == e.payload and holds(v, e.dtype)),
    ("non-finite", _is_finite),
    ("norm", _is_short),
    ("histogram", _counts),
)
