"""What the coordinator checks before it stores a byte of an answer."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes.coordinator import N_PARAMETERS, Site, numbers, protocol

from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Envelope, Kind, Order, sign
from fedrad_server.acceptance import CHECKS, REJECTION_CODES, Question, check, norm_bound

PROTOCOL = parse_protocol(protocol(evaluated=(2,)))
MODEL = numbers("model", size=N_PARAMETERS)
GOOD = numbers("difference", size=N_PARAMETERS)


def order(kind: Kind = "train", number: int = 2) -> Order:
    return Order(
        run="echo-0badcafe", epoch=3, round=number, kind=kind,
        protocol=PROTOCOL.hash, model=vector_hash(MODEL), length=N_PARAMETERS,
    )  # fmt: skip


def question(site: Site, kind: Kind = "train") -> Question:
    return Question(order(kind), "c" * 64, PROTOCOL, {site.name: site.key.public}, {site.name: 6}, {site.name: 50}, {})


@pytest.fixture
def site() -> Site:
    return Site("bergen", size=50, sequence=6)


def test_an_honest_answer_is_accepted(site: Site) -> None:
    assert isinstance(check("bergen", site.seal(order(), GOOD), question(site)), Envelope)


def test_an_answer_made_before_a_restart_is_as_good_as_new(site: Site) -> None:
    assert isinstance(check("bergen", site.seal(order(), GOOD, epoch=1), question(site)), Envelope)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"run": "other-0badcafe"}, "run"),
        ({"protocol": "b" * 64}, "protocol"),
        ({"model": "b" * 64}, "model"),
        ({"manifest": "b" * 64}, "manifest"),
        ({"dtype": "float16"}, "dtype"),
        ({"round": 1}, "late"),
        ({"round": 3}, "round"),
        ({"kind": "evaluate"}, "round"),
        ({"epoch": 4}, "epoch"),
        ({"sequence": 6}, "sequence"),
        ({"declared_size": 51}, "declared-size"),
        ({"site": "ankara"}, "site"),
        ({"length": N_PARAMETERS + 1}, "length"),
        ({"payload": "b" * 64}, "payload"),
    ],
)
def test_an_envelope_that_does_not_fit_the_order_is_refused_with_its_code(site: Site, changes: dict[str, object], code: str) -> None:
    assert check("bergen", site.seal(order(), GOOD, **changes), question(site)) == code


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        (GOOD[:-1], "length"),
        (np.append(GOOD, GOOD), "length"),
        (GOOD.reshape(1, -1), "length"),
        (GOOD.astype(np.float64), "dtype"),
        (np.where(np.arange(N_PARAMETERS) == 3, np.nan, GOOD).astype(np.float32), "non-finite"),
        (np.where(np.arange(N_PARAMETERS) == 3, -np.inf, GOOD).astype(np.float32), "non-finite"),
        (np.full(N_PARAMETERS, 3e38, np.float32), "norm"),
        (np.full(N_PARAMETERS, 100.1, np.float32), "norm"),
    ],
)
def test_a_vector_that_cannot_be_folded_is_refused_although_it_is_signed(site: Site, vector: np.ndarray, code: str) -> None:
    assert check("bergen", site.seal(order(), vector), question(site)) == code


def test_other_bytes_than_those_signed_are_refused(site: Site) -> None:
    assert check("bergen", replace(site.seal(order(), GOOD), vector=-GOOD), question(site)) == "payload"


def test_a_signature_of_another_key_is_refused(site: Site) -> None:
    stranger = Site("bergen", size=50, sequence=6, key=SigningKey.generate())
    assert check("bergen", stranger.seal(order(), GOOD), question(site)) == "signature"


def test_a_body_changed_after_signing_is_refused(site: Site) -> None:
    answer = site.seal(order(), GOOD)
    assert answer.envelope is not None
    changed = answer.envelope.model_copy(update={"body": answer.envelope.body.replace('"declared_size":50', '"declared_size":90')})
    assert check("bergen", replace(answer, envelope=changed), question(site)) == "signature"


def test_a_signed_document_that_is_no_envelope_is_refused(site: Site) -> None:
    assert check("bergen", Answer(sign(order(), site.key), GOOD), question(site)) == "malformed"


def test_a_name_outside_the_roster_is_refused(site: Site) -> None:
    assert check("mallory", site.seal(order(), GOOD), question(site)) == "unknown-site"


def test_half_an_answer_or_two_at_once_are_refused(site: Site) -> None:
    whole = site.seal(order(), GOOD)
    for answer in (Answer(), Answer(envelope=whole.envelope), Answer(vector=GOOD), replace(whole, refusal="busy")):
        assert check("bergen", answer, question(site)) == "malformed"


def test_the_same_envelope_again_is_a_harmless_duplicate_and_another_one_is_not(site: Site) -> None:
    answer = site.seal(order(), GOOD)
    assert answer.envelope is not None
    stored = replace(question(site), accepted={"bergen": answer.envelope.digest})

    assert check("bergen", answer, stored) == "duplicate"
    assert check("bergen", site.seal(order(), -GOOD), stored) == "repeated"


def test_a_size_that_no_hospital_has_is_no_weight(site: Site) -> None:
    first = replace(question(site), declared={})
    assert check("bergen", site.seal(order(), GOOD, declared_size=10**18), first) == "declared-size"


def histogram(**cells: float) -> np.ndarray:
    counts = np.zeros(64, np.float32)
    counts[:3] = 4, -2, cells.get("last", 0)
    return counts


def test_noised_counts_may_be_negative(site: Site) -> None:
    assert isinstance(check("bergen", site.seal(order("evaluate"), histogram()), question(site, "evaluate")), Envelope)


@pytest.mark.parametrize("last", [0.5, 2.0**25, -(2.0**25)])
def test_counts_are_whole_and_in_range(site: Site, last: float) -> None:
    assert check("bergen", site.seal(order("evaluate"), histogram(last=last)), question(site, "evaluate")) == "histogram"


def test_a_histogram_has_two_classes_of_32_bins_a_label(site: Site) -> None:
    assert check("bergen", site.seal(order("evaluate"), GOOD), question(site, "evaluate")) == "length"


def test_training_that_is_not_over_is_late_for_evaluation(site: Site) -> None:
    assert check("bergen", site.seal(order("train"), GOOD), question(site, "evaluate")) == "late"


def test_the_norm_bound_grows_with_what_the_protocol_lets_a_site_do() -> None:
    assert norm_bound(PROTOCOL, 4) == 200
    strong = PROTOCOL.model_copy(update={"training": PROTOCOL.training.model_copy(update={"learning_rate": 2.0, "momentum": 0.5})})
    assert norm_bound(strong, 4) == pytest.approx(100 * 4 * math.sqrt(4))


def test_every_check_gives_a_code_of_the_closed_list() -> None:
    assert {code for code, _ in CHECKS} <= set(REJECTION_CODES)


def test_numbers_that_half_precision_does_not_hold_are_not_those_that_were_signed(site: Site) -> None:
    """Stored as float16, 70,000 becomes infinite: one such answer would stop the run at every fold."""
    halved = parse_protocol(protocol(rounds=2).replace(b"retries = 2", b'retries = 2, dtype = "float16"'))
    asked = order().model_copy(update={"protocol": halved.hash})
    judged = Question(asked, "c" * 64, halved, {site.name: site.key.public})
    for first, code in ((70_000.0, "payload"), (1e-9, "payload"), (0.5, None)):
        vector = np.zeros(N_PARAMETERS, np.float32)
        vector[0] = first
        given = site.seal(asked, vector, dtype="float16", payload=vector_hash(vector, "float16"))

        found = check("bergen", given, judged)
        assert found == code if code else isinstance(found, Envelope)
