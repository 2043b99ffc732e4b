"""Promise 6: a run whose coordinator was killed and resumed applies each accepted update exactly once; its model equals `replay`."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import Killed, World, killed_at, protocol, silent

from fedrad_common.errors import FedradError
from fedrad_server.history import RunRecords, read_run
from fedrad_server.replay import Replay, replay
from fedrad_server.rounds import Outcome

NAMES = ("ankara", "bergen")
# Adam's moments and the moving average are what a careless resume would lose.
CONTENT = protocol(rounds=2, evaluated=(1,), aggregation='strategy = "fedadam", learning_rate = 0.1, ema = 0.9')


def advance(world: World) -> None:
    """What a restarted coordinator does: launch the run if it was never launched, else open it and go on."""
    with world.open() if world.directory.exists() else world.create(CONTENT) as run:
        assert world.play(run).outcome is Outcome.FINISHED


def undisturbed(folder: Path) -> RunRecords:
    world = World(folder, names=NAMES)
    advance(world)
    return read_run(folder)


def same_models(one: RunRecords, other: RunRecords) -> bool:
    return all(one.model(number).tobytes() == other.model(number).tobytes() for number in range(3)) and (
        (one.directory / "result" / "model.f32").read_bytes() == (other.directory / "result" / "model.f32").read_bytes()
    )


def assert_each_update_once(records: RunRecords) -> None:
    for number in (1, 2):
        assert sorted(records.manifests[number].updates) == list(NAMES)
        given = [(receipt.site, receipt.kind) for receipt in records.receipts(number)]
        assert len(given) == len(set(given)) == (4 if number == 1 else 2)


@pytest.mark.parametrize("part", range(8))
def test_a_kill_at_any_write_changes_nothing_but_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Every write of a whole run, launch included, is the last one once; the parts only spread them over pytest's workers."""
    expected = undisturbed(tmp_path / "undisturbed")
    with killed_at(-1, monkeypatch) as count:
        advance(World(tmp_path / "counted", names=NAMES))
    n_writes = count[0]
    assert n_writes > 150

    for write in range(part, n_writes, 8):
        world = World(tmp_path / f"killed-{write}", names=NAMES)
        with killed_at(write, monkeypatch), pytest.raises(Killed):
            advance(world)
        with killed_at(-1, monkeypatch):  # no real sync, for speed
            advance(world)

        records = read_run(world.directory)
        assert same_models(records, expected), f"killed at write {write}"
        assert replay(world.directory) == Replay(start=0, rounds=2, equal=True)
        assert_each_update_once(records)
        assert {site.sequence for site in world.sites.values()} == {3}, "a site was made to train twice"


def test_two_kills_in_a_row_change_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    world = World(tmp_path / "killed", names=NAMES)
    for write in (90, 12, 0, 3, 25):
        with killed_at(write, monkeypatch), pytest.raises(Killed):
            advance(world)
    advance(world)

    records = read_run(world.directory)
    assert same_models(records, expected)
    assert_each_update_once(records)


def test_after_a_restart_only_the_sites_whose_update_is_missing_are_asked(tmp_path: Path) -> None:
    world = World(tmp_path / "echo")
    with world.create(protocol(rounds=1, quorum=3, retries=0)) as run:
        world.play(run, bergen=silent)
    with world.open() as run:
        grid = world.play(run)

    assert grid.asked == [("train", 1, ("bergen",))]
    assert replay(world.directory).equal


def test_a_real_kill_9_in_the_middle_of_a_round_is_survived(tmp_path: Path) -> None:
    """The same through a process that is really killed: its lock goes with it, what it wrote stays."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fakes.coordinator import World, honest, protocol\n"
        "from fedrad_common.identity import SigningKey\n"
        "folder = Path(sys.argv[1])\n"
        "world = World(folder / 'run', names=('ankara', 'bergen'))\n"
        "world.key.save(folder / 'coordinator.key')\n"
        "for site in world.sites.values():\n"
        "    site.key.save(folder / f'{site.name}.key')\n"
        "def deadly(site, order, model):\n"
        "    if order.round == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return honest(site, order, model)\n"
        "world.finish(protocol(rounds=2), bergen=deadly)\n"
    )
    tests = Path(__file__).resolve().parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL

    from fedrad_common.identity import SigningKey

    world = World(tmp_path / "run", names=NAMES, key=SigningKey.load(tmp_path / "coordinator.key"))
    for site in world.sites.values():
        site.key, site.sequence = SigningKey.load(tmp_path / f"{site.name}.key"), 10
    with world.open() as run:
        assert (run.round, run.epoch) == (1, 2)
        world.play(run)

    assert replay(world.directory) == Replay(start=0, rounds=2, equal=True)


def test_adams_moments_survive_a_resume(tmp_path: Path) -> None:
    world = World(tmp_path / "echo", names=NAMES)
    with world.create(CONTENT) as run:
        world.play(run)
        slots = {name: slot.tobytes() for name, slot in run.state.slots.items()}
    with world.open() as run:
        assert {name: slot.tobytes() for name, slot in run.state.slots.items()} == slots
        assert sorted(slots) == ["ema", "m", "v"]
        assert np.abs(run.state.slots["v"]).min() > 0


def test_a_full_disk_stops_the_coordinator_with_a_hint_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    world = World(tmp_path / "full", names=NAMES)
    real, room = os.replace, [12]

    def replace(source: str, target: str) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(FedradError, match="no space left on the disk") as stopped:
            advance(world)
    assert "free space and run the same command again" in stopped.value.hint
    advance(world)

    records = read_run(world.directory)
    assert records.epoch == 2
    assert same_models(records, expected)
    assert_each_update_once(records)
