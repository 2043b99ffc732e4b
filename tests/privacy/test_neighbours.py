"""One patient in, one record out (privacy.md, rule 5): with and without one patient, every other patient's bytes are the same.

Compared are the records, pixels, labels and parts of an ingest, the rows of the data set, the fixed features, the validation scores and the
sum of one clipped step, for patients who do their worst. The comparison itself is checked: it fails for each bug planted below.
"""

import copy
import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fakes.exports import Person, dicom, picture, write_export
from fakes.patients import network_protocol
from torch import Tensor, nn

from fedrad_client.cohort import dataset as datasets
from fedrad_client.cohort.dataset import Dataset
from fedrad_client.cohort.draft import Draft, Kept
from fedrad_client.cohort.store import open_cohort
from fedrad_client.cohort.withdrawal import WITHDRAWN, withdraw
from fedrad_client.config import Resources
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.privacy import batches
from fedrad_client.privacy.optimizer import GRID, PatientOptimizer
from fedrad_client.privacy.plan import Plan
from fedrad_client.work import Job, compute, run_inline, scoring
from fedrad_common.canonical import canonical_json
from fedrad_common.models import build
from fedrad_common.packing import pack
from fedrad_common.profiles import profile
from fedrad_common.protocol import Model, TrainingProtocol

KEYS = PseudonymKeys.from_secret(bytes(range(32)))
FRACTION, SIDE, LABELS = 0.3, 16, ("lesion", "other")
Sum = npt.NDArray[np.float64]

SHARE = 1e-9  # of the bound: what one patient more may move of the others' sum


# ── the people ──


def trains(person: Person) -> bool:
    return person.part(KEYS, fraction=FRACTION) == "training"


def resident(number: int) -> Person:
    values = (str(number % 2), "" if number % 3 == 0 else str(number // 2 % 2))
    return Person(f"P{number}", (picture(10 * number), picture(10 * number + 1)), (values,))


BASE = [resident(number) for number in range(9)]
VICTIM = next(person for person in BASE if trains(person) and trains(dataclasses.replace(person, issuer="EAST")))
# Whoever comes trains, and stands before the victim in every order: by file and by pseudonym.
NEW = next(
    name
    for name in (f"NEW{number}" for number in range(100))
    if trains(Person(name, (), ())) and Person(name, (), ()).pseudonym(KEYS) < VICTIM.pseudonym(KEYS)
)
BRIGHT = np.full((20, 20), 4095, np.uint16)
BRIGHT[0, 0] = 0
VICTIMS_UIDS = (VICTIM.uid(0), VICTIM.uid(1))

HOSTILE = {
    "a stranger": Person(NEW, (picture(900),), (("1", "1"),)),
    "a copy of another's pixels": Person(NEW, VICTIM.images, (("0", "1"),)),
    "another's image UIDs": Person(NEW, (picture(900), picture(901)), (("0", "0"),), uids=VICTIMS_UIDS),
    "a copy with UIDs and contradictory rows": Person(NEW, VICTIM.images, (("0", "0"), ("1", "")), uids=VICTIMS_UIDS, by_image=True),
    "a contradictory label row": Person(NEW, (picture(900),), (("0", "1"), ("1", "1"))),
    "nothing but contradictions": Person(NEW, (picture(900),), (("0", "1"), ("1", "0"))),
    "no label": Person(NEW, (picture(900),), ()),
    "unreadable files": Person(NEW, (picture(900),), (("1", "0"),), others=(b"\0" * 200, dicom(NEW, "1.2.3", picture(1))[:700])),
    "pixels without a finite gradient": Person(NEW, (BRIGHT,), (("1", "1"),)),
    "the same Patient ID, another issuer": Person(VICTIM.patient_id, (picture(900),), (("0", "1"),), issuer="EAST"),
    "the same Patient ID, contradicting it": Person(VICTIM.patient_id, (picture(900),), (("0", "1"), ("1", "0")), issuer="EAST"),
    "a hundred images": Person(NEW, tuple(picture(1000 + number, 17) for number in range(100)), (("1", ""),)),
}


# ── the networks ──


class Touchy(nn.Module):
    """Takes an almost white picture to infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.linear(flat) / (0.9 - flat.mean(1, keepdim=True)).clamp(min=0)


def with_weights(made: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return made.eval()


def registered(name: str, **options: object) -> nn.Module:
    return with_weights(build(Model(name=name, options=options), n_outputs=len(LABELS), height=SIDE, width=SIDE))


NETWORKS = {
    "resnet": registered("resnet", channels=8, stages=1),
    "scatter-resnet": registered("scatter-resnet", channels=8, orientations=4),
    "touchy": with_weights(Touchy()),
}


# ── the site ──


@dataclass(frozen=True)
class Site:
    """A cohort of some people, and what is seen of it."""

    cohort: Path
    protocol: TrainingProtocol

    def kept(self) -> dict[str, list[object]]:
        """All that an ingest kept of each patient's images, by pseudonym."""
        opened, found = open_cohort(self.cohort), {}
        for record, labels, image in zip(opened.records, opened.labels, np.concatenate(opened.pixels), strict=True):
            found.setdefault(record.patient, []).append((record.line(), labels.tobytes(), image.tobytes()))
        return found

    def seen(self) -> dict[str, list[object]]:
        """What training and evaluation see of each patient, bit by bit: part, pixels, labels, fixed features, score and class."""
        opened, found = open_cohort(self.cohort), {}
        for part in ("training", "validation"):
            data = datasets.load_dataset(opened, part=part, labels=LABELS)
            patients = sorted({record.patient for record in opened.records if record.part == part})
            features = scoring.features_of(data.pixels, NETWORKS["scatter-resnet"].features)
            scored = scoring.patient_scores(data, NETWORKS["resnet"], score=torch.sigmoid, resources=Resources(threads=1, device="cpu"))
            for place, name in enumerate(patients):
                mine = data.owner == place
                columns = (data.pixels[mine], data.labels[mine], features[mine].numpy(), scored[0][place], scored[1][place])
                found[name] = [part, *(column.tobytes() for column in columns)]
        return found

    def summed(self, name: str, monkeypatch: pytest.MonkeyPatch) -> Sum:
        """One step's sum of all patients' clipped vectors in steps of the grid, before the noise, through the whole work for one order."""
        caught: list[Sum] = []
        noised = PatientOptimizer.add_noise

        def look(optimizer: PatientOptimizer) -> None:
            caught.append(torch.cat([parameter.summed_grad.flatten() for parameter in optimizer.params]).numpy().copy())
            noised(optimizer)

        plan = Plan(
            protocol=self.protocol.hash, n_parameters=1, declared_size=20, sampling_rate=1.0, expected_batch=20.0, noise_multiplier=1.0,
            delta=1e-4, epsilon=8.0, evaluation="none", evaluation_noise=0.0,
        )  # fmt: skip
        job = Job(self.protocol, "train", 1, plan, bytes(range(32)), self.cohort, 1, Resources(threads=1, device="cpu"))
        compute._features.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(PatientOptimizer, "add_noise", look)
            patched.setattr(compute, "_network", lambda _: copy.deepcopy(NETWORKS[name]))
            run_inline(job, pack(NETWORKS[name]))
        (only,) = caught
        return only

    def after_leaving(self, gone: set[str]) -> "Site":
        """The same generation, without these patients from now on."""
        (self.cohort / WITHDRAWN).unlink(missing_ok=True)
        withdraw(self.cohort, gone, key=KEYS.id)
        return self


@pytest.fixture
def protocol(protocol_bytes: bytes) -> TrainingProtocol:
    sides = {"input__height": SIDE, "input__width": SIDE}
    return network_protocol(protocol_bytes, task__labels=list(LABELS), privacy__steps_per_round=1, privacy__max_images=4, **sides)


@pytest.fixture
def site_of(tmp_path: Path, protocol: TrainingProtocol) -> Callable[..., Site]:
    def make(*people: Person, name: str) -> Site:
        export = write_export(tmp_path / name, people, LABELS)
        cohort = tmp_path / f"cohort-{name}"
        ingest(
            export / "dicom", export / "labels.csv", cohort=cohort, geometry=Geometry(profile("xr"), SIDE, SIDE), label_names=LABELS,
            keys=KEYS, validation_fraction=FRACTION,
        )  # fmt: skip
        return Site(cohort, protocol)

    return make


# ── the promise ──


def must_not_know(without: Site, others: Site, who: Person) -> None:
    """Everybody else's bytes are the same."""
    gone = who.pseudonym(KEYS)
    for look in (Site.kept, Site.seen):
        before, after = look(without), look(others)
        assert set(after) - {gone} == set(before)
        assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("what", HOSTILE)
def test_nobody_elses_bytes_know_whether_a_patient_is_there(site_of, what: str) -> None:
    must_not_know(site_of(*BASE, name="without"), site_of(HOSTILE[what], *BASE, name="with"), HOSTILE[what])


SILENT = {  # whose vector is zero, by network
    "nothing but contradictions": set(NETWORKS),
    "no label": set(NETWORKS),
    "the same Patient ID, contradicting it": set(NETWORKS),
    "pixels without a finite gradient": {"touchy"},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_steps_sum_with_a_patient_less_that_patients_vector_is_the_sum_without(site_of, what: str, monkeypatch) -> None:
    """And a patient who withdrew is as one who was never there."""
    without, others, who = site_of(*BASE, name="without"), site_of(HOSTILE[what], *BASE, name="with"), HOSTILE[what].pseudonym(KEYS)
    everybody = set(others.kept())
    for name in NETWORKS:
        before, after = without.summed(name, monkeypatch), others.after_leaving(set()).summed(name, monkeypatch)
        alone = others.after_leaving(everybody - {who}).summed(name, monkeypatch)

        assert np.linalg.norm(after - alone - before) * GRID <= SHARE
        assert np.linalg.norm(alone) * GRID <= others.protocol.privacy.clip_norm == 1
        assert (np.linalg.norm(alone) == 0) == (name in SILENT.get(what, set()))
        assert np.linalg.norm(others.after_leaving({who}).summed(name, monkeypatch) - before) * GRID <= SHARE
        assert np.linalg.norm(before) > 0


@pytest.mark.parametrize("what", ["a stranger", "no label", "pixels without a finite gradient"])
def test_the_same_holds_where_all_are_clipped_to_one_length(site_of, what: str, monkeypatch) -> None:
    normalised = {"clipping": "normalised"}
    sites = [site_of(*people, name=name) for people, name in ((BASE, "without"), ((HOSTILE[what], *BASE), "with"))]
    without, others = (
        dataclasses.replace(
            site, protocol=site.protocol.model_copy(update={"privacy": site.protocol.privacy.model_copy(update=normalised)})
        )
        for site in sites
    )
    who = HOSTILE[what].pseudonym(KEYS)
    for name in NETWORKS:
        before, after = without.summed(name, monkeypatch), others.after_leaving(set()).summed(name, monkeypatch)
        alone = others.after_leaving(set(others.kept()) - {who}).summed(name, monkeypatch)

        assert np.linalg.norm(after - alone - before) * GRID <= SHARE
        assert np.linalg.norm(alone) * GRID <= 1
        assert (np.linalg.norm(alone) == 0) == (name in SILENT.get(what, set()))


def test_every_forward_pass_has_one_shape_whatever_the_number_of_images(monkeypatch) -> None:
    """Kernels are chosen by the shape: a shorter last batch would give its patients other last bits."""
    shapes = set()

    def forward(images: Tensor) -> Tensor:
        shapes.add(tuple(images.shape))
        return images.mean((1, 2, 3))[:, None].expand(-1, 2)

    network = nn.Module()
    network.forward = forward
    for count in (1, 2, 15, 16, 17, 40):
        pixels = np.stack([picture(number, SIDE) for number in range(count)])
        data = Dataset(pixels, np.zeros((count, 2), np.float32), np.arange(count), count)
        scores, _ = scoring.patient_scores(data, network, score=torch.sigmoid, resources=Resources(threads=1, device="cpu"))
        assert len(scores) == len(scoring.features_of(pixels, forward)) == count

    assert len(shapes) == 1


# ── the comparison is checked ──


def z_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = datasets._gather

    def scaled(cohort, rows):
        pixels = np.asarray(gathered(cohort, rows), dtype=np.float64)
        return np.clip((pixels - pixels.mean()) / pixels.std() * 1e4 + 3e4, 0, 65535).astype(np.uint16)

    monkeypatch.setattr(datasets, "_gather", scaled)


def settling(monkeypatch: pytest.MonkeyPatch, change: Callable[[Draft, list[Kept]], list[Kept]]) -> None:
    settle = Draft.settle

    def changed(draft: Draft) -> list[Kept]:
        draft.kept = change(draft, settle(draft))
        return draft.kept

    monkeypatch.setattr(Draft, "settle", changed)


def a_split_by_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(_: Draft, kept: list[Kept]) -> list[Kept]:
        patients = sorted({image.patient for image in kept})
        validating = set(random.Random(0).sample(patients, round(FRACTION * len(patients))))
        parts = ({**json.loads(image.line), "part": "validation" if image.patient in validating else "training"} for image in kept)
        return [dataclasses.replace(image, line=canonical_json(part) + b"\n") for image, part in zip(kept, parts, strict=True)]

    settling(monkeypatch, shuffled)


def duplicates_removed_across_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * SIDE * SIDE

    def once(draft: Draft, kept: list[Kept]) -> list[Kept]:
        draft.spool.flush()
        content = Path(draft.spool.name).read_bytes()
        first = {content[image.place : image.place + size]: image for image in reversed(kept)}
        return [image for image in kept if image in first.values()]

    settling(monkeypatch, once)


def consensus_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load_dataset

    def agreed(*given, **settings):
        data = load(*given, **settings)
        return dataclasses.replace(data, labels=np.where(np.isnan(data.labels), np.nanmean(data.labels, axis=0), data.labels))

    monkeypatch.setattr(datasets, "load_dataset", agreed)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (z_scores, "a stranger"),
        (a_split_by_permutation, "a stranger"),
        (duplicates_removed_across_patients, "a copy of another's pixels"),
        (consensus_labels, "a stranger"),
    ],
)
def test_what_is_computed_over_the_cohort_is_noticed(site_of, monkeypatch, plant, what: str) -> None:
    plant(monkeypatch)

    with pytest.raises(AssertionError):
        must_not_know(site_of(*BASE, name="without"), site_of(HOSTILE[what], *BASE, name="with"), HOSTILE[what])


def test_a_step_that_looks_at_the_whole_batch_is_noticed(site_of, monkeypatch) -> None:
    shown = batches.to_unit_range
    without, others = site_of(*BASE, name="without"), site_of(HOSTILE["a stranger"], *BASE, name="with")
    monkeypatch.setattr(batches, "to_unit_range", lambda pixels: shown(pixels) - shown(pixels).mean())
    sums = [site.summed("resnet", monkeypatch) for site in (without, others)]
    alone = others.after_leaving(set(without.kept())).summed("resnet", monkeypatch)

    assert not np.array_equal(sums[1] - alone, sums[0])
