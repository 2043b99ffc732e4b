"""Orders that a site must not follow: older ones, other runs', other coordinators', edited ones, with evidence that does not fit.

Each entry of `ORDERS` makes one from the genuine order that is on its way, or says that there is none to make yet.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from disturbed_run import Parcel, content_of  # type: ignore[import-not-found] # beside this one

from fedrad_common import messages
from fedrad_common.canonical import canonical_json
from fedrad_common.errors import FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.records import Asked, Evidence, Launch, Order, RoundManifest, Sent, Signed, sign

# isort: split
from flwr.app import Message


@dataclass(frozen=True)
class OrderFacts:
    """What whoever sits on the wire has at hand."""

    asked: Asked  # the genuine order
    rng: np.random.Generator
    key: SigningKey  # the coordinator's: for what a careless or restored coordinator might sign
    stranger: SigningKey
    past: Sequence[Asked]  # what this site was sent in this run
    others: Mapping[str, Asked]  # the last order to each other site
    finished: Sequence[Asked]  # what this site was sent in a run that is over
    unapproved: Asked  # a good order of a run beyond those that were approved

    @property
    def order(self) -> Order:
        return self.asked.order.peek(Order, what="order")

    @property
    def evidence(self) -> Evidence:
        return self.asked.evidence

    def drawn(self, among: Sequence[Asked]) -> Asked | None:
        return among[int(self.rng.integers(len(among)))] if among else None

    def older(self) -> Asked | None:
        """An order of an earlier round of this run."""
        return self.drawn([asked for asked in self.past if asked.order.peek(Order, what="order").round < self.order.round])

    def shown(self, **changes: object) -> Asked:
        return replace(self.asked, evidence=self.evidence.model_copy(update=changes))


def mutated(value: object, rng: np.random.Generator) -> object:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + int(rng.integers(1, 5))
    if isinstance(value, dict):
        return {**value, **{key: mutated(inner, rng) for key, inner in list(value.items())[:1]}} if value else {"extra": 1}
    text = str(value)
    swaps = {"train": "evaluate", "evaluate": "train", "float32": "float16", "float16": "float32"}
    at = int(rng.integers(max(1, len(text))))
    return swaps.get(text, text[:at] + ("0" if text[at : at + 1] != "0" else "1") + text[at + 1 :])


def edited(signed: Signed, rng: np.random.Generator) -> Signed:
    """One field changed, the signature kept."""
    body = json.loads(signed.body)
    name = str(rng.choice(sorted(body)))
    return Signed(body=canonical_json({**body, name: mutated(body[name], rng)}).decode(), signature=signed.signature)


def resigned(signed: Signed, key: SigningKey) -> Signed:
    return Signed(body=signed.body, signature=key.sign(signed.body.encode()).hex())


def _well_signed(facts: OrderFacts) -> Asked:
    """A field that a coordinator which mixes up its runs and rounds would get wrong. (A later epoch would be a right one.)"""
    order = facts.order
    wrong: dict[str, object] = {
        "run": "the-run-itself-not", "round": order.round + int(facts.rng.choice([-1, 1])) or 2, "protocol": "b" * 64, "model": "b" * 64,
        "kind": mutated(order.kind, facts.rng), "dtype": mutated(order.dtype, facts.rng), "length": order.length + 1,
    }  # fmt: skip
    name = str(facts.rng.choice(sorted(wrong)))
    return replace(facts.asked, order=sign(Order.model_validate({**order.model_dump(), name: wrong[name]}), facts.key))


def _earlier_epoch(facts: OrderFacts) -> Asked | None:
    """Sent before the coordinator was killed, and underway until now."""
    current = facts.order.epoch
    return facts.drawn([asked for asked in facts.past if asked.order.peek(Order, what="order").epoch < current])


def _lower_epoch(facts: OrderFacts) -> Asked | None:
    order = facts.order
    return None if order.epoch == 1 else replace(facts.asked, order=sign(order.model_copy(update={"epoch": order.epoch - 1}), facts.key))


def _older_asked_anew(facts: OrderFacts) -> Asked | None:
    """A coordinator restored from a backup: an old round, in this epoch."""
    older = facts.older()
    if older is None:
        return None
    order = older.order.peek(Order, what="order").model_copy(update={"epoch": facts.order.epoch})
    return replace(older, order=sign(order, facts.key))


def _other_numbers(facts: OrderFacts) -> Asked:
    model: Vector = facts.asked.model.copy()
    model[int(facts.rng.integers(model.size))] += np.float32(1)
    return replace(facts.asked, model=model)


def _older_model(facts: OrderFacts) -> Asked | None:
    older = facts.older()
    return None if older is None or np.array_equal(older.model, facts.asked.model) else replace(facts.asked, model=older.model)


def another_model(facts: OrderFacts) -> Asked:
    """A second model for this round, with an order and a last manifest that name it, all well signed."""
    model: Vector = facts.asked.model + np.float32(1)
    hashed = vector_hash(model)
    manifests = list(facts.evidence.manifests)
    last = manifests[-1].peek(RoundManifest, what="manifest")
    sent = {"model": hashed, "released": hashed, "sent": Sent(train=hashed, evaluate=hashed)}
    manifests[-1] = sign(last.model_copy(update=sent), facts.key)
    order = sign(facts.order.model_copy(update={"model": hashed}), facts.key)
    return Asked(order, model, facts.evidence.model_copy(update={"manifests": tuple(manifests)}))


def _manifests(facts: OrderFacts, change: Callable[[Signed], Signed]) -> Asked:
    manifests = list(facts.evidence.manifests)
    at = int(facts.rng.integers(len(manifests)))
    manifests[at] = change(manifests[at])
    return facts.shown(manifests=tuple(manifests))


def _retold(facts: OrderFacts) -> Asked:
    """The past told anew, well signed: the last manifest that this site was shown says something else."""
    manifests = list(facts.evidence.manifests)
    last = manifests[-1].peek(RoundManifest, what="manifest")
    manifests[-1] = sign(last.model_copy(update={"events": "e" * 64}), facts.key)
    return facts.shown(manifests=tuple(manifests))


def _foreign_manifest(facts: OrderFacts) -> Asked | None:
    other = facts.drawn(facts.finished)
    return None if other is None else _manifests(facts, lambda _: other.evidence.manifests[-1])


def _peers(facts: OrderFacts, change: Callable[[list[Signed]], list[Signed] | None]) -> Asked | None:
    peers = change(list(facts.evidence.peers))
    return None if peers is None else facts.shown(peers=tuple(peers))


def _older_peer(facts: OrderFacts) -> Asked | None:
    older = [asked for asked in facts.past if asked.evidence.peers and asked.evidence.peers != facts.evidence.peers]
    found = facts.drawn(older)
    return None if found is None or not facts.evidence.peers else facts.shown(peers=(found.evidence.peers[0], *facts.evidence.peers[1:]))


def _receipt_edited(facts: OrderFacts) -> Asked | None:
    receipt = facts.evidence.receipt
    return None if receipt is None else facts.shown(receipt=edited(receipt, facts.rng))


def _other_evidence(facts: OrderFacts, among: Sequence[Asked]) -> Asked | None:
    found = facts.drawn([asked for asked in among if asked.evidence.manifests != facts.evidence.manifests])
    return None if found is None else replace(facts.asked, evidence=found.evidence)


def _another_launch(facts: OrderFacts) -> Asked:
    launch = facts.evidence.launch.peek(Launch, what="launch")
    return facts.shown(launch=sign(launch.model_copy(update={"created": "later"}), facts.key))


def _all_by_a_stranger(facts: OrderFacts) -> Asked:
    evidence = facts.evidence.model_copy(
        update={
            "launch": resigned(facts.evidence.launch, facts.stranger),
            "manifests": tuple(resigned(manifest, facts.stranger) for manifest in facts.evidence.manifests),
        }
    )
    return Asked(resigned(facts.asked.order, facts.stranger), facts.asked.model, evidence)


def _signature_of(facts: OrderFacts) -> Asked | None:
    older = facts.older()
    return None if older is None else replace(facts.asked, order=facts.asked.order.model_copy(update={"signature": older.order.signature}))


Forge = Callable[[OrderFacts], Asked | None]
SECOND_MODEL = "a second model and its manifest, signed by the coordinator"
ORDERS: dict[str, Forge | None] = {
    "an order of an earlier round": lambda f: f.older(),
    "an order of an earlier epoch": _earlier_epoch,
    "an order of the finished run": lambda f: f.drawn(f.finished),
    "an order of a run that nobody approved": lambda f: f.unapproved,
    "the order to another site, with that site's evidence": lambda f: f.drawn(list(f.others.values())),
    "the order, signed by another coordinator": lambda f: replace(f.asked, order=resigned(f.asked.order, f.stranger)),
    "order and evidence, signed by another coordinator": _all_by_a_stranger,
    "a field of the order edited": lambda f: replace(f.asked, order=edited(f.asked.order, f.rng)),
    "a field of the order wrong, signed by the coordinator": _well_signed,
    "the order in a lower epoch, signed by the coordinator": _lower_epoch,
    "an earlier round asked anew, signed by the coordinator": _older_asked_anew,
    "the order with another order's signature": _signature_of,
    "a number of the model changed": _other_numbers,
    "the model of an earlier round": _older_model,
    SECOND_MODEL: another_model,
    "the evidence of an earlier round": lambda f: _other_evidence(f, f.past),
    "the evidence of the finished run": lambda f: _other_evidence(f, f.finished),
    "a field of a manifest edited": lambda f: _manifests(f, lambda signed: edited(signed, f.rng)),
    "a manifest of the finished run": _foreign_manifest,
    "a manifest signed by another coordinator": lambda f: _manifests(f, lambda signed: resigned(signed, f.stranger)),
    "the last manifest retold, signed by the coordinator": _retold,
    "the last manifest left out": lambda f: f.shown(manifests=f.evidence.manifests[:-1]),
    "a peer's earlier answer": _older_peer,
    "a peer's answer edited": lambda f: _peers(f, lambda peers: [edited(peers[0], f.rng), *peers[1:]] if peers else None),
    "a peer's answer left out": lambda f: _peers(f, lambda peers: peers[1:] if peers else None),
    "the receipt edited": _receipt_edited,
    "the launch edited": lambda f: f.shown(launch=edited(f.evidence.launch, f.rng)),
    "another launch, signed by the coordinator": _another_launch,
    "the receipt and the witness withheld": lambda f: f.shown(receipt=None, answer=None),
    "a bit flipped on the way": None,  # of the message's own bytes
}
# What a site can only know once it has answered the genuine one: which of two stories of its coordinator, or of two runs, was the first.
PAST_ORDERS = frozenset(
    {
        "the order in a lower epoch, signed by the coordinator",
        SECOND_MODEL,
        "the last manifest retold, signed by the coordinator",
        "an order of an earlier epoch",
        "an order of a run that nobody approved",
    }
)


def parcel_of(asked: Asked, message: Message) -> Parcel:
    """As the genuine message would travel with this in it."""
    dtype = json.loads(asked.order.body)["dtype"]
    content = content_of(messages.ORDER, asked.order, asked.model, dtype if dtype in messages.SERIALIZATIONS else "float32")
    whole = messages.with_evidence(content, asked.evidence)
    return Parcel.of(Message(whole, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type))


def essence(parcel: Parcel) -> object:
    """All that a site judges: order, model, launch, manifests and peers; None where it is no order."""
    try:
        asked = messages.read_order(parcel.opened(most_text=messages.MOST_EVIDENCE).content)
    except (FormatError, ValueError):
        return None
    return asked.order, asked.model.tobytes(), asked.evidence.launch, asked.evidence.manifests, asked.evidence.peers
