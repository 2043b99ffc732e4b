"""Work for one order: inline and in a child give the same bytes, and the child knows no secret."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrad_client import work
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan
from fedrad_client.privacy.release import histogram, release
from fedrad_client.work import Job, from_json, run_child, run_inline, to_json
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.models import initial_vector
from fedrad_common.protocol import TrainingProtocol, parse_protocol, replace_settings


@pytest.fixture
def protocol(protocol_bytes: bytes) -> TrainingProtocol:
    small = {"channels": 8, "stages": 1}
    return replace_settings(parse_protocol(protocol_bytes), {"task.kind": "classification", "model.name": "resnet", "model.options": small})


@pytest.fixture
def job(tmp_path: Path, protocol: TrainingProtocol, write_cohort) -> Job:
    cohort = tmp_path / "cohort"
    write_cohort(cohort)
    plan = Plan(
        protocol=protocol.hash, n_parameters=1, declared_size=50, sampling_rate=0.3, expected_batch=15.0, noise_multiplier=1.0, delta=1e-4,
        epsilon=8.0, evaluation="exact", evaluation_noise=0.0,
    )  # fmt: skip
    return Job(
        protocol=protocol, kind="train", round=1, plan=plan, secret=bytes(range(32)), cohort=cohort, generation=1,
        resources=Resources(threads=1, device="cpu"), seeded=True,
    )  # fmt: skip


def test_a_job_survives_the_way_to_the_child(job: Job) -> None:
    assert from_json(to_json(job)) == job


def test_the_child_trains_to_the_same_bytes(job: Job) -> None:
    model = initial_vector(job.protocol)
    moved = run_inline(job, model)

    assert moved.dtype == np.float32
    assert moved.shape == model.shape
    assert np.abs(moved).max() > 0
    np.testing.assert_array_equal(run_child(job, model), moved)


def test_the_child_evaluates_to_the_same_counts(job: Job) -> None:
    noised = job.plan.model_copy(update={"evaluation": "noised", "evaluation_noise": 3.0})
    model = initial_vector(job.protocol)
    job = dataclasses.replace(job, kind="evaluate", plan=noised)

    np.testing.assert_array_equal(run_child(job, model), run_inline(job, model))


def test_a_childs_code_is_never_taken_from_the_folder_it_was_started_in(job: Job, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` puts the current folder first on its path: a file beside the images would run with the noise's secret."""
    (tmp_path / "pydantic.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_child(job, initial_vector(job.protocol))

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
    environment = work._environment(job.resources)

    assert "canary" not in json.dumps(environment)
    assert set(environment) <= {*work.ENVIRONMENT, "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert environment["LANG"] == "C.UTF-8"
    assert environment["OMP_NUM_THREADS"] == "1"


class Spy(subprocess.Popen):
    """Looks at how the child is started."""

    seen: dict[str, object] = {}

    def __init__(self, command: list[str], **settings: object) -> None:
        folder = Path(command[-1])
        Spy.seen = {
            "command": command,
            "folder": folder,
            "mode": folder.stat().st_mode & 0o777,
            "names": [p.name for p in folder.iterdir()],
        }
        super().__init__(command, **settings)


def test_the_secret_is_on_no_command_line_and_the_folder_is_private_and_gone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work.subprocess, "Popen", Spy)
    job = dataclasses.replace(job, protocol=replace_settings(job.protocol, {"task.kind": "echo"}))
    run_child(job, np.zeros(3, dtype=np.float32))

    assert job.secret.hex() not in " ".join(Spy.seen["command"])
    assert Spy.seen["mode"] == 0o700
    assert Spy.seen["names"] == ["model.f32"]
    assert not Spy.seen["folder"].exists()


def test_a_failing_child_says_a_code_and_nothing_of_the_cause(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    job = dataclasses.replace(job, cohort=job.cohort / "PatientNameCanary")

    with pytest.raises(FedradError, match=r"^work failed in the child: input$") as failure:
        run_child(job, initial_vector(job.protocol))
    assert "Canary" not in failure.value.hint + "".join(capfd.readouterr())


@pytest.mark.parametrize(("status", "code"), [(5, "error"), (4, "memory"), (1, "error"), (0, "error")])
def test_every_end_of_the_child_has_a_code(job: Job, status: int, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\ncat > /dev/null\nexit {status}\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(work.sys, "executable", str(interpreter))

    with pytest.raises(FedradError, match=f"child: {code}$"):
        run_child(job, np.zeros(3, dtype=np.float32))


def test_a_killed_child_is_noticed(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -9 $$\n")
    interpreter.chmod(0o700)
    monkeypatch.setattr(work.sys, "executable", str(interpreter))

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
