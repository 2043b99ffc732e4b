"""A site's whole life, twenty times at random: three projects, two more ingests, patients who come, vanish and withdraw (rules 1, 5, 13).

Over all of it nobody who was trained on ever validates, and what the ledger has spent never falls. Whether that is so is told by the
pictures that the work of each order really loads, and by the sums of the ledger's own entries. The check itself is checked.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fakes.exports import Person, picture, write_export
from fakes.patients import network_protocol

from fedrad_client import approval
from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.cohort import withdrawal
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.draft import Draft, Kept
from fedrad_client.cohort.store import open_cohort
from fedrad_client.intake import verb
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.verb import ingest_folder, withdraw_patients
from fedrad_client.privacy.account import Account
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.site import LEDGER, Home, open_site
from fedrad_client.work import Job
from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.chain import Entry
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.protocol import TrainingProtocol, render_protocol
from fedrad_common.records import Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)
FRACTION, LABELS = 0.4, ("lesion", "other", "third")
PROJECTS = (  # other labels, geometries and profiles
    {"name": "first", "task__labels": ["lesion"]},
    {"name": "second", "task__labels": ["other", "lesion"], "input__height": 12},
    {"name": "third", "task__labels": ["third"], "input__profile": "mr"},
)
EVERYBODY = [Person(f"P{number}", (picture(number, 12),), (tuple(str(number >> bit & 1) for bit in range(3)),)) for number in range(16)]


@dataclass
class History:
    """One site, and what a witness of all that it does has seen."""

    home: Home
    coordinator: SigningKey
    protocols: tuple[TrainingProtocol, ...]
    trained: set[str] = field(default_factory=set)  # Patient IDs
    validated: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    spent: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sizes: set[int] = field(default_factory=set)
    rounds: dict[str, int] = field(default_factory=dict)  # of each project's run: the last one
    ingests: int = 0

    def ingest(self, people: list[Person], protocol: TrainingProtocol) -> None:
        self.ingests += 1
        modality = "MR" if protocol.input.profile == "mr" else "CR"
        folder = write_export(self.home.path / f"export-{self.ingests}", people, LABELS, modality=modality)
        (folder / "protocol.toml").write_bytes(render_protocol(protocol))
        ingest_folder(self.home.path, folder / "dicom", protocol=folder / "protocol.toml", labels=folder / "labels.csv", quiet=True)
        with open_site(self.home.path) as site:
            approve(site, render_protocol(protocol), declared_size=60)
        self.look()
        self.ask(protocol, kind="train")  # a run is pinned to the cohort of its first order
        self.ask(protocol, kind="evaluate")

    def withdraw(self, person: Person) -> None:
        before = (self.home.path / LEDGER).read_bytes()
        withdraw_patients(self.home.path, person.patient_id.encode())
        assert (self.home.path / LEDGER).read_bytes() == before
        self.gone.add(person.patient_id)
        self.look()

    def ask(self, protocol: TrainingProtocol, *, kind: str) -> None:
        """The next round of the project's run, where it has one left and was approved."""
        number = self.rounds.get(protocol.name, 0) + (kind == "train")
        if not (1 <= number <= protocol.privacy.rounds) or protocol.hash not in self.home.approvals:
            return
        self.rounds[protocol.name] = number
        run = f"run-0000000{[known.name for known in self.protocols].index(protocol.name)}"
        order = Order(run=run, epoch=1, round=number, kind=kind, protocol=protocol.hash, model=vector_hash(MODEL), length=MODEL.size)
        with open_site(self.home.path) as site:
            answer(site, asked(order, MODEL, self.coordinator, self.home.path), work=self.work)
        self.look()

    def work(self, job: Job, _: Vector) -> Vector:
        """Loads what real work would load, and notes whose pictures they are."""
        part = "training" if job.kind == "train" else "validation"
        cohort = open_cohort(job.cohort, job.generation)
        keys = PseudonymKeys.from_secret(self.home.pseudonym_secret)
        names = {person.pseudonym(keys): person.patient_id for person in EVERYBODY}
        owner = {image.tobytes(): names[record.patient] for record, image in zip(cohort.records, cohort.pixels[0], strict=True)}
        data = load_dataset(cohort, part=part, labels=job.protocol.task.labels, withdrawn=withdrawal.withdrawn(job.cohort))
        seen = {owner[image.tobytes()] for image in data.pixels}
        assert not seen & self.gone
        (self.trained if job.kind == "train" else self.validated).update(seen)
        self.sizes.add(job.plan.declared_size)
        return np.zeros(MODEL.size if job.kind == "train" else 64 * len(job.protocol.task.labels), np.float32)

    def look(self) -> None:
        """After each event."""
        with open_site(self.home.path) as site:
            account, entries = site.ledger.account, site.ledger.chain.entries
        now = (account.training, account.validation, account.numeric_delta)
        paid = [entry.body for entry in entries if entry.type in ("run", "answer")]
        assert all(after >= before for before, after in zip(self.spent, now, strict=True))
        assert now == pytest.approx([sum(body[key] for body in paid) for key in ("cost", "validation_cost", "numeric_delta")])
        assert not self.trained & self.validated
        self.spent = now


def live(history: History, seed: int) -> None:
    """Three projects, at least two re-ingests with others and one withdrawal, in an order of chance."""
    chance = random.Random(seed)
    here = chance.sample(EVERYBODY, 11)
    events = ["ingest", "ingest", "withdraw", *["ask"] * 8]
    chance.shuffle(events)
    order = chance.sample(history.protocols, 3)
    history.ingest(here, order[0])
    for event in [*events, "ask", "ingest", "ask"]:
        if event == "ingest":
            here = list(dict.fromkeys([person for person in here if chance.random() < 0.8] + chance.sample(EVERYBODY, 4)))
            history.ingest(here, order[history.ingests % 3])
        elif event == "withdraw":
            history.withdraw(chance.choice(here))
        else:
            history.ask(chance.choice(history.protocols), kind=chance.choice(["train", "evaluate"]))


@pytest.fixture(scope="module")
def plans() -> Callable[..., Plan]:
    """A plan depends on no site's data, and the three projects ask for the same privacy: it is worked out once."""
    made: list[Plan] = []

    def plan(protocol: TrainingProtocol, **given: object) -> Plan:
        if not made:
            made.append(make_plan(protocol, **given))
        return made[0].model_copy(update={"protocol": protocol.hash})

    return plan


@pytest.fixture
def begin(make_site, coordinator, protocol_bytes: bytes, monkeypatch, plans) -> Callable[[int], History]:
    monkeypatch.setattr(approval, "make_plan", plans)

    def site(seed: int) -> History:
        home = make_site(f"site-{seed}", validation_fraction=FRACTION)
        shutil.rmtree(home.cohort)
        (home.path / "keys" / "pseudonym.key").write_text(sha256_hex(b"%d" % seed))  # the same life each time
        echo = {"task__kind": "echo", "model__name": "echo", "model__options": {"length": MODEL.size}, "evaluation__rounds": [1, 2, 3]}
        return History(home, coordinator, tuple(network_protocol(protocol_bytes, **{**echo, **project}) for project in PROJECTS))

    return site


@pytest.mark.parametrize("seed", range(20))
def test_in_any_history_nobody_trains_and_validates_and_what_was_spent_never_falls(begin, seed: int) -> None:
    history = begin(seed)
    live(history, seed)

    assert history.ingests == 4
    assert len(history.gone) == 1
    assert history.sizes == {60}  # the withdrawal changed no declared size
    assert history.spent[0] > 0
    assert history.rounds.keys() == {protocol.name for protocol in history.protocols}
    assert len(history.trained) > 2


# ── the check is checked ──


def a_split_key_per_project(monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = verb.ingest

    def ingested(*given, keys, label_names, **settings):
        return ingest(*given, keys=replace(keys, split=keys.split + "".join(label_names).encode()), label_names=label_names, **settings)

    monkeypatch.setattr(verb, "ingest", ingested)


def a_split_by_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Draft.settle

    def shuffled(draft: Draft) -> list[Kept]:
        patients = sorted({image.patient for image in settle(draft)})
        validating = set(random.Random(0).sample(patients, round(FRACTION * len(patients))))
        parts = ({**json.loads(image.line), "part": "validation" if image.patient in validating else "training"} for image in draft.kept)
        draft.kept = [replace(image, line=canonical_json(part) + b"\n") for image, part in zip(draft.kept, parts, strict=True)]
        return draft.kept

    monkeypatch.setattr(Draft, "settle", shuffled)


def a_loader_without_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawal, "withdrawn", lambda _: frozenset())
    monkeypatch.setattr(withdrawal, "check_tombstones", lambda *_: None)


def forgetting(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A ledger whose account holds only the runs of the newest run's cohort, or project."""
    plus = Account.plus

    def kept(account: Account, entry: Entry) -> Account:
        runs = account.runs if entry.type != "run" else tuple(body for body in account.runs if body[key] == entry.body[key])
        return plus(replace(account, runs=runs), entry)

    monkeypatch.setattr(Account, "plus", kept)


def a_ledger_per_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetting(monkeypatch, "generation")


def a_ledger_per_project(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetting(monkeypatch, "protocol")


PLANTED = (a_split_key_per_project, a_split_by_permutation, a_loader_without_tombstones, a_ledger_per_cohort, a_ledger_per_project)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_bug_is_found_in_some_history(begin, monkeypatch, plant) -> None:
    plant(monkeypatch)

    def all_histories() -> None:
        for seed in range(20):
            live(begin(seed), seed)

    with pytest.raises(AssertionError):
        all_histories()
