"""Promise 1: only what `messages` lists leaves a site; it can be printed beforehand, and the audit log shows the bytes afterwards."""

import hashlib
import json

import numpy as np
import pytest

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.preview import facts
from fedrad_client.site import Site
from fedrad_common.messages import answer_content
from fedrad_common.packing import vector_hash
from fedrad_common.records import Answer, Envelope, Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)


@pytest.fixture
def answered(make_site, coordinator, protocol_bytes):
    """A site, what it was shown beforehand, and what left it for one round's two orders."""
    site = Site(make_site())
    seen = facts(approve(site, protocol_bytes, declared_size=60))
    left = []
    for kind, size in (("train", 16), ("evaluate", 64)):
        order = Order(run="run-00000001", epoch=1, round=1, kind=kind, protocol=seen["hash"], model=vector_hash(MODEL), length=MODEL.size)
        left.append(
            answer(site, asked(order, MODEL, coordinator, site.home.path), work=lambda job, model, size=size: np.ones(size, np.float32))
        )
    yield site, seen, left
    site.close()


def test_what_leaves_is_one_envelope_and_one_vector_and_was_shown_beforehand(answered) -> None:
    _, seen, left = answered
    for given, shown in zip(left, (seen["leaves"]["update"], seen["leaves"]["histogram"]), strict=True):
        content = answer_content(given)
        envelope = json.loads(given.envelope.body)

        assert len(content) == 2  # the vector, and the envelope with its signature
        assert given.vector.nbytes == shown["bytes"]
        assert given.vector.size == int(np.prod(shown["shape"]))
        assert set(envelope) - {"format"} == set(seen["leaves"]["envelope"])


def test_the_audit_log_shows_exactly_the_bytes_that_left(answered) -> None:
    site, _, left = answered
    released = [entry.body for entry in site.audit.entries if entry.type == "release"]

    assert [body["payload"] for body in released] == [hashlib.sha256(given.vector.tobytes()).hexdigest() for given in left]
    assert [body["envelope"] for body in released] == [given.envelope.digest for given in left]


def test_a_refusal_is_one_word_of_a_closed_list(answered) -> None:
    site, seen, _ = answered
    order = Order(run="run-00000002", epoch=1, round=9, kind="train", protocol=seen["hash"], model=vector_hash(MODEL), length=MODEL.size)
    content = answer_content(answer(site, asked(order, MODEL, site.key, site.home.path), work=lambda job, model: MODEL))

    assert [list(record.values()) for record in content.config_records.values()] == [["policy"]]
    assert not content.array_records


def test_an_envelope_has_no_field_for_a_count_a_loss_or_a_time() -> None:
    listed = "format site run epoch round kind sequence protocol model manifest dtype length payload declared_size privacy ledger audit"

    assert list(Envelope.model_fields) == listed.split()
    assert set(Answer.__dataclass_fields__) == {"envelope", "vector", "refusal"}
