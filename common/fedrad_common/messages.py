"""To and from Flower's records. What leaves a site is what `answer_content` puts in, and nothing else: this file is the whole list.

An order is one signed text, one flat vector, and the evidence that the coordinator shows all sites the same; an answer is one signed
text and one flat vector; a refusal is one code. Reading is strict: an unknown record or key, another type, length or size is a FormatError
before a byte of it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import fedrad_common.offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflatable_class_registry, inflate_object_from_contents
from pydantic import ValidationError

from fedrad_common.config import parse_json
from fedrad_common.errors import REFUSAL_CODES, FormatError
from fedrad_common.packing import Dtype, Vector, from_bytes, to_bytes
from fedrad_common.records import Answer, Asked, Evidence, Signed

if TYPE_CHECKING:
    from flwr.proto.message_pb2 import ObjectTree

ORDER, ANSWER, REFUSED, VECTOR, EVIDENCE = "order", "answer", "refused", "vector", "evidence"  # the names of the records
# Raw little-endian numbers: nothing to parse, and no loader that could be tricked.
SERIALIZATIONS: dict[Dtype, str] = {"float32": "fedrad.float32.le", "float16": "fedrad.float16.le"}
MOST_TEXT = 64 * 1024  # characters of a signed record; an order has about 400
MOST_EVIDENCE = 4 * 1024 * 1024  # of the evidence: a manifest names every site
_MOST_OBJECTS = 16  # of a message, besides the pieces of its vector
_SMALLEST_PIECE = 1024 * 1024  # Flower cuts a vector into pieces of 5 MiB
_PIECE = b"ArrayChunk "  # how the bytes of a vector's piece begin
_REFERENCE = 128  # bytes by which a message names one of its pieces


def order_content(order: Signed, model: Vector) -> RecordDict:
    """model: (n_parameters,) float32. A message of every site's; `with_evidence` makes it one site's."""
    return _content(ORDER, order, model)


def with_evidence(content: RecordDict, evidence: Evidence) -> RecordDict:
    """The same order for one site; the vector is shared, not copied."""
    return RecordDict({**content, EVIDENCE: ConfigRecord({"body": evidence.model_dump_json()})})


def read_order(content: RecordDict) -> Asked:
    """The order as it came, not yet verified.

    Raises:
        FormatError: it holds anything else.
    """
    records = dict(content)
    (body,) = _texts(records.pop(EVIDENCE, None), ("body",), what=EVIDENCE, most=MOST_EVIDENCE)
    order, vector = _read(ORDER, records)
    return Asked(order, vector, parse_json(body.encode(), Evidence, name=EVIDENCE))


def answer_content(answer: Answer) -> RecordDict:
    """Everything that leaves a site in reply to one order."""
    if answer.envelope is not None and answer.vector is not None:
        return _content(ANSWER, answer.envelope, answer.vector)
    if answer.refusal is None:
        raise FormatError("answer: neither an envelope with a vector nor a refusal")
    return RecordDict({REFUSED: ConfigRecord({"code": str(answer.refusal)})})


def read_answer(content: RecordDict) -> Answer:
    """Raises FormatError: neither a signed envelope with one flat vector, nor one code of the closed list."""
    if set(content) == {REFUSED}:
        (code,) = _texts(content[REFUSED], ("code",), what=REFUSED)
        if code not in REFUSAL_CODES:
            raise FormatError("refused: the code is not one of the closed list")
        return Answer(refusal=code)
    envelope, vector = _read(ANSWER, content)
    return Answer(envelope=envelope, vector=vector)


def most_bytes(n_parameters: int) -> int:
    """The size of the largest message that a vector of this length makes."""
    return 4 * n_parameters + MOST_TEXT + MOST_EVIDENCE + 4096 * _MOST_OBJECTS


def check_tree(tree: ObjectTree, most: int) -> list[str]:
    """The object ids of a message that is about to be pulled, children first.

    Raises:
        FormatError: more objects than a message of `most` bytes has.
    """
    limit, found, open_trees = _MOST_OBJECTS + most // _SMALLEST_PIECE, [], [tree]
    while open_trees:
        branch = open_trees.pop()
        found.append(branch.object_id)
        open_trees.extend(branch.children)
        if len(found) + len(open_trees) > limit:
            raise FormatError(f"message: more than {limit} objects", hint="the other side does not speak fedrad's format")
    return found[::-1]


def inflate(object_id: str, contents: dict[str, bytes], most: int, *, most_text: int = MOST_EVIDENCE) -> Message:
    """Put a pulled message together; `contents` is emptied.

    What the objects declare is added up first: one small piece named a million times would otherwise fill the memory, and so would
    what is no piece of a vector, of which Flower's parsers make up to fifty times its size.

    Args:
        most_text: characters of the longest text that such a message holds; an answer has no evidence, and only `MOST_TEXT`.

    Raises:
        FormatError: it would be larger than `most` bytes, or is no message.
    """
    try:
        around = sum(len(content) for content in contents.values() if not content.startswith(_PIECE))
        if around > most_text + MOST_TEXT + _REFERENCE * (most // _SMALLEST_PIECE):
            raise FormatError("message: larger than its vector and texts need", hint="the other side does not speak fedrad's format")
        if sum(map(len, contents.values())) > most or _expanded(contents) > most:
            raise FormatError(f"message: larger than {most} bytes", hint="the other side does not speak fedrad's format")
        message = inflate_object_from_contents(object_id, contents)
        if not isinstance(message, Message):
            raise FormatError("message: is something else")
        message.metadata.__dict__["_message_id"] = object_id  # not part of the content that the id is the hash of
    except FormatError:
        raise
    except Exception as error:  # whatever a hostile peer makes Flower's parsers raise; the text may quote the peer
        raise FormatError(f"message: cannot be read ({type(error).__name__})") from None
    return message


def _content(name: str, signed: Signed, vector: Vector) -> RecordDict:
    dtype: Dtype = json.loads(signed.body).get("dtype", "float32")  # as its own side has signed it
    array = Array(dtype=dtype, shape=(int(vector.size),), stype=SERIALIZATIONS[dtype], data=to_bytes(vector, dtype))
    return RecordDict({name: _text_record(signed), VECTOR: ArrayRecord({VECTOR: array})})


def _text_record(signed: Signed) -> ConfigRecord:
    return ConfigRecord({"body": signed.body, "signature": signed.signature})


def _read(name: str, content: Mapping[str, object]) -> tuple[Signed, Vector]:
    if set(content) != {name, VECTOR}:
        raise FormatError(f"{name}: holds other records than it must", hint="the other side runs another version")
    return _signed(content[name], what=name), _vector(content[VECTOR], what=name)


def _signed(record: object, *, what: str) -> Signed:
    body, signature = _texts(record, ("body", "signature"), what=what)
    try:
        return Signed(body=body, signature=signature)
    except ValidationError:
        raise FormatError(f"{what}: signature: is not 128 hexadecimal digits") from None


def _texts(record: object, keys: tuple[str, ...], *, what: str, most: int = MOST_TEXT) -> list[str]:
    if not isinstance(record, ConfigRecord) or set(record) != set(keys):
        raise FormatError(f"{what}: holds other keys than it must", hint="the other side runs another version")
    texts = [record[key] for key in keys]
    if not all(isinstance(text, str) and len(text) <= most for text in texts):
        raise FormatError(f"{what}: a value is no text of at most {most} characters")
    return cast("list[str]", texts)


def _vector(record: object, *, what: str) -> Vector:
    if not isinstance(record, ArrayRecord) or set(record) != {VECTOR}:
        raise FormatError(f"{what}: holds other arrays than one flat vector")
    array = record[VECTOR]
    if SERIALIZATIONS.get(array.dtype) != array.stype:
        raise FormatError(f"{what}: vector: is none of {', '.join(SERIALIZATIONS.values())}")
    if len(array.shape) != 1 or not isinstance(array.shape[0], int) or array.shape[0] < 1:
        raise FormatError(f"{what}: vector: is not flat")
    return np.asarray(from_bytes(array.data, length=array.shape[0], what=f"{what}: vector", dtype=array.dtype))


def _expanded(contents: Mapping[str, bytes]) -> int:
    """Bytes of all vectors, once every piece stands wherever it is named."""
    total = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind not in inflatable_class_registry:
            raise FormatError("message: holds an object of an unknown kind")
        if kind == Array.__qualname__:
            body = json.loads(content[content.find(b"\0") + 1 :])
            total += sum(len(contents[children[index]]) for index in body["arraychunk_ids"])
    return total
