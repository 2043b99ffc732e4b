"""A declared size, never the count (privacy.md, rule 2): nothing that leaves a site changes when one patient more is there.

Sites of the same name, keys, clock and entropy, that differ in how many patients they have and in nothing else.
"""

import ast
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.patients import Asking, network_protocol, patients, sizes, write_patients
from fakes.steps import one_thread  # noqa: F401 - a fixture

from fedrad_client.app import handle
from fedrad_client.approval import preview
from fedrad_client.privacy import batches, optimizer, plan
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import make_plan
from fedrad_client.site import Home, open_site
from fedrad_client.work import Job, Work, run_inline
from fedrad_common import chain, messages
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol, render_protocol, replace_settings
from fedrad_common.records import Envelope
from fedrad_server.aggregation import weighted_mean

# isort: split
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

DECLARED = 60
COUNTS = (40, 41, 29, 120)  # patients who train; 29 are below half of the declared size
PAYLOAD = {"payload"}  # the only field of an envelope that real work may change, and with it the signature


FOLLOWS = {"manifest", "audit"}  # after a first answer: the one counts its payload, the other names it


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def protocol(protocol_bytes: bytes) -> TrainingProtocol:
    return network_protocol(protocol_bytes)


@pytest.fixture
def asking(make_site, coordinator, protocol: TrainingProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Asking]:
    """A site with that many training patients that has approved the protocol for the declared size."""
    key = SigningKey.generate()
    monkeypatch.setattr("fedrad_client.site.SigningKey.generate", lambda: key)
    monkeypatch.setattr(chain, "datetime", Noon)
    monkeypatch.setattr("fedrad_client.audit.secrets.token_hex", lambda size: "0" * 2 * size)  # whose heads would differ anyway
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def make(count: int) -> Asking:
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "north"
        place.parent.mkdir()
        home = Home(make_site().path.rename(place))  # inline work keeps a data set in memory by its path
        everybody = [*patients(count, part="training"), *patients(12, part="validation", seed=1)]
        write_patients(home.cohort, everybody)
        return Asking.approved(home, coordinator, protocol, declared_size=DECLARED)

    return make


def entropy(size: int) -> bytes:
    return bytes(range(size))


@dataclass(frozen=True)
class Left:
    """All that left a site in one reply."""

    fields: dict[str, Any]  # of the envelope
    signed: str  # its bytes and the signature over them
    records: dict[str, Any]  # of the message
    objects: list[tuple[str, int]]  # kind and bytes of each that Flower would push
    vector: Vector


def left(message: Message) -> Left:
    answer = messages.read_answer(message.content)
    assert answer.refusal is None, f"answered with the code {answer.refusal}"
    assert answer.envelope is not None
    assert answer.vector is not None
    records = {name: sorted(record) for name, record in message.content.items()}
    return Left(json.loads(answer.envelope.body), answer.envelope.model_dump_json(), records, sizes(message), answer.vector)


def replies(ask: Asking, *, work: Work = run_inline) -> list[Left]:
    """To the orders of two rounds."""
    orders = ({"kind": "train", "round": 1}, {"kind": "evaluate", "round": 1}, {"kind": "train", "round": 2})
    with open_site(ask.home.path) as site:
        return [left(handle(ask.message(**order), site=site, work=work, entropy=entropy)) for order in orders]


def same_numbers(job: Job, model: Vector) -> Vector:
    """Work that gives what work gives, but for what depends on the data."""
    return np.random.default_rng(list(job.secret)).normal(size=model.size if job.kind == "train" else 64).astype(np.float32)


# ── the spy ──


def test_with_the_same_numbers_every_byte_that_leaves_is_the_same_whatever_the_count(asking) -> None:
    first, *others = [replies(asking(count), work=same_numbers) for count in COUNTS]

    for other in others:
        for expected, found in zip(first, other, strict=True):
            assert found.signed == expected.signed
            assert (found.records, found.objects) == (expected.records, expected.objects)
            assert found.vector.tobytes() == expected.vector.tobytes()


def test_with_real_work_all_but_the_noisy_numbers_and_their_hash_is_the_same(asking) -> None:
    first, *others = [replies(asking(count)) for count in COUNTS]

    assert set(first[0].fields) == set(Envelope.model_fields)
    for other in others:
        for number, (expected, found) in enumerate(zip(first, other, strict=True)):
            changed = {name for name in found.fields if found.fields[name] != expected.fields[name]}
            assert changed <= (PAYLOAD | FOLLOWS if number else PAYLOAD)
            assert len(found.signed) == len(expected.signed)
            assert (found.records, found.objects) == (expected.records, expected.objects)
            assert found.vector.shape == expected.vector.shape
        assert other[0].vector.tobytes() != first[0].vector.tobytes()  # the data was really another one


def test_the_spread_of_an_update_is_that_of_the_noise_made_for_the_declared_size(asking) -> None:
    """With the noise's key known, what is left of an update is bounded by the clip: sigma has not moved by one patient's worth."""
    ask = asking(COUNTS[0])
    with open_site(ask.home.path) as site:
        found = site.approved(ask.protocol.hash)
    assert found is not None
    constants = found[1]
    spread = constants.noise_multiplier * ask.protocol.privacy.clip_norm / constants.expected_batch
    expected = ask.protocol.training.learning_rate * spread * ask.protocol.privacy.steps_per_round**0.5

    for count in COUNTS:
        assert replies(asking(count))[0].vector.std() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "told",
    [
        lambda site: {"declared_size": patients_of(site)},
        lambda site: {"sequence": patients_of(site)},
        lambda site: {"length": patients_of(site)},
    ],
)
def test_a_field_that_followed_the_count_would_be_seen(asking, monkeypatch: pytest.MonkeyPatch, told) -> None:
    """The spy itself: a count in any field is one that differs."""
    from fedrad_client import answer

    real = answer.sign

    def leaking(envelope: Envelope, key: SigningKey):
        return real(envelope.model_copy(update=told(site)), key)

    seen = []
    monkeypatch.setattr(answer, "sign", leaking)
    for count in COUNTS[:2]:
        ask = asking(count)
        with open_site(ask.home.path) as site:
            seen.append(left(handle(ask.message(), site=site, work=same_numbers, entropy=entropy)).signed)
    assert seen[0] != seen[1]


def patients_of(site) -> int:
    from fedrad_client.cohort.store import open_cohort

    return len({record.patient for record in open_cohort(site.cohort).records})


# ── what training computes with ──


def test_rate_noise_and_divisor_are_the_plans_whatever_the_count(asking, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    scales: set[float] = set()
    divisors: set[float] = set()
    shapes: set[int] = set()
    bernoulli, normal, divide, cut = (
        AesNoise.bernoulli,
        AesNoise.grid_normal_parts,
        optimizer.PatientOptimizer.scale_grad,
        batches.Batch.cut,
    )

    def draw(self: AesNoise, n: int, probability: float):
        rates.append(probability)
        return bernoulli(self, n, probability)

    def noise(self: AesNoise, count: int, *, scale: float, threads: int):
        scales.add(scale)
        return normal(self, count, scale=scale, threads=threads)

    def divided(self: optimizer.PatientOptimizer) -> None:
        before = [parameter.grad.double() for parameter in self.params]
        divide(self)
        after = [parameter.grad.double() for parameter in self.params]
        divisors.update(round(float((one / two).median()), 4) for one, two in zip(before, after, strict=True))

    def shape(self: batches.Batch, chunk: slice, *, filled_to: int = 0) -> batches.Batch:
        made = cut(self, chunk, filled_to=filled_to)
        shapes.add(len(made.images))
        return made

    monkeypatch.setattr(AesNoise, "bernoulli", draw)
    monkeypatch.setattr(AesNoise, "grid_normal_parts", noise)
    monkeypatch.setattr(optimizer.PatientOptimizer, "scale_grad", divided)
    monkeypatch.setattr(batches.Batch, "cut", shape)
    for count in COUNTS:
        ask = asking(count)
        replies(ask)
        with open_site(ask.home.path) as site:
            found = site.approved(ask.protocol.hash)
    assert found is not None
    constants = found[1]
    assert constants.sampling_rate == ask.protocol.privacy.expected_batch / DECLARED
    assert constants.expected_batch == constants.sampling_rate * DECLARED
    assert len(rates) == 2 * len(COUNTS) * ask.protocol.privacy.steps_per_round
    assert set(rates) == {constants.sampling_rate}
    assert scales == {constants.noise_multiplier / optimizer.GRID}
    assert divisors == {constants.expected_batch}
    assert len(shapes) == 1  # nor does the number of images at a time


def test_a_plan_is_made_of_the_protocol_the_declared_size_and_the_ledgers_constants() -> None:
    """There is no argument through which a count could come."""
    assert list(inspect.signature(make_plan).parameters) == [
        "protocol", "n_parameters", "declared_size", "delta", "numeric_delta", "least_noise", "validation_fraction",
    ]  # fmt: skip
    assert not [name for name in ast.walk(ast.parse(inspect.getsource(plan))) if isinstance(name, ast.Name) and "cohort" in name.id]


def test_the_plan_of_a_site_is_the_same_whatever_the_count(asking) -> None:
    plans = []
    for count in COUNTS:
        ask = asking(count)
        plans.append((ask.home.path / "approved" / ask.protocol.hash / "plan.json").read_bytes())

    assert len(set(plans)) == 1
    assert json.loads(plans[0])["declared_size"] == DECLARED


def test_the_least_patients_that_evaluate_come_from_the_declared_size(protocol: TrainingProtocol) -> None:
    protocol = replace_settings(protocol, {"privacy.unit": "none", "privacy.epsilon": None})  # no noise to be calibrated
    settings = {"n_parameters": 1, "delta": 1e-4, "numeric_delta": 1e-10, "least_noise": 0.5, "validation_fraction": 0.2}

    assert make_plan(protocol, declared_size=50, **settings).evaluation == "noised"
    assert make_plan(protocol, declared_size=49, **settings).evaluation == "none"


def test_a_site_weighs_in_the_model_what_it_declared(asking) -> None:
    envelopes = [replies(asking(count), work=same_numbers)[0].fields for count in COUNTS[:2]]
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    means = [weighted_mean([(ones, fields["declared_size"]), (zeros, 40)], n_parameters=4) for fields in envelopes]

    np.testing.assert_array_equal(means[0], means[1])
    assert means[0][0] == pytest.approx(DECLARED / (DECLARED + 40))


# ── below half of it ──


def test_below_half_of_the_declared_size_a_person_is_warned_and_nothing_else_happens(asking, protocol: TrainingProtocol) -> None:
    warned = {}
    for count in (29, 30, 12):
        ask = asking(count)
        with open_site(ask.home.path) as site:
            opening, account = site.ledger.opening, site.ledger.account
        seen = preview(ask.home, opening, account, render_protocol(protocol), declared_size=DECLARED)
        warned[count] = [warning for warning in seen.warnings if "fewer than half" in warning]
        assert seen.obstacles == ()
        assert seen.plan.declared_size == DECLARED

    assert [len(warned[count]) for count in (29, 30, 12)] == [1, 0, 1]
    assert warned[29] == warned[12]  # not even here is the count said
