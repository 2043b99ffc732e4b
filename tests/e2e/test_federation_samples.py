"""Small samples of what `simulations/benchmarks/federation/` measures whole, and that what they look for would be found."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "federation"
sys.path.insert(0, str(FOLDER))  # its modules find each other there
try:
    import disk
    import kills
    import newcomer
    import overhead
    from counting import Meters
    from fleet import NAMES, Fleet
    from hospital import protocol
    from memory import Memory
    from outcome import ledger_troubles, run_troubles
    from programs import BrokenError, Programs
finally:
    sys.path.remove(str(FOLDER))

LENGTH, ROUNDS = 300_000, 5
MEGABYTES = 4 * LENGTH / 1e6


@pytest.fixture(scope="module")
def meters() -> Iterator[list[Meters]]:
    """The one that stands between the sites and the server, once there is a server."""
    opened: list[Meters] = []
    yield opened
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, meters: list[Meters]) -> Iterator[Fleet]:
    """Three sites that are online and have approved one protocol; at the end none of their processes may be left."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.enrol()
        made.approve("sample", protocol("sample", length=LENGTH, rounds=ROUNDS, quorum=2), runs=10)
        meters.append(Meters(*made.address(), *NAMES).__enter__())
        made.begin(servers=meters[0].servers)
        yield made
        made.programs.stop(*NAMES, "coordinator")
        assert not made.programs.left()
    finally:
        made.programs.end()


@pytest.fixture(scope="module")
def played(fleet: Fleet, meters: list[Meters]) -> tuple[Path, list[float], Memory]:
    """An undisturbed run, the megabytes by site and round, and its memory."""
    with Memory(fleet.programs.running, "coordinator", *NAMES) as memory:
        run = fleet.launch(fleet.folder / "sample.toml", "played")
        moved = overhead.moved_by(fleet, meters[0], run, ROUNDS - 1)
    return run, moved, memory


def test_bytes_memory_and_disk_of_a_run_are_counted(fleet: Fleet, played) -> None:
    run, moved, memory = played
    of_a_site = overhead.memory_figures(memory, MEGABYTES, 0)[0]

    assert all(2 * MEGABYTES < one < 2 * MEGABYTES * 1.25 for one in moved), "the vector both ways, and little else"
    assert of_a_site.holds
    assert of_a_site.value > 0.2, "not even the libraries that its child loads"
    assert not list(run_troubles(run, quorum=3))
    assert disk.used(run) > (1 + ROUNDS + 3 * ROUNDS) * MEGABYTES * 1e6
    assert 0 < disk.database_bytes(fleet.home / "superlink") < 1e7


def test_a_run_whose_record_was_touched_is_called_wrong(played, tmp_path: Path) -> None:
    run, _, _ = played
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "rounds" / "0002" / "updates" / "north.json").unlink()
    shutil.copytree(run, tmp_path / "model")
    model = tmp_path / "model" / "result" / "model.f32"
    model.write_bytes(model.read_bytes()[:-4] + b"\0\0\0\1")

    assert list(run_troubles(tmp_path / "run", quorum=3))
    assert list(run_troubles(tmp_path / "model", quorum=3))
    assert list(run_troubles(run, quorum=4)), "a round below quorum"


def test_a_ledger_that_holds_less_than_left_is_called_wrong(fleet: Fleet, played, tmp_path: Path) -> None:
    run, _, _ = played
    site, older = fleet.folder / "north", tmp_path / "north"
    shutil.copytree(site, older)
    later = fleet.launch(fleet.folder / "sample.toml", "later")
    fleet.await_end(later)
    robbed = tmp_path / "robbed" / "north"
    shutil.copytree(site, robbed)
    for path in older.glob("ledger.chain*"):
        shutil.copy(path, robbed / path.name)

    assert not list(ledger_troubles(site, [run, later]))
    assert any("does not name" in trouble for trouble in ledger_troubles(older, [run, later])), "an older copy of everything"
    found = list(ledger_troubles(robbed, [run, later]))
    assert any("does not hold" in trouble for trouble in found), "an older ledger beside a newer audit log"
    assert any("were paid" in trouble for trouble in found)
    assert any("cost" in trouble for trouble in found)


def test_killed_coordinators_and_sites_leave_a_run_that_finishes_and_a_ledger_that_pays(fleet: Fleet, played) -> None:
    rig = kills.Rig(fleet, fleet.folder / "sample.toml", restart_after=0.0, runs=[played[0]])
    draw = random.Random(0)

    rig.coordinator(1, 2.0, draw)
    rig.sites(1, 2.0, draw)
    noticed, _ = rig.dead(1, 2.0, draw)

    assert not rig.troubles
    assert noticed.holds
    assert not list(rig.at_the_end())


def test_a_new_hospital_comes_online_by_commands_alone(fleet: Fleet) -> None:
    fleet.programs.run("fedrad-sim", "phantom", "phantom", "--scale", 0.05)
    shutil.copy(newcomer.PROTOCOL, fleet.folder / "protocol.toml")

    taken = newcomer.newcomer(fleet, "newcomer", 150)

    assert list(taken) == list(newcomer.STEPS)


def test_a_missed_bar_is_an_exit_code_and_a_line_of_json() -> None:
    code = "from figures import *; conclude([Figure('slow', 3.0, 's', bar=2.0), Figure('shown', 9.0, 's')], before='', as_json=True)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True)

    assert ended.returncode == 1
    assert [figure["holds"] for figure in json.loads(ended.stdout)["figures"]] == [False, True]


def test_what_outlives_its_program_is_found_and_killed(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import subprocess, sys; subprocess.Popen(['sleep', '1000']); print('left', flush=True)")
    programs = Programs(tmp_path)
    programs.start("leaves", str(tmp_path / "leaves.py"))
    programs.finish("leaves")

    assert len(programs.left()) == 1
    assert len(programs.end()) == 1
    programs.until(lambda: not programs.left(), what="it is gone", seconds=5)


def test_a_command_that_fails_tells_its_words(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="coordinator"):
        Programs(tmp_path).run("fedrad-coordinator", "status", "nowhere")
