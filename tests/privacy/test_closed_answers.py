"""A site's answers are a closed list that does not depend on patients, and their size is constant (privacy.md, rule 10).

Trouble in the data is no code: whoever cannot be learned from adds nothing, and a normal noisy update of the usual size leaves.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from fakes.patients import SIDE, Asking, Patient, network_protocol, patients, sizes, write_patients

from fedrad_client.app import handle
from fedrad_client.cohort.dataset import Dataset, load_dataset
from fedrad_client.cohort.store import open_cohort
from fedrad_client.policy import REASONS
from fedrad_client.site import Home, open_site
from fedrad_client.work import Job, Work, run_inline
from fedrad_client.work.tensors import to_unit_range
from fedrad_common import messages
from fedrad_common.errors import REFUSAL_CODES, MisuseError, Refusal, RefusalCode
from fedrad_common.models import build
from fedrad_common.packing import Vector, unpack
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Answer, Envelope

# isort: split
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

WHITE = np.full((2, SIDE, SIDE), 65535, np.uint16)
BLACK = np.zeros((2, SIDE, SIDE), np.uint16)
ORDINARY = patients(60)

# Data that a naive site would stumble over, each beside the same declared size of 60.
COHORTS: dict[str, list[Patient]] = {
    "ordinary": ORDINARY,
    "all ill": patients(60, label=1),
    "all healthy": patients(60, label=0),
    "all unlabelled": patients(60, unlabelled=True),
    "nobody left in training": patients(12, part="validation"),
    "nobody in validation": patients(48, part="training"),
    "one patient": patients(1, part="training"),
    "one patient, who validates": patients(1, part="validation"),
    "one unlabelled patient": patients(1, part="training", unlabelled=True),
    "a patient with a thousand images": [*ORDINARY, *patients(1, n_images=1000, part="training", seed=9)],
    "a thousand images that validate": [*ORDINARY, *patients(1, n_images=1000, part="validation", seed=9)],
    "all black": [replace(patient, images=BLACK) for patient in ORDINARY],
    "all white": [replace(patient, images=WHITE) for patient in ORDINARY],
    "one picture for all, with both labels": [replace(patient, images=ORDINARY[0].images) for patient in ORDINARY],
    "one patient more": patients(61),
    "thrice the declared size": patients(180),
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def protocol(protocol_bytes: bytes) -> TrainingProtocol:
    return network_protocol(protocol_bytes)


@pytest.fixture
def new_home(make_site, tmp_path: Path) -> Callable[[], Home]:
    """Sites of one name, each in a folder of its own: inline work keeps a data set in memory by its path."""

    def make() -> Home:
        made, place = make_site().path, tmp_path / f"{len(list(tmp_path.iterdir()))}" / "north"
        place.parent.mkdir()
        return Home(made.rename(place))

    return make


@pytest.fixture
def asking(new_home, coordinator, protocol: TrainingProtocol) -> Callable[..., Asking]:
    """A site of these patients that has approved the protocol, for 60 declared ones."""

    def make(people: list[Patient], *, protocol: TrainingProtocol = protocol, declared_size: int = 60) -> Asking:
        home = new_home()
        write_patients(home.cohort, people)
        return Asking.approved(home, coordinator, protocol, declared_size=declared_size)

    return make


FIRST = {"train": 1, "evaluate": 1}  # the round of each order
LATER = {"train": 2, "evaluate": 3}  # whose weights are the coordinator's to choose


def replies(ask: Asking, *, work: Work = run_inline, rounds: Mapping[str, int] = FIRST) -> dict[str, Message]:
    with open_site(ask.home.path) as site:
        return {kind: handle(ask.message(kind=kind, round=number), site=site, work=work) for kind, number in rounds.items()}


@dataclass(frozen=True)
class Left:
    """What left a site in one reply, as anybody on the wire sees it."""

    fields: dict[str, Any]  # of the envelope, without the hashes of what is random
    objects: list[tuple[str, int]]  # kind and bytes of each of the message's objects
    deviation: float  # of the vector's numbers


def left(message: Message) -> Left:
    answer = messages.read_answer(message.content)
    assert answer.refusal is None, f"answered with the code {answer.refusal}"
    assert answer.envelope is not None
    assert answer.vector is not None
    fields = json.loads(answer.envelope.body)
    assert set(fields) == set(Envelope.model_fields)
    assert np.isfinite(answer.vector).all()
    random = {name: len(fields.pop(name)) for name in ("payload", "ledger", "audit", "manifest", "model")}
    return Left(fields | random, sizes(message), float(answer.vector.std()))


def noise_alone(ask: Asking) -> float:
    """The standard deviation of an update from noise: rate × sigma × clip over the divisor, for each of the round's steps."""
    with open_site(ask.home.path) as site:
        found = site.approved(ask.protocol.hash)
    assert found is not None
    _, plan = found
    a_step = plan.noise_multiplier * ask.protocol.privacy.clip_norm / plan.expected_batch
    return ask.protocol.training.learning_rate * a_step * ask.protocol.privacy.steps_per_round**0.5


def histogram_noise(ask: Asking) -> float:
    with open_site(ask.home.path) as site:
        found = site.approved(ask.protocol.hash)
    assert found is not None
    return found[1].evaluation_noise


@dataclass(frozen=True)
class Usual:
    train: Left
    evaluate: Left


@pytest.fixture
def usual(asking) -> Usual:
    """What leaves a site whose data is sound."""
    return Usual(**{kind: left(message) for kind, message in replies(asking(ORDINARY)).items()})


def must_look_usual(ask: Asking, usual: Usual, *, work: Work = run_inline, rounds: Mapping[str, int] = FIRST) -> None:
    """The promise: same fields, same bytes, and numbers that are the noise's in the main."""
    seen = {kind: left(message) for kind, message in replies(ask, work=work, rounds=rounds).items()}
    for kind, expected in (("train", usual.train), ("evaluate", usual.evaluate)):
        assert seen[kind].fields == {**expected.fields, "round": rounds[kind]}, kind
        assert seen[kind].objects == expected.objects, kind
    # 0.1: five standard errors of a deviation over this many parameters; a few patients' clipped gradients hardly count beside them
    assert seen["train"].deviation == pytest.approx(noise_alone(ask), rel=0.1 + 5 / (2 * ask.model.size) ** 0.5)
    assert seen["evaluate"].deviation > histogram_noise(ask) * (1 - 5 / (2 * 64) ** 0.5)


@pytest.mark.parametrize("people", COHORTS.values(), ids=COHORTS)
def test_whatever_the_patients_are_a_normal_noisy_update_of_the_same_size_leaves(asking, usual: Usual, people: list[Patient]) -> None:
    must_look_usual(asking(people), usual)


def hostile_model(ask: Asking) -> Vector:
    """The largest numbers in the first convolution, of 8 channels of 3 × 3."""
    hostile = ask.model.copy()
    hostile[: 8 * 9] = np.float32(3e38)
    return hostile


@pytest.mark.parametrize("people", ["all", "one", "nobody"])
def test_a_model_chosen_so_that_a_patient_overflows_learns_nothing_of_it(asking, usual: Usual, people: str) -> None:
    """The coordinator chooses the weights: blank pictures stay finite through them, others become infinite and then NaN."""
    blank = COHORTS["all black"]
    ask = asking(
        {"all": ORDINARY, "one": [replace(blank[0], part="training", images=ORDINARY[0].images), *blank[1:]], "nobody": blank}[people]
    )
    must_look_usual(ask.with_model(hostile_model(ask)), usual, rounds=LATER)


def test_the_hostile_model_overflows_for_some_pictures_only(asking) -> None:
    """Without this, the test above could pass for a harmless model."""
    ask = asking(ORDINARY)
    network = build(ask.protocol.model, n_outputs=1, height=SIDE, width=SIDE)
    unpack(network, hostile_model(ask))
    with torch.no_grad():
        blank, other = (network(to_unit_range(images[:1])) for images in (BLACK, ORDINARY[0].images))

    assert torch.isfinite(blank).all()
    assert not torch.isfinite(other).any()


@pytest.mark.parametrize("settings", [{"training__proximal": 1.0}, {"training__optimizer": "adamw"}, {"training__weight_decay": 0.1}])
def test_no_setting_of_the_local_steps_makes_trouble_in_the_data_a_code(asking, protocol_bytes: bytes, settings: dict[str, object]) -> None:
    protocol = network_protocol(protocol_bytes, **settings)
    ask = asking(COHORTS["nobody left in training"], protocol=protocol)

    assert left(replies(ask)["train"]).objects


# ── whether an update overflows is decided after the noise ──


def test_a_rate_that_overflows_does_so_for_whomever_is_there(asking, protocol_bytes: bytes) -> None:
    """The one reason for `internal` that work can give: it is computed from the noisy sum, never from a patient."""
    protocol = network_protocol(protocol_bytes, training__learning_rate=3e38, privacy__clip_norm=100.0)
    asked = [asking(people, protocol=protocol) for people in (ORDINARY, COHORTS["nobody left in training"])]
    first, second = (replies(ask)["train"] for ask in asked)

    assert messages.read_answer(first.content) == messages.read_answer(second.content) == Answer(refusal="internal")
    assert sizes(first) == sizes(second)
    for ask in asked:
        with open_site(ask.home.path) as site:
            assert [entry.body["reason"] for entry in site.audit.entries if entry.type == "refuse"] == ["work-failed"]


# ── ingest: what cannot be read is set aside there, and never becomes an answer ──


def test_a_picture_that_cannot_be_read_is_set_aside_at_ingest_and_shows_in_no_answer(
    new_home, coordinator, protocol_bytes: bytes, tmp_path: Path
) -> None:
    from fedrad_client.intake.deid.rules import PseudonymKeys
    from fedrad_client.intake.ingest import ingest
    from fedrad_client.intake.pixels.image import Geometry
    from fedrad_common.profiles import profile
    from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

    folder = tmp_path / "raw"
    write_hospital(scaled(HOSPITALS[1], 0.04), folder, seed=1)
    seen = []
    for damage in (0, 3):
        files = sorted((folder / "dicom").rglob("*.dcm"))
        for path in files[:damage]:
            path.write_bytes(path.read_bytes()[:-50])  # its pixels end too early
        home = new_home()
        shutil.rmtree(home.cohort)
        done = ingest(
            folder / "dicom", folder / "labels.csv", cohort=home.cohort, geometry=Geometry(profile("xr"), SIDE, SIDE),
            label_names=("lesion",), keys=PseudonymKeys.from_secret(bytes(32)), validation_fraction=0.2,
        )  # fmt: skip
        seen.append((sum(done.counts.values()), replies(Asking.approved(home, coordinator, network_protocol(protocol_bytes)))))
    (set_aside, sound), (more_set_aside, broken) = seen

    assert more_set_aside == set_aside + 3
    for kind in ("train", "evaluate"):
        assert left(broken[kind]).fields == left(sound[kind]).fields
        assert sizes(broken[kind]) == sizes(sound[kind])


# ── sizes ──


def test_every_answer_of_a_run_has_the_same_size(asking) -> None:
    """Over rounds, and with a stored one in between: what varies is a digit of a sequence number at most."""
    ask = asking(ORDINARY)
    with open_site(ask.home.path) as site:
        made = [handle(ask.message(round=number), site=site, work=run_inline) for number in (1, 2, 2, 3)]

    assert len({tuple(sizes(message)) for message in made}) == 1


def test_every_refusal_is_one_code_of_the_closed_list_and_nothing_else() -> None:
    assert get_args(RefusalCode) == ("paused", "hours", "busy", "policy", "budget", "disk", "version", "internal")
    assert {code for code, _ in REASONS.values()} <= set(REFUSAL_CODES)
    for code in REFUSAL_CODES:
        content = messages.answer_content(Answer(refusal=code))
        assert {name: dict(record) for name, record in content.items()} == {"refused": {"code": code}}


# ── policy ──


@pytest.mark.parametrize("people", ["ordinary", "nobody in validation", "one patient, who validates", "thrice the declared size"])
@pytest.mark.parametrize(("declared_size", "evaluates"), [(49, False), (60, True)])
def test_whether_a_site_evaluates_follows_from_the_declared_size_and_never_from_the_count(
    asking, people: str, declared_size: int, evaluates: bool
) -> None:
    ask = asking(COHORTS[people], declared_size=declared_size)
    with open_site(ask.home.path) as site:
        answer = messages.read_answer(handle(ask.message(kind="evaluate"), site=site, work=run_inline).content)

    assert answer.refusal == (None if evaluates else "policy")


# ── the check itself is checked ──


def training_part(job: Job) -> Dataset:
    return load_dataset(open_cohort(job.cohort, job.generation), part="training", labels=job.protocol.task.labels)


def refuses_one_class(job: Job, model: Vector) -> Vector:
    """The planted bug: a site that says in a code that all of its patients are of one class."""
    labels = training_part(job).labels
    if len(np.unique(labels[~np.isnan(labels)])) < 2:
        raise Refusal("policy", "one class only", hint="work-failed")
    return run_inline(job, model)


def raises_when_empty(job: Job, model: Vector) -> Vector:
    if training_part(job).n_patients == 0:
        raise MisuseError("nobody is left")
    return run_inline(job, model)


def skips_empty_steps(job: Job, model: Vector) -> Vector:
    vector = run_inline(job, model)
    return np.zeros_like(vector) if training_part(job).n_patients == 0 and job.kind == "train" else vector


def sends_who_was_there(job: Job, model: Vector) -> Vector:
    return run_inline(job, model)[: -1 if training_part(job).n_patients < 30 else None]


@pytest.mark.parametrize(
    ("planted", "people"),
    [
        (refuses_one_class, "all ill"),
        (raises_when_empty, "nobody left in training"),
        (skips_empty_steps, "nobody left in training"),
        (sends_who_was_there, "one patient"),
    ],
    ids=["code by class", "code by count", "no noise for nobody", "size by count"],
)
def test_an_answer_that_depends_on_the_data_is_noticed(asking, usual: Usual, planted: Work, people: str) -> None:
    must_look_usual(asking(ORDINARY), usual, work=planted)

    with pytest.raises(AssertionError):
        must_look_usual(asking(COHORTS[people]), usual, work=planted)
