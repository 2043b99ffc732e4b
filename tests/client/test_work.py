"""Work for one order: inline and in a child give the same bytes, and the child knows no secret."""

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.jobs import job_on, network_protocol

from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.release import histogram, release
from fedrad_client.sandbox.launch import ENVIRONMENT
from fedrad_client.work import Job, from_json, run_child, run_inline, to_json
from fedrad_common import processes
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.models import initial_vector
from fedrad_common.protocol import TrainingProtocol, replace_settings


@pytest.fixture
def protocol(protocol_bytes: bytes) -> TrainingProtocol:
    return network_protocol(protocol_bytes)


@pytest.fixture
def job(tmp_path: Path, protocol: TrainingProtocol, write_cohort) -> Job:
    write_cohort(tmp_path / "cohort")
    return job_on(tmp_path / "cohort", protocol)


def test_a_job_survives_the_way_to_the_child(job: Job) -> None:
    assert from_json(to_json(job)) == job


def test_the_child_trains_to_the_same_bytes(job: Job) -> None:
    model = initial_vector(job.protocol)
    moved = run_inline(job, model)

    assert moved.dtype == np.float32
    assert moved.shape == model.shape
    assert np.abs(moved).max() > 0
    np.testing.assert_array_equal(run_child(job, model), moved)


def test_a_childs_code_is_never_taken_from_the_folder_it_was_started_in(job: Job, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` puts the current folder first on its path: a file beside the images would run with the noise's secret."""
    (tmp_path / "pydantic.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = dataclasses.replace(job, protocol=replace_settings(job.protocol, {"task.kind": "echo"}))
    run_child(job, np.zeros(3, dtype=np.float32))

    assert not (tmp_path / "taken").exists()


def test_each_validation_patient_counts_once_a_label(job: Job) -> None:
    counts = run_inline(dataclasses.replace(job, kind="evaluate"), np.zeros_like(initial_vector(job.protocol))).reshape(1, 2, 32)

    assert counts.sum() == 12  # 60 patients, every fifth validates
    assert counts[0, 0].sum() == 6
    assert counts[0, :, 16].sum() == 12  # weights of zero score everybody 0.5


def test_another_secret_is_another_answer(job: Job) -> None:
    model = initial_vector(job.protocol)
    other = dataclasses.replace(job, secret=bytes(32))

    assert not np.array_equal(run_inline(job, model), run_inline(other, model))


def test_noise_asked_for_is_never_forgotten(job: Job) -> None:
    plan = job.plan.model_copy(update={"evaluation": "noised", "evaluation_noise": 0.0})

    with pytest.raises(MisuseError, match="evaluation is 'noised' with noise"):
        run_inline(dataclasses.replace(job, kind="evaluate", plan=plan), initial_vector(job.protocol))


def test_echo_needs_no_torch_inline_or_in_the_child(job: Job) -> None:
    echo = replace_settings(job.protocol, {"task.kind": "echo", "model.options": {"length": 7}})
    job = dataclasses.replace(job, protocol=echo, cohort=job.cohort / "nowhere")
    program = (
        "import sys; from fedrad_client.work import from_json, run_inline; from fedrad_common.models import initial_vector;"
        "job = from_json(sys.stdin.buffer.read()); assert len(run_inline(job, initial_vector(job.protocol))) == 7;"
        "assert 'torch' not in sys.modules and 'opacus' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program], input=to_json(job), check=True)
    np.testing.assert_array_equal(run_child(job, initial_vector(echo)), run_inline(job, initial_vector(echo)))


def test_the_childs_environment_holds_no_secret(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRAD_TOKEN", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("LANG", "C.UTF-8")
    job = dataclasses.replace(job, protocol=replace_settings(job.protocol, {"task.kind": "echo"}))
    with started(monkeypatch) as begun:
        run_child(job, np.zeros(3, dtype=np.float32))
    (environment,) = (settings["env"] for _, settings in begun)

    assert "canary" not in json.dumps(environment)
    assert set(environment) <= {*ENVIRONMENT, "TMPDIR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", processes._PARENT}
    assert environment["LANG"] == "C.UTF-8"
    assert environment["OMP_NUM_THREADS"] == "1"


@contextlib.contextmanager
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[list[str], dict[str, Any]]]]:
    """How each child is started."""
    begun, real = [], subprocess.Popen
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", lambda command, **settings: begun.append((command, settings)) or real(command, **settings))
        yield begun


def test_the_secret_is_on_no_command_line_and_no_file_is_made(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    job = dataclasses.replace(job, protocol=replace_settings(job.protocol, {"task.kind": "echo"}))
    before = set(tmp_path.rglob("*"))
    with started(monkeypatch) as begun:
        run_child(job, np.zeros(3, dtype=np.float32))
    ((command, settings),) = begun

    assert job.secret.hex() not in " ".join(command)
    assert settings["stdout"] == settings["stderr"] == subprocess.DEVNULL
    assert set(tmp_path.rglob("*")) == before


def test_a_failing_child_says_a_code_and_nothing_of_the_cause(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job = dataclasses.replace(job, cohort=job.cohort / "PatientNameCanary")

    with pytest.raises(FedradError, match=r"^work failed in the child: input$") as failure:
        run_child(job, initial_vector(job.protocol))
    assert "Canary" not in failure.value.hint + "".join(capfd.readouterr())


@pytest.mark.parametrize(("status", "code"), [(5, "error"), (4, "memory"), (1, "error"), (0, "error")])
def test_every_end_of_the_child_has_a_code(job: Job, status: int, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\nexit {status}\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))

    with pytest.raises(FedradError, match=f"child: {code}$"):
        run_child(job, np.zeros(3, dtype=np.float32))


def test_a_killed_child_is_noticed(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -9 $$\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(interpreter))

    with pytest.raises(FedradError, match=r"child: died$"):
        run_child(job, np.zeros(3, dtype=np.float32))


def test_a_histogram_counts_each_patient_in_one_cell() -> None:
    scores = np.array([[0.0, 0.5], [0.999, 1.0], [np.nan, 0.04]])
    classes = np.array([[0, 1], [1, np.nan], [1, 0]], dtype=np.float32)
    counts = histogram(scores, classes)

    assert counts.shape == (2, 2, 32)
    assert counts.sum() == 5
    assert counts[0, 0, 0] == counts[0, 1, 31] == counts[0, 1, 0] == counts[1, 1, 16] == counts[1, 0, 1] == 1


@pytest.mark.parametrize("seeded", [None, AesNoise.seeded(1)])
def test_noise_on_cells_is_whole_centred_and_of_the_asked_size(seeded: AesNoise | None) -> None:
    counts = np.full((40, 2, 32), 5, dtype=np.int64)
    noise = release(counts, standard_deviation=3.0, seeded=seeded) - 5

    assert noise.dtype == np.float32
    assert noise.shape == (2560,)
    assert np.array_equal(noise, np.rint(noise))
    assert abs(noise.mean()) < 5 * 3 / 2560**0.5
    assert noise.std() == pytest.approx(3.0, rel=5 / 5120**0.5)
    assert (noise < -5).any()


def test_exact_counts_are_exact() -> None:
    counts = np.arange(64).reshape(1, 2, 32)

    np.testing.assert_array_equal(release(counts, standard_deviation=0.0), np.arange(64))


def test_weights_that_a_protocol_calls_random_and_are_not_are_refused(job: Job) -> None:
    """Else what learned from patients without being counted would enter a private run under another name (privacy.md, rule 12)."""
    first = initial_vector(job.protocol)
    assert np.isfinite(run_inline(job, first * np.float32(1 + 1e-6))).all(), "another version of torch rounds otherwise"

    with pytest.raises(MisuseError, match="first weights"):
        run_inline(job, first + np.float32(0.01))
    assert np.isfinite(run_inline(dataclasses.replace(job, round=2), first + np.float32(0.01))).all()
