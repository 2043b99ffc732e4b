"""Nothing that a site has trained for itself, without noise, is read by a charged step (privacy.md, rule 12)."""

from pathlib import Path

import numpy as np
import pytest
from fakes.patients import network_protocol, patients, write_patients

from fedrad_client.config import Resources
from fedrad_client.privacy.plan import Plan
from fedrad_client.work import Job, run_inline
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol


def job(cohort: Path, protocol: TrainingProtocol, *, kind: str = "train", number: int = 1) -> Job:
    private = protocol.privacy.unit == "patient"
    plan = Plan(
        protocol=protocol.hash, n_parameters=1, declared_size=60, sampling_rate=0.5, expected_batch=30.0,
        noise_multiplier=1.0 if private else 0.0, delta=1e-3, epsilon=8.0 if private else None, evaluation="noised", evaluation_noise=3.0,
    )  # fmt: skip
    return Job(protocol, kind, number, plan, bytes([number] * 32), cohort, 1, Resources(threads=1, device="cpu"), seeded=True)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    write_patients(tmp_path, patients(60))
    return tmp_path


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_charged_answer_is_the_same_whatever_the_site_has_trained_without_privacy_before(
    cohort: Path, protocol_bytes: bytes, kind: str
) -> None:
    """On the same patients, with the same network, in the same process: what could be kept between two orders is kept."""
    shared = network_protocol(protocol_bytes)
    own = network_protocol(protocol_bytes, privacy__unit="none", privacy__epsilon=None, training__learning_rate=1.0)
    model, asked = initial_vector(shared), job(cohort, shared, kind=kind)
    before = run_inline(asked, model)
    trained: Vector = sum((run_inline(job(cohort, own, number=number), model) for number in (2, 3)), start=np.zeros_like(model))
    files = {path: path.read_bytes() for path in cohort.rglob("*") if path.is_file()}

    np.testing.assert_array_equal(run_inline(asked, model), before)
    assert np.abs(trained).max() > 0.01  # it did learn
    assert {path: path.read_bytes() for path in cohort.rglob("*") if path.is_file()} == files
