"""One warm child answers order after order as a fresh one would, sees who withdrew, and ends at once with whoever should end it."""

import dataclasses
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.jobs import job_on, network_protocol

from fedrad_client.cohort.withdrawal import withdraw
from fedrad_client.policy import REASONS
from fedrad_client.sandbox import kernel, seccomp
from fedrad_client.site import Home
from fedrad_client.work import Job, UnconfinedError, Worker, compute, run_inline
from fedrad_client.work import child as children
from fedrad_client.work import worker as workers
from fedrad_client.work.__main__ import _keep_one_run
from fedrad_client.work.child import Child, Place
from fedrad_common.errors import FedradError, Refusal
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector
from fedrad_common.protocol import parse_protocol, replace_settings

LONG = {"privacy.steps_per_round": 1_000_000}  # work that ends in no test
PIECES = np.arange(3, dtype=np.float32)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Home:
    from conftest import write_cohort

    from fedrad_client.site_toml import render

    path = tmp_path_factory.mktemp("worker") / "north"
    (path / "keys").mkdir(parents=True)
    (path / "keys" / "envelope.key").write_text("secret")
    text = render(name="north", epsilon=8.0, delta=1e-3, validation_fraction=0.2)
    (path / "site.toml").write_text(text.replace("threads = 0", "threads = 1").replace('"auto"', '"cpu"'))
    write_cohort(path / "cohort")
    return Home(path)


@pytest.fixture(scope="module")
def warm(site: Home) -> Iterator[Worker]:
    """One for all tests that leave it as it was: its libraries take seconds."""
    with Worker(site) as worker:
        yield worker


@pytest.fixture
def job(site: Home, protocol_bytes: bytes) -> Job:
    made = job_on(site.cohort, network_protocol(protocol_bytes))
    return dataclasses.replace(made, resources=site.config.resources)


@pytest.fixture
def echo(job: Job, protocol_bytes: bytes) -> Job:
    return dataclasses.replace(job, protocol=replace_settings(parse_protocol(protocol_bytes), {"model.options": {"length": 3}}))


@pytest.fixture
def worker(site: Home) -> Iterator[Worker]:
    """Without libraries, which an echo does not need."""
    with Worker(site, warm=False) as made:
        yield made


def gone(pid: int, *, patience: float = 10.0) -> bool:
    """Whether a process ends within that time; it may be nobody's child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(1000 * patience))
    finally:
        os.close(descriptor)


def while_it_works(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do it once when a job has been handed over whole."""
    real, acts = children.receive_answer, [act]

    def receive(descriptor: int, *, length: int) -> Vector | None:
        if acts:
            acts.pop()()
        return real(descriptor, length=length)

    monkeypatch.setattr(children, "receive_answer", receive)


def test_a_warm_child_answers_as_a_fresh_one_whatever_it_answered_before(warm: Worker, job: Job) -> None:
    noised = job.plan.model_copy(update={"evaluation": "noised", "evaluation_noise": 3.0})
    asked = [
        job,
        dataclasses.replace(job, kind="evaluate"),
        dataclasses.replace(job, round=2, secret=bytes(32)),
        dataclasses.replace(job, kind="evaluate", plan=noised),
        dataclasses.replace(job, protocol=replace_settings(job.protocol, {"training.learning_rate": 0.5})),
        job,
    ]
    model = initial_vector(job.protocol)
    child = warm.child
    answers = [warm(each, model) for each in asked]

    for each, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer, run_inline(each, model))
    assert warm.child is child
    assert len({answer.tobytes() for answer in answers}) == len(asked) - 1  # the last is the first again


def test_who_withdrew_is_out_of_the_next_order_of_a_warm_child(warm: Worker, job: Job, site: Home) -> None:
    model = initial_vector(job.protocol)
    before = warm(job, model)
    try:
        withdraw(site.cohort, [f"{patient:032x}" for patient in range(1, 30)], key="k")
        after = warm(job, model)
        np.testing.assert_array_equal(after, run_inline(job, model))
    finally:
        (site.cohort / "withdrawn.jsonl").unlink()

    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(warm(job, model), before)


def test_another_generation_is_another_data_set(warm: Worker, job: Job, site: Home, write_cohort) -> None:
    model = initial_vector(job.protocol)
    first = warm(job, model)
    write_cohort(site.cohort, n_patients=40)
    second = dataclasses.replace(job, generation=2)

    np.testing.assert_array_equal(warm(second, model), run_inline(second, model))
    assert not np.array_equal(first, warm(second, model))
    np.testing.assert_array_equal(warm(job, model), first)


def test_a_child_keeps_the_images_of_one_run_in_memory(job: Job) -> None:
    """Whatever the orders are: of another protocol, of another generation, or after a withdrawal."""
    model = initial_vector(job.protocol)
    other = dataclasses.replace(job, protocol=replace_settings(job.protocol, {"training.learning_rate": 0.25}))
    evaluation = dataclasses.replace(job, kind="evaluate")
    compute.forget()
    kept, known = [], None
    for each in (job, evaluation, job, other):
        known = _keep_one_run(known, each)
        run_inline(each, model)
        kept.append(compute._dataset.cache_info().currsize)

    assert kept == [1, 2, 2, 1]


def test_a_killed_child_fails_its_order_and_the_next_one_is_answered(
    warm: Worker, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = initial_vector(job.protocol)
    while_it_works(monkeypatch, lambda: os.kill(warm.child.pid, signal.SIGKILL))
    with pytest.raises(FedradError, match=r"^work failed in the child: died$"):
        warm(dataclasses.replace(job, protocol=replace_settings(job.protocol, LONG)), model)

    np.testing.assert_array_equal(warm(job, model), run_inline(job, model))
    assert list(tmp_path.iterdir()) == []


def damaged(folder: Path) -> Path:
    """A cohort whose list of withdrawn patients cannot be read."""
    folder.mkdir()
    (folder / "withdrawn.jsonl").write_text("PatientNameCanary")
    return folder


def test_a_job_that_cannot_be_done_is_a_code_and_the_next_one_is_answered(worker: Worker, echo: Job, tmp_path: Path) -> None:
    with pytest.raises(FedradError, match=r"^work failed in the child: input$") as failed:
        worker(dataclasses.replace(echo, cohort=damaged(tmp_path / "PatientNameCanary")), PIECES)

    assert "Canary" not in failed.value.hint
    np.testing.assert_array_equal(worker(echo, PIECES), run_inline(echo, PIECES))


def test_a_child_that_hangs_is_ended_when_its_round_is_over(worker: Worker, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the node would look alive for ever, and answer nothing more."""
    short = {**LONG, "rounds.deadline_seconds": 0.5, "rounds.retries": 1}
    monkeypatch.setattr(children, "_LEAST_PATIENCE", 0.0)
    hanging = dataclasses.replace(job, protocol=replace_settings(job.protocol, short))

    with pytest.raises(FedradError, match=r"^work failed in the child: died$"):
        worker(hanging, initial_vector(job.protocol))


def test_a_child_that_died_between_two_orders_costs_none(worker: Worker, echo: Job) -> None:
    os.kill(worker.child.pid, signal.SIGKILL)
    assert gone(worker.child.pid)

    np.testing.assert_array_equal(worker(echo, PIECES), run_inline(echo, PIECES))


def test_a_child_that_answers_more_than_it_was_asked_is_not_believed(worker: Worker, echo: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    child = worker.child
    monkeypatch.setattr(children, "_answer_length", lambda job, model: 2)
    monkeypatch.setattr(children, "_LAST_WORDS", 0.01)
    with pytest.raises(FedradError):
        worker(echo, PIECES)

    assert gone(child.pid)


def test_a_stop_while_it_works_ends_it_at_once(site: Home, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread: that is how a node that is told to end ends what it waits for."""
    stopping = []
    with Worker(site) as worker:
        pid = worker.child.pid
        while_it_works(monkeypatch, lambda: stopping.append(threading.Thread(target=worker.close)) or stopping[0].start())
        with pytest.raises(FedradError, match=r"died$"):
            worker(dataclasses.replace(job, protocol=replace_settings(job.protocol, LONG)), initial_vector(job.protocol))
        stopping[0].join(10)

        assert gone(pid)
        with pytest.raises(FedradError, match=r"died$"):
            worker(job, PIECES)


def test_an_exception_that_ends_the_wait_ends_the_child(worker: Worker, echo: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one that a second SIGTERM raises in a node."""
    child = worker.child

    def stop() -> None:
        raise SystemExit(143)

    while_it_works(monkeypatch, stop)
    with pytest.raises(SystemExit):
        worker(echo, PIECES)

    assert gone(child.pid)


PARENT = """
import os, sys, time, threading
from pathlib import Path
from fedrad_client.site import Home
from fedrad_client.work import Worker
made = []
def begin():
    made.append(Worker(Home(Path(sys.argv[1])), warm=False).__enter__())
starting = threading.Thread(target=begin)
starting.start(); starting.join()
print(made[0].child.pid, flush=True)
sys.stdin.read()
"""


def test_the_child_outlives_the_thread_that_asked_for_it_and_dies_with_the_process(site: Home) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(site.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:  # fmt: skip
        pid = int(parent.stdout.readline())
        assert not gone(pid, patience=0.2)
        parent.kill()
        parent.wait()

        assert gone(pid)


def test_many_orders_leak_no_descriptor_no_folder_and_no_process(
    worker: Worker, echo: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also not those whose child grew old, or failed."""
    broken = damaged(tmp_path / "broken")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(workers, "_ORDERS", 6)
    started, before = [], list(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(workers, "Child", lambda place, *, warm: started.append(made := Child(place, warm=warm)) or made)
    for number in range(20):
        if number == 10:
            with pytest.raises(FedradError):
                worker(dataclasses.replace(echo, cohort=broken), PIECES)
        np.testing.assert_array_equal(worker(echo, PIECES), run_inline(echo, PIECES))

    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [child.pid for child in started if child.alive] == [worker.child.pid]
    assert len(started) >= 4


def test_a_cohort_in_a_new_place_is_seen_and_the_old_child_ends(worker: Worker, echo: Job, site: Home, tmp_path: Path, job: Job) -> None:
    """A child sees the folder that there was when it was started, and no other."""
    first = worker.child
    moved = site.cohort.rename(site.path / "cohort.old")
    site.cohort.mkdir()
    try:
        worker(echo, PIECES)
        second = worker.child
    finally:
        site.cohort.rmdir()
        moved.rename(site.cohort)
    worker(echo, PIECES)

    assert len({first.pid, second.pid, worker.child.pid}) == 3
    assert gone(first.pid)
    assert gone(second.pid)


def test_the_child_of_a_worker_is_started_confined_from_its_own_home(warm: Worker, site: Home) -> None:
    assert warm.child.place == Place.of(site.path, site.cohort, site.config.resources)
    assert warm.child.held.network
    assert warm.child.held.files


def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the calling thread, and what it starts."""
    machine, numbers = seccomp.MACHINES[os.uname().machine]
    monkeypatch.setitem(seccomp.MACHINES, os.uname().machine, (machine, {"unshare": numbers["unshare"]}))
    monkeypatch.setattr(seccomp, "EVERYWHERE", {})
    kernel.gain_nothing()
    seccomp.refuse_calls()


def test_where_namespaces_are_forbidden_the_work_is_the_same_and_leaves_nothing(
    site: Home, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then has a folder to write to, and no shared memory."""
    working = Worker(site)
    with monkeypatch.context() as forbidden:
        working._starter.submit(without_namespaces, forbidden).result()
    with working as worker:
        held, model = worker.child.held, initial_vector(job.protocol)
        if "landlock" not in held.layers:
            pytest.skip("this kernel has no Landlock")
        answered = worker(job, model)
        scratch = worker.child._launched.scratch.path
        assert list(scratch.iterdir())  # of torch's; the test would show less if it needed none

    assert held.layers == ("landlock", "system call filter")
    assert held.complete
    np.testing.assert_array_equal(answered, run_inline(job, model))
    assert not scratch.exists()


# A machine that forbids namespaces and Landlock; what it refuses, it refuses to every program that it starts.
FORBIDDING = """
import dataclasses, logging, os, sys
from pathlib import Path
import fedrad_client.sandbox.seccomp as seccomp
from fedrad_client.sandbox import kernel
machine, numbers = seccomp.MACHINES[os.uname().machine]
kept, everywhere = dict(numbers), dict(seccomp.EVERYWHERE)
seccomp.MACHINES[os.uname().machine] = machine, {"unshare": numbers["unshare"]}
seccomp.EVERYWHERE.clear(); seccomp.EVERYWHERE["landlock_create_ruleset"] = 444
kernel.gain_nothing(); seccomp.refuse_calls()
from fedrad_client.site import Home
from fedrad_client.work import UnconfinedError, Worker
logging.basicConfig(format="%(message)s", stream=sys.stdout)
try:
    with Worker(Home(Path(sys.argv[1])), warm=False) as worker:
        print("works", worker.child.held.how)
except UnconfinedError as error:
    print(error, "|", error.hint)
"""


@pytest.mark.parametrize("asked", ["preferred", "required"])
def test_a_machine_that_forbids_confinement_is_named_once_or_not_worked_on(site: Home, asked: str, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "ledger.chain").write_text("secret")
    (tmp_path / "site.toml").write_text((site.path / "site.toml").read_text().replace('"preferred"', f'"{asked}"'))
    done = subprocess.run([sys.executable, "-c", FORBIDDING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)

    said = {
        "preferred": ["the work is not wholly confined on this machine, open to it: files", "works system call filter"],
        "required": [
            (
                "work is not confined: this machine forbids what resources.confinement asks for | allow user namespaces or Landlock"
                ' (see `fedrad-site doctor`), or set resources.confinement = "preferred"'
            )
        ],
    }
    assert done.stdout.splitlines() == said[asked]


def test_a_confinement_that_is_lost_while_a_node_runs_is_a_refusal_with_a_reason_that_stays(
    worker: Worker, echo: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbid(place: Place, *, warm: bool) -> Child:
        raise UnconfinedError("work is not confined")

    os.kill(worker.child.pid, signal.SIGKILL)
    assert gone(worker.child.pid)
    monkeypatch.setattr(workers, "Child", forbid)
    with caplog.at_level(logging.DEBUG), pytest.raises(Refusal) as refused:
        worker(echo, PIECES)

    assert (refused.value.code, refused.value.hint) == ("internal", "unconfined")
    assert REASONS["unconfined"][0] == "internal"
