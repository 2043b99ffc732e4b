"""Promise 2, in its thin form: one patient in, one record out; and one patient moves a step by at most the clip bound."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.store import open_cohort
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan
from fedrad_client.privacy.training import train
from fedrad_common.models import build
from fedrad_common.packing import pack
from fedrad_common.profiles import profile
from fedrad_common.protocol import parse_protocol, replace_settings
from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

KEYS = PseudonymKeys.from_secret(bytes(range(32)))


def cohort_of(folder: Path, source: Path):
    geometry = Geometry(profile("xr"), 16, 16)
    labels = source / "labels.csv"
    ingest(source / "dicom", labels, cohort=folder, geometry=geometry, label_names=("lesion",), keys=KEYS, validation_fraction=0.3)
    return open_cohort(folder)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory):
    """Two cohorts that differ by everything of one training patient, and that patient's pseudonym."""
    folder = tmp_path_factory.mktemp("neighbours")
    truth = write_hospital(scaled(HOSPITALS[0], 0.1), folder / "with", seed=5)
    larger = cohort_of(folder / "cohort-with", folder / "with")
    for patient in dict.fromkeys(image.PatientID for image in truth.images):
        shutil.rmtree(folder / "without", ignore_errors=True)
        shutil.copytree(folder / "with", folder / "without")
        for image in truth.images:
            if image.PatientID == patient:
                (folder / "without" / "dicom" / image.file).unlink()
        shutil.rmtree(folder / "cohort-without", ignore_errors=True)
        smaller = cohort_of(folder / "cohort-without", folder / "without")
        (gone,) = {record.patient for record in larger.records} - {record.patient for record in smaller.records}
        if any(record.patient == gone and record.part == "training" for record in larger.records):
            return larger, smaller, gone
    raise AssertionError("no training patient")


def test_one_patient_in_one_record_out(neighbours) -> None:
    """Nobody else's record, part, label or pixel knows whether the patient is there (privacy.md, rule 5)."""
    larger, smaller, gone = neighbours
    kept = [row for row, record in enumerate(larger.records) if record.patient != gone]

    assert [larger.records[row] for row in kept] == list(smaller.records)
    assert np.array_equal(larger.labels[kept], smaller.labels, equal_nan=True)
    assert np.array_equal(np.concatenate(larger.pixels)[kept], np.concatenate(smaller.pixels))


def test_one_patient_moves_a_step_by_at_most_the_clip_bound_over_the_divisor(neighbours, protocol_bytes: bytes) -> None:
    """Everybody is drawn and the noise is the same, so what differs is the patient's one clipped vector."""
    larger, smaller, _ = neighbours
    settings = {
        "task.kind": "classification", "model.name": "resnet", "model.options": {"channels": 8, "stages": 1}, "input.height": 16,
        "input.width": 16, "privacy.steps_per_round": 1, "training.learning_rate": 1.0, "privacy.clip_norm": 0.5,
    }  # fmt: skip
    protocol = replace_settings(parse_protocol(protocol_bytes), settings)
    plan = Plan(
        protocol=protocol.hash,
        n_parameters=1, declared_size=10, sampling_rate=1.0, expected_batch=10.0, noise_multiplier=1.0, delta=1e-3, epsilon=2.0,
        evaluation="none", evaluation_noise=0.0,
    )  # fmt: skip
    moved = []
    for cohort in (larger, smaller):
        network = build(protocol.model, n_outputs=1, height=16, width=16)
        from fedrad_client.config import Resources

        data = load_dataset(cohort, part="training", labels=("lesion",))
        train(data, protocol=protocol, plan=plan, model=network, round=1, noise=AesNoise(b"n" * 32), resources=Resources(threads=1))
        moved.append(pack(network).astype(np.float64))

    distance = float(np.linalg.norm(moved[0] - moved[1]))
    assert 0 < distance <= 0.5 / 10 * (1 + 1e-4)
