"""Answers that no coordinator may count, from a site whose key is in the roster: each kind with the code that it must get.

A kind is one way of being wrong; what stays free is drawn at random. Everything else about the answer is right, and it is well signed.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from disturbed_run import MOST, Parcel, content_of, reply_with  # type: ignore[import-not-found] # beside this one
from guest import SIZE, Guest  # type: ignore[import-not-found]

from fedrad_common import messages
from fedrad_common.packing import rounded
from fedrad_server.acceptance import norm_bound

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoConfigRecord

MANY = 4 * 2**20  # bytes of an object that is a bomb


Forge = Callable[[Guest], Parcel]


def cell(*values: float) -> Forge:
    """One cell, or all of them, replaced by one of `values`."""

    def make(guest: Guest) -> Parcel:
        vector = guest.vector()
        value = np.float32(values[int(guest.rng.integers(len(values)))])
        vector[... if guest.rng.random() < 0.2 else int(guest.rng.integers(vector.size))] = value
        return guest.whole(vector)

    return make


def _long(guest: Guest) -> Parcel:
    vector = guest.vector()
    bound = norm_bound(guest.protocol, vector.size)
    longer = vector * np.float32(bound / np.linalg.norm(vector) * (1 + 10 ** guest.rng.uniform(-2, 1)))
    return guest.whole(rounded(longer, guest.dtype))


def _more_patients(guest: Guest) -> Parcel:
    return guest.whole(np.full(64, math.ceil((SIZE + 100) / 64) + int(guest.rng.integers(1, 100)), np.float32))


def other_size(*sizes: int) -> Forge:
    return lambda guest: guest.whole(guest.rng.normal(size=sizes[int(guest.rng.integers(len(sizes)))]).astype(np.float32))


def field(name: str, *values: object) -> Forge:
    return lambda guest: guest.lying(**{name: guest.one_of(*values)})


def privacy(**changes: object) -> Forge:
    good = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 2, "delta": 1e-3, "marked": False}

    def make(guest: Guest) -> Parcel:
        name = str(guest.rng.choice(sorted(changes)))
        return guest.lying(privacy={**good, name: changes[name]})

    return make


def text(*bodies: str) -> Forge:
    def make(guest: Guest) -> Parcel:
        body = bodies[int(guest.rng.integers(len(bodies)))]
        return reply_with(guest.message, content_of(messages.ANSWER, guest.signed(body), guest.vector(), guest.dtype))

    return make


def records(change: Callable[[RecordDict, Guest], object]) -> Forge:
    """An honest answer's records, changed in place."""

    def make(guest: Guest) -> Parcel:
        content = guest.content()
        change(content, guest)
        return reply_with(guest.message, content)

    return make


def array(**fields: tuple[object, ...]) -> Forge:
    """An honest answer whose vector is described otherwise."""

    def make(guest: Guest) -> Parcel:
        content = guest.content()
        honest = content[messages.VECTOR][messages.VECTOR]
        values = {"dtype": honest.dtype, "shape": honest.shape, "stype": honest.stype, "data": honest.data}
        drawn = {name: guest.one_of(*choices) for name, choices in fields.items()}
        content[messages.VECTOR] = ArrayRecord({messages.VECTOR: Array(**{**values, **drawn})})
        return reply_with(guest.message, content)

    return make


def _bytes_off(guest: Guest) -> Parcel:
    content = guest.content()
    honest = content[messages.VECTOR][messages.VECTOR]
    data = honest.data + bytes(int(guest.rng.integers(1, 9))) if guest.rng.random() < 0.5 else honest.data[: -int(guest.rng.integers(1, 9))]
    other = Array(dtype=honest.dtype, shape=honest.shape, stype=honest.stype, data=data)
    content[messages.VECTOR] = ArrayRecord({messages.VECTOR: other})
    return reply_with(guest.message, content)


def _key(content: RecordDict, **changes: object) -> None:
    record = {**content[messages.ANSWER], **changes}
    content[messages.ANSWER] = ConfigRecord({key: value for key, value in record.items() if value is not None})


def _arrays(content: RecordDict, **arrays: str) -> None:
    vector = content[messages.VECTOR][messages.VECTOR]
    content[messages.VECTOR] = ArrayRecord(dict.fromkeys(arrays.values(), vector))


def objects(kind: str, change: Callable[[bytes, bytes, Guest], tuple[bytes, bytes]]) -> Forge:
    """One object of an honest answer replaced: `change` gets its children and its body."""

    def make(guest: Guest) -> Parcel:
        parcel = guest.whole()
        number = next(number for number, content in parcel.objects.items() if content.startswith(kind.encode() + b" "))
        head, _, body = parcel.objects[number].partition(b"\0")
        children, body = change(head.split(b" ")[1], body, guest)
        content = b" ".join((kind.encode(), children, str(len(body)).encode())) + b"\0" + body
        return replace(parcel, objects={**parcel.objects, number: content})

    return make


def _named_often(guest: Guest, *, piece: int, times: int) -> Parcel:
    """One small piece, named so often that it claims gigabytes."""
    parcel = guest.whole(np.zeros(piece // 4, np.float32), wire="float32")
    number = next(number for number, content in parcel.objects.items() if content.startswith(b"Array "))
    head, _, body = parcel.objects[number].partition(b"\0")
    bomb = json.dumps({**json.loads(body), "arraychunk_ids": [0] * times, "shape": [piece // 4 * times]}).encode()
    kind, children, _ = head.split(b" ")
    content = b" ".join((kind, children, str(len(bomb)).encode())) + b"\0" + bomb
    return replace(parcel, objects={**parcel.objects, number: content})


def _many_keys(children: bytes, body: bytes, guest: Guest) -> tuple[bytes, bytes]:
    record = ProtoConfigRecord()
    for number in range(MANY // 16):
        record.items.add().key = str(number)
    return children, record.SerializeToString()


def _many_children(guest: Guest) -> Parcel:
    parcel = guest.whole()
    tree = ObjectTree()
    tree.CopyFrom(parcel.tree)
    for _ in range(int(guest.rng.integers(100, 5000))):
        tree.children.add(object_id="0" * 64)
    return replace(parcel, tree=tree)


def _whole_object(change: Callable[[bytes, Guest], bytes], *kinds: str) -> Forge:
    def make(guest: Guest) -> Parcel:
        parcel = guest.whole()
        kind = str(guest.rng.choice(kinds or ("RecordDict", "ArrayRecord", "Array", "ArrayChunk", "ConfigRecord"))).encode()
        number = next(number for number, content in parcel.objects.items() if content.startswith(kind + b" "))
        return replace(parcel, objects={**parcel.objects, number: change(parcel.objects[number], guest)})

    return make


def _without_an_object(guest: Guest) -> Parcel:
    parcel = guest.whole()
    number = str(guest.rng.choice(sorted(parcel.objects)))
    return replace(parcel, objects={key: content for key, content in parcel.objects.items() if key != number})


def _too_large(guest: Guest) -> Parcel:
    """More bytes than any answer to this run: refused while they are pulled, and here before they are put together."""
    parcel, piece = guest.whole(), b"ArrayChunk  0\0" + bytes(MANY)
    return replace(parcel, objects={**parcel.objects, **{f"{number:064x}": piece for number in range(MOST // MANY + 1)}})


TRAIN: dict[str, tuple[str, Forge]] = {
    "a norm above the bound": ("norm", _long),
    "a vector of another length": ("length", other_size(1, 63, 65, 128, 5000)),
}
HISTOGRAM: dict[str, tuple[str, Forge]] = {
    "half a patient": ("histogram", cell(0.5, -1.5, 2.25)),
    "a cell beyond 2**24": ("histogram", cell(2.0**25, -(2.0**26))),
    "more patients than declared": ("histogram", _more_patients),
    "noise of a million patients": ("histogram", privacy(noise_multiplier=1e6)),
    "a histogram of other bins": ("length", other_size(32, 63, 128)),
}
ANY: dict[str, tuple[str, Forge]] = {
    "NaN": ("non-finite", cell(math.nan)),
    "infinity": ("non-finite", cell(math.inf, -math.inf)),
    "the length lies": ("length", field("length", 1, 63, 65, 10**18)),
    "the type lies": ("dtype", lambda guest: guest.lying(dtype="float16" if guest.dtype == "float32" else "float32")),
    "another type than the protocol's": ("dtype", lambda guest: guest.whole(wire="float16" if guest.dtype == "float32" else "float32")),
    "the payload lies": ("payload", field("payload", "c" * 64, "0" * 64)),
    "a weight that grows": ("declared-size", field("declared_size", SIZE + 1, 10 * SIZE, 10**9)),
    "a weight of a thousand digits": ("malformed", field("declared_size", 10**1000)),
    "a weight that is no whole number of patients": ("malformed", field("declared_size", 0, -80, 80.5, "80", math.nan, math.inf, True)),
    "noise that is none": ("malformed", privacy(noise_multiplier=-1.0, sampling_rate=2.0, steps=-1, delta=1.0, marked="no")),
    "noise that is not finite": ("malformed", privacy(noise_multiplier=math.nan, delta=math.inf)),
    "a number that was used": ("sequence", field("sequence", 1)),
    "a number beyond 63 bits": ("malformed", field("sequence", 2**63, 10**100)),
    "another site's name": ("site", field("site", "ankara", "bergen")),
    "a field more": ("malformed", field("n_patients", 17, [1] * 1000)),
    "a field less": ("malformed", lambda guest: guest.lying(**{str(guest.one_of("site", "payload", "privacy", "ledger")): ...})),
    "another format": ("malformed", field("format", "fedrad-envelope-1", "", 7)),
    "a text that is no envelope": ("malformed", text("", "null", "[]", "{}", "\0", "NaN", "[" * 30_000, '{"a":' * 10_000, "9" * 60_000)),
    "a signature of nobody": (
        "signature",
        records(lambda content, guest: _key(content, signature=guest.rng.bytes(64).hex())),
    ),
    "no signature": ("malformed", records(lambda content, guest: _key(content, signature=guest.one_of("", "0" * 127, "G" * 128)))),
    "no vector": ("malformed", records(lambda content, guest: content.pop(messages.VECTOR))),
    "no envelope": ("malformed", records(lambda content, guest: content.pop(messages.ANSWER))),
    "a metric besides": ("malformed", records(lambda content, guest: content.update({"metrics": MetricRecord({"loss": 0.5})}))),
    "a refusal besides": ("malformed", records(lambda content, guest: content.update({"refused": ConfigRecord({"code": "busy"})}))),
    "a refusal outside the list": (
        "malformed",
        lambda guest: reply_with(guest.message, RecordDict({"refused": ConfigRecord({"code": guest.one_of("tired", "", 7, b"busy")})})),
    ),
    "metrics for a text": (
        "malformed",
        records(lambda content, guest: content.update({messages.ANSWER: MetricRecord({"body": 1.0, "signature": 2.0})})),
    ),
    "a text of another type": ("malformed", records(lambda content, guest: _key(content, body=guest.one_of(7, 7.5, b"{}", [1, 2], True)))),
    "a text too long": ("malformed", records(lambda content, guest: _key(content, body="x" * (messages.MOST_TEXT + 1)))),
    "a key more": ("malformed", records(lambda content, guest: _key(content, n_patients=17))),
    "a key less": ("malformed", records(lambda content, guest: _key(content, body=None))),
    "two arrays": ("malformed", records(lambda content, guest: _arrays(content, one=messages.VECTOR, two="other"))),
    "an array of another name": ("malformed", records(lambda content, guest: _arrays(content, one="weights"))),
    "a shape that is not flat": ("malformed", array(shape=((), (64, 1), (1, 64), (8, 8), (0,), (-64,), (-1,)))),
    "a huge shape": ("malformed", array(shape=((2**31,), (2**62,), (10**30,), (64, 2**40)))),
    "numbers of another type": ("malformed", array(dtype=("float64", "int32", "complex64", "object", "bfloat16", ""))),
    "another serialisation": ("malformed", array(stype=("numpy.ndarray", "pickle", "torch.save", ""))),
    "bytes too many or too few": ("malformed", _bytes_off),
    "a piece of 4 KiB named a million times": ("malformed", lambda guest: _named_often(guest, piece=4096, times=1_000_000)),
    "a piece of 4 MiB named a thousand times": ("malformed", lambda guest: _named_often(guest, piece=MANY, times=1000)),
    "a description of a million lists": (
        "malformed",
        objects("Array", lambda c, b, g: (c, b'{"shape":[' + b"[]," * (MANY // 3) + b"[]]}")),
    ),
    "names of a million records": ("malformed", objects("RecordDict", lambda c, b, g: (c, b'{"a":[' + b"{}," * (MANY // 3) + b"{}]}"))),
    "a description nested a million deep": ("malformed", objects("Array", lambda c, b, g: (c, b"[" * 1_000_000))),
    "a text record of a quarter of a million keys": ("malformed", objects("ConfigRecord", _many_keys)),
    "a tree of a thousand objects": ("malformed", _many_children),
    "more bytes than any answer": ("malformed", _too_large),
    "an object that holds itself": ("malformed", _whole_object(lambda content, g: content.replace(b" ", b" " + b"0" * 64 + b",", 1))),
    "an object of no kind": ("malformed", _whole_object(lambda content, guest: b"Evil" + content)),
    "an object that is missing": ("malformed", _without_an_object),
    "an object cut short": ("malformed", _whole_object(lambda content, guest: content[: int(guest.rng.integers(len(content) - 1))])),
    "an object of noise": ("malformed", _whole_object(lambda content, guest: guest.rng.bytes(int(guest.rng.integers(0, 2000))))),
    "a message of noise": ("malformed", objects("Message", lambda c, b, guest: (c, b"\xff" + guest.rng.bytes(200)))),
    "a message without content": ("malformed", objects("Message", lambda c, b, guest: (b"", b))),
}


def kinds(guest: Guest) -> dict[str, tuple[str, Forge]]:
    return {**ANY, **(TRAIN if guest.trains else HISTOGRAM)}
