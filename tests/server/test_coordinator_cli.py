"""`fedrad-coordinator` as its user meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, refusing, unsynced

from fedrad_common.cli import run_cli
from fedrad_common.identity import SigningKey
from fedrad_server.cli import app
from fedrad_server.home import Home

Run = Callable[..., tuple[int, str, str]]

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            run_cli(app, "fedrad-coordinator", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return command


def test_init_makes_a_private_key_and_prints_the_public_one(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("init", tmp_path / "home")

    home = Home.open(tmp_path / "home")
    assert code == 0
    assert home.key.public.hex in out
    assert home.public == home.key.public
    assert (tmp_path / "home/keys/coordinator.key").stat().st_mode & 0o777 == 0o600


def test_init_never_overwrites(run: Run, tmp_path: Path) -> None:
    run("init", tmp_path / "home")
    before = Home.open(tmp_path / "home").public
    code, out, err = run("init", tmp_path / "home")
    assert (code, out) == (2, "")
    assert err.startswith("fedrad-coordinator: error: home: exists already\nfedrad-coordinator: hint: ")
    assert Home.open(tmp_path / "home").public == before


def test_sites_lists_names_and_key_ids(run: Run, tmp_path: Path) -> None:
    key = SigningKey.generate().public
    Home.create(tmp_path / "home").save_roster({"bergen": key.hex})
    assert json.loads(run("sites", tmp_path / "home", "--json")[1]) == {"sites": [{"key": key.id, "site": "bergen"}]}
    assert key.id[:16] in run("sites", tmp_path / "home")[1]


def test_a_folder_that_is_no_home_is_said_to_be_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("sites", tmp_path)
    assert code == 2
    assert "is no coordinator's home" in err


def test_status_tells_round_state_and_reason(run: Run, tmp_path: Path) -> None:
    world = World(tmp_path / "home" / "runs" / "echo")
    Home.create(tmp_path / "home")
    world.finish(protocol(quorum=3, retries=0), cadiz=refusing("policy"))

    code, out, _ = run("status", world.directory, "--json")
    value = json.loads(out)

    assert code == 0
    assert (value["state"], value["round"], value["rounds"], value["accepted"]) == ("paused", 0, 3, ["ankara", "bergen"])
    assert "2 of 3 needed updates" in run("status", world.directory)[1]
    assert "round 0 of 3  paused" in run("runs", tmp_path / "home")[1]


def test_replay_exits_with_zero_when_equal_and_one_when_not(run: Run, tmp_path: Path) -> None:
    world = World(tmp_path / "echo")
    world.finish(protocol(rounds=2))
    assert run("replay", world.directory)[:2] == (0, "equal: 2 rounds\n")

    (world.directory / "rounds/0002/updates/bergen.f32").write_bytes(bytes(48))
    code, out, _ = run("replay", world.directory, "--json")
    assert code == 1
    assert json.loads(out)["first_difference"] == 2


def test_one_damaged_run_does_not_hide_the_others(run: Run, tmp_path: Path) -> None:
    Home.create(tmp_path / "home")
    for name in ("first", "second"):
        World(tmp_path / "home" / "runs" / name).finish(protocol(rounds=1))
    (tmp_path / "home/runs/first/protocol.json").write_text("{}")
    code, out, _ = run("runs", tmp_path / "home")
    assert code == 0
    assert "damaged: protocol.toml" in out.splitlines()[0]
    assert "round 1 of 1  finished" in out.splitlines()[1]


def test_a_report_has_a_place_in_an_unfinished_run_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "echo")
    world.create(protocol()).close()
    monkeypatch.setattr("fedrad_server.report.write_report", lambda source, out: out.write_text("page"))

    assert run("report", world.directory)[0] == 0
    assert (world.directory / "result" / "report.html").read_text() == "page"
    code, _, err = run("report", world.directory, "--out", tmp_path / "nowhere" / "report.html")
    assert code == 2
    assert "nowhere: no such folder" in err


@pytest.mark.parametrize("verb", ["status", "replay", "report"])
def test_a_folder_that_is_no_run_is_the_users_mistake(run: Run, tmp_path: Path, verb: str) -> None:
    code, _, err = run(verb, tmp_path)
    assert code == 2
    assert "is no run" in err


@pytest.mark.parametrize("verb", ["init", "sites", "runs", "status", "replay", "report"])
def test_every_command_shows_one_complete_example(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert out.count(f"Example: fedrad-coordinator {verb} ") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["status", "RUN"], ["sites", "HOME"], ["replay", "RUN"]])
def test_light_commands_load_no_heavy_library(tmp_path: Path, arguments: list[str]) -> None:
    world = World(tmp_path / "run")
    world.finish(protocol(rounds=1))
    Home.create(tmp_path / "home")
    places = {"RUN": str(tmp_path / "run"), "HOME": str(tmp_path / "home")}
    heavy = {"torch", "opacus", "flwr", "ray", "pydicom", "sklearn", "plotly"}
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print({heavy} & set(sys.modules), file=sys.stderr))\n"
        "from fedrad_server.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, *(places.get(argument, argument) for argument in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "set()\n")
