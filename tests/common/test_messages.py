"""What leaves a site is what `messages` lists; what comes in is that, or a FormatError before anything of it is used."""

import json

import numpy as np
import pytest

from fedrad_common import messages
from fedrad_common.errors import REFUSAL_CODES, FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.records import Answer, Evidence, Order, Refused, Signed, sign

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

VECTOR = np.arange(7, dtype=np.float32)


@pytest.fixture
def signed() -> Signed:
    return sign(Refused(code="busy"), SigningKey.generate())


def test_an_order_comes_back_to_the_bit_with_its_evidence(signed):
    evidence = Evidence(launch=signed, manifests=(signed, signed), peers=(signed,), answer=signed)
    found = messages.read_order(messages.with_evidence(messages.order_content(signed, VECTOR), evidence))

    assert (found.order, found.evidence) == (signed, evidence)
    assert found.model.tobytes() == VECTOR.tobytes()


def test_an_order_without_evidence_is_none(signed):
    with pytest.raises(FormatError, match="evidence"):
        messages.read_order(messages.order_content(signed, VECTOR))


def test_half_as_many_bytes_travel_where_the_protocol_says_so():
    facts = Order(
        run="run-00000001", epoch=1, round=1, kind="train", protocol="a" * 64, model=vector_hash(VECTOR, "float16"),
        dtype="float16", length=7,
    )  # fmt: skip
    order = sign(facts, SigningKey.generate())
    content = messages.order_content(order, VECTOR)
    found = messages.read_order(messages.with_evidence(content, Evidence(launch=order, manifests=())))

    assert len(content["vector"]["vector"].data) == 14
    assert (found.model.dtype, found.model.tolist()) == (np.float32, VECTOR.tolist())


def test_an_answer_comes_back_to_the_bit(signed):
    answer = messages.read_answer(messages.answer_content(Answer(envelope=signed, vector=VECTOR)))

    assert answer.envelope == signed
    assert answer.vector.tobytes() == VECTOR.tobytes()
    assert answer.refusal is None


def test_an_answer_holds_one_text_one_signature_one_vector_and_nothing_else(signed):
    content = messages.answer_content(Answer(envelope=signed, vector=VECTOR))

    assert {name: sorted(record) for name, record in content.items()} == {"answer": ["body", "signature"], "vector": ["vector"]}
    assert content["vector"]["vector"].data == VECTOR.tobytes()


@pytest.mark.parametrize("code", REFUSAL_CODES)
def test_a_refusal_is_its_code_and_nothing_else(code):
    content = messages.answer_content(Answer(refusal=code))

    assert {name: dict(record) for name, record in content.items()} == {"refused": {"code": code}}
    assert messages.read_answer(content) == Answer(refusal=code)


def test_an_empty_answer_cannot_be_sent():
    with pytest.raises(FormatError):
        messages.answer_content(Answer())


def spoil(content: RecordDict, **records: object) -> RecordDict:
    for name, record in records.items():
        if record is None:
            del content[name]
        else:
            content[name] = record
    return content


def array(**changes: object) -> ArrayRecord:
    values = {"dtype": "float32", "shape": (7,), "stype": messages.SERIALIZATIONS["float32"], "data": VECTOR.tobytes(), **changes}
    return ArrayRecord({"vector": Array(**values)})


@pytest.mark.parametrize(
    "records",
    [
        {"vector": None},
        {"answer": None},
        {"metrics": MetricRecord({"loss": 1.0})},
        {"refused": ConfigRecord({"code": "busy"})},
        {"answer": MetricRecord({"body": 1.0, "signature": 2.0})},
        {"answer": ConfigRecord({"body": "{}", "signature": "0" * 128, "n_patients": 17})},
        {"answer": ConfigRecord({"body": "{}"})},
        {"answer": ConfigRecord({"body": 7, "signature": "0" * 128})},
        {"answer": ConfigRecord({"body": "{}", "signature": "0" * 127})},
        {"answer": ConfigRecord({"body": "x" * (messages.MOST_TEXT + 1), "signature": "0" * 128})},
        {"vector": array(dtype="float64")},
        {"vector": array(stype="numpy.ndarray")},
        {"vector": array(stype="pickle")},
        {"vector": array(shape=(7, 1))},
        {"vector": array(shape=())},
        {"vector": array(shape=(0,), data=b"")},
        {"vector": array(shape=(2**40,))},
        {"vector": array(data=VECTOR.tobytes()[:-1])},
        {"vector": ArrayRecord({"other": Array(VECTOR)})},
        {"vector": ConfigRecord({"vector": "no"})},
    ],
)
def test_whatever_is_not_exactly_an_answer_is_refused(signed, records):
    content = spoil(messages.answer_content(Answer(envelope=signed, vector=VECTOR)), **records)

    with pytest.raises(FormatError):
        messages.read_answer(content)


@pytest.mark.parametrize("record", [{"code": "tuberculosis"}, {"code": 1}, {"code": "busy", "reason": "x"}])
def test_a_refusal_outside_the_closed_list_is_refused(record):
    with pytest.raises(FormatError) as refused:
        messages.read_answer(RecordDict({"refused": ConfigRecord(record)}))

    assert "tuberculosis" not in str(refused.value)


@pytest.fixture
def message(signed, monkeypatch) -> Message:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    content = messages.order_content(signed, np.zeros(3_000_000, np.float32))
    return Message(messages.with_evidence(content, Evidence(launch=signed, manifests=())), dst_node_id=2, message_type="train")


def objects(message: Message) -> dict[str, bytes]:
    return {number: found.deflate() for number, found in get_all_nested_objects(message).items()}


def test_a_message_survives_the_way_through_flowers_objects(message):
    most = messages.most_bytes(3_000_000)
    contents = objects(message)

    assert set(messages.check_tree(get_object_tree(message), most)) == set(contents)
    inflated = messages.inflate(message.object_id, contents, most)

    assert inflated.metadata.message_id == message.object_id
    assert messages.read_order(inflated.content).model.size == 3_000_000


def test_a_message_larger_than_allowed_is_refused_before_it_is_put_together(message):
    with pytest.raises(FormatError, match="larger than"):
        messages.inflate(message.object_id, objects(message), messages.most_bytes(1_000_000))


def test_one_piece_named_a_million_times_does_not_fill_the_memory(signed, message):
    small = Message(messages.order_content(signed, np.zeros(1_000, np.float32)), dst_node_id=2, message_type="train")
    contents = objects(small)
    number = next(number for number, content in contents.items() if content.startswith(b"Array "))
    head, _, body = contents[number].partition(b"\0")
    bomb = json.dumps({**json.loads(body), "arraychunk_ids": [0] * 1_000_000}).encode()
    kind, children, _ = head.split(b" ")
    contents[number] = b" ".join((kind, children, str(len(bomb)).encode())) + b"\0" + bomb

    with pytest.raises(FormatError, match="larger than"):
        messages.inflate(small.object_id, contents, 8 * 2**20)


def test_a_tree_of_countless_objects_is_refused_before_anything_is_fetched(message):
    tree = get_object_tree(message)
    for _ in range(100):
        tree.children.add(object_id="0" * 64)

    with pytest.raises(FormatError, match="objects"):
        messages.check_tree(tree, messages.most_bytes(3_000_000))


@pytest.mark.parametrize("content", [b"", b"Message", b"Evil  3\0abc", b"RecordDict  2\0{}", b"Message  2\0\xff\xff", b"Array  2\0{}"])
def test_bytes_that_are_no_message_are_a_format_error_without_their_text(content):
    with pytest.raises(FormatError) as refused:
        messages.inflate("a", {"a": content}, 1000)

    assert "abc" not in str(refused.value)
