"""The same server and site code in one process, and on Flower's Ray engine."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.approval import approve
from fedrad_client.site import open_site
from fedrad_common.chain import read
from fedrad_common.errors import MisuseError
from fedrad_common.models import initial_vector
from fedrad_common.protocol import parse_protocol
from fedrad_common.tasks.echo import update
from fedrad_server.replay import replay
from fedrad_server.runs import Run, read_run
from fedrad_sim.engines import ENGINES, engine
from fedrad_sim.entropy import seeded_entropy

PROTOCOL = b"""
format = "fedrad-protocol-1"
name = "tiny"
task = { kind = "echo", labels = ["lesion"] }
input = { profile = "xr", height = 8, width = 8 }
model = { name = "echo", options = { length = 16 } }
privacy = { unit = "patient", epsilon = 2.0, expected_batch = 5.0, steps_per_round = 2, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 2, deadline_seconds = 60.0 }
"""


@pytest.fixture
def homes(make_site) -> dict[str, Path]:
    found = {}
    for name in ("north", "south", "west"):
        found[name] = make_site(name).path
        with open_site(found[name]) as site:
            approve(site, PROTOCOL, declared_size=60)
    return found


@pytest.fixture
def launch(tmp_path, coordinator, homes):
    def make(name: str = "run", **options: object) -> Run:
        from fedrad_client.site import Home

        roster = {name: Home(home).envelope_key.public.hex for name, home in homes.items()}
        initial = initial_vector(parse_protocol(PROTOCOL))
        return Run.create(tmp_path / name, PROTOCOL, roster=roster, key=coordinator, initial=initial, seeded=True, **options)

    return make


def test_all_sites_answer_in_one_process(launch, homes):
    events = []
    with launch() as run:
        outcome = ENGINES["local"](run, homes, seed=1, progress=lambda *event: events.append(event))

        assert outcome.value == "finished"
        assert sorted(run.accepted(2, "train")) == ["north", "south", "west"]
    start = np.zeros(16, np.float32)
    assert np.allclose(np.fromfile(run.directory / "result" / "model.f32", "<f4"), start + update(start, 1) + update(start, 2))
    assert replay(run.directory).equal
    assert (1, "north", "accepted") in events
    released = [entry for entry in read(homes["north"] / "audit.chain", "audit") if entry.type == "release"]
    assert len(released) == 2


def test_a_paused_site_answers_with_its_code_and_the_others_go_on_without_waiting(launch, homes):
    (homes["west"] / "paused").touch()
    with launch() as run:
        assert engine("local")(run, homes, seed=1).value == "finished"

        assert sorted(run.accepted(1, "train")) == ["north", "south"]
        assert read_run(run.directory).manifests[-1].missing == {"west": "paused"}


def test_below_quorum_the_run_pauses_without_anybody_sleeping(launch, homes, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("a simulation slept"))
    for name in ("west", "south"):
        (homes[name] / "paused").touch()
    with launch() as run:
        assert engine("local")(run, homes, seed=1).value == "paused"

    (homes["south"] / "paused").unlink()
    with Run.open(run.directory, run.key) as again:
        assert engine("local")(again, homes, seed=1).value == "finished"
    assert replay(run.directory).equal


def test_the_sites_are_free_again_afterwards(launch, homes):
    with launch() as run:
        engine("local")(run, homes, seed=1)

    for home in homes.values():
        with open_site(home):
            pass


def test_simulated_entropy_is_a_function_of_seed_and_site():
    draw = seeded_entropy(1, "north")

    assert draw(32) == draw(32) == seeded_entropy(1, "north")(32)
    assert len({draw(32), seeded_entropy(2, "north")(32), seeded_entropy(1, "south")(32)}) == 3


def test_simulated_work_is_marked_as_seeded_and_a_sites_own_is_not(monkeypatch):
    from fedrad_client.config import Resources
    from fedrad_client.work import Job
    from fedrad_sim import entropy

    seen = []
    monkeypatch.setattr(entropy, "run_inline", lambda job, model: seen.append(job.seeded))
    job = Job(parse_protocol(PROTOCOL), "train", 1, None, b"", Path(), 1, Resources())
    entropy.run_seeded(job, np.zeros(1, np.float32))

    assert (job.seeded, seen) == (False, [True])


def test_an_unknown_engine_is_misuse_with_the_known_ones_in_the_hint():
    with pytest.raises(MisuseError) as refused:
        engine("slurm")

    assert "local, ray" in refused.value.hint


def test_the_same_run_on_flowers_ray_engine(launch, homes, tmp_path):
    """In a process of its own: Ray leaves threads and signal handlers behind."""
    import os
    import subprocess

    with launch() as run:
        key = tmp_path / "coordinator.key"
        run.key.save(key)
    user = tmp_path / "user"
    user.mkdir()
    script = f"""
from pathlib import Path
from fedrad_common.identity import SigningKey
from fedrad_server.runs import Run, read_run
from fedrad_sim.engines import engine
homes = {{name: Path(home) for name, home in {{{", ".join(f"{name!r}: {str(home)!r}" for name, home in homes.items())}}}.items()}}
with Run.open(Path({str(run.directory)!r}), SigningKey.load(Path({str(key)!r}))) as run:
    print("OUTCOME", engine("ray")(run, homes, seed=1).value)
"""
    environment = {**os.environ, "HOME": str(user)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=150)

    assert "OUTCOME finished" in ended.stdout, ended.stderr[-3000:]
    assert replay(run.directory).equal
    assert not list(user.rglob("*")), "the engine wrote into the user's home"
