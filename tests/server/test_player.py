"""The player's promises: it plays what is wanted, tells what came of it by its exit code, and ends at once when told to."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, unsynced
from fakes.patience import PATIENCE

from fedrad_common import chain, errors
from fedrad_common.errors import FedradError
from fedrad_server import player, wanted
from fedrad_server.home import Home
from fedrad_server.rounds import Outcome
from fedrad_server.runs import Run

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


@pytest.fixture
def run(home: Home) -> Path:
    world = World(home.directory / "runs" / "echo", key=home.key)
    world.create(protocol()).close()
    wanted.write(world.directory, "run")
    return world.directory


def plays(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> list[str]:
    """Flower's part, replaced: the names of the runs that it was asked to play."""
    asked: list[str] = []

    def play_run(run: Run, files: object, *, progress: object) -> Outcome:
        asked.append(run.directory.name)
        return outcome

    monkeypatch.setattr("fedrad_server.app.task.play_run", play_run)
    return asked


def audited(home: Home) -> list[str]:
    return [entry.type for entry in chain.read(home.directory / "audit.chain", "audit") if entry.type.startswith("run-")]


def test_a_run_that_pauses_waits_for_a_person(home: Home, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plays(monkeypatch, Outcome.PAUSED)
    assert player.play(home.directory, run) == player.PAUSED
    assert wanted.read(run) == wanted.Wanted(state="paused")
    assert audited(home) == ["run-paused"]


def test_a_run_that_was_stopped_meanwhile_is_not_played(home: Home, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plays(monkeypatch, Outcome.FINISHED)
    wanted.write(run, "stop")
    assert player.play(home.directory, run) == player.STOPPED
    assert asked == []


def test_an_end_is_entered_once_though_the_player_was_killed_before(home: Home, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plays(monkeypatch, Outcome.FINISHED)
    with Run.open(run, home.key) as opened:
        opened.finish()
    assert [player.play(home.directory, run) for _ in range(2)] == [0, 0]
    assert asked == []
    assert audited(home) == ["run-finished"]


@pytest.mark.parametrize(("error", "code"), [("DiskError", player.PASSING), ("BusyError", player.PASSING), ("FormatError", 1)])
def test_what_passes_is_told_from_what_does_not(home: Home, run: Path, monkeypatch: pytest.MonkeyPatch, error: str, code: int) -> None:
    def fail(home: Path, folder: Path) -> int:
        raise getattr(errors, error)("events.chain: says no", hint="h")

    monkeypatch.setattr(player, "play", fail)
    monkeypatch.setattr(signal, "signal", lambda number, act: None)
    monkeypatch.setattr(sys, "argv", ["player", str(home.directory), "echo"])
    with pytest.raises(SystemExit) as end:
        player.main()
    assert end.value.code == code


def test_flowers_errors_are_ours_and_quote_nobody() -> None:
    import httpx
    from flwr.supercore.run import RunNotRunningException

    from fedrad_server.app.task import surfacing

    request = httpx.Request("POST", "http://127.0.0.1/secret-path")
    refused = httpx.HTTPStatusError("words", request=request, response=httpx.Response(403, text='{"code":7,"detail":"words"}'))
    for error, message in (
        (RunNotRunningException(), "Flower ended its run"),
        (httpx.ConnectError("words", request=request), "the coordinator's server is not running"),
        (refused, "the coordinator's server refused a call: status 403, code 7"),
    ):
        with pytest.raises(FedradError) as told, surfacing():
            raise error
        assert str(told.value).startswith(message)
        assert told.value.hint
        assert "words" not in str(told.value) + told.value.hint
        assert told.value.__suppress_context__


PROGRAM = """
import signal, sys, time, types
fake = types.ModuleType("fedrad_server.app.task")
def play_run(run, files, *, progress):
    progress(1, "north", "asked")
    {deed}
fake.play_run, fake.stopped = play_run, lambda: __import__("fedrad_common.errors").errors.FedradError("ended", hint="h")
sys.modules["fedrad_server.app"], sys.modules["fedrad_server.app.task"] = types.ModuleType("fedrad_server.app"), fake
from fedrad_server.player import main
main()
"""


@pytest.mark.parametrize(
    ("deed", "number", "code"), [("time.sleep(600)", signal.SIGTERM, 4), ("signal.raise_signal(signal.SIGINT)", None, 1)]
)
def test_sigterm_and_flowers_own_sigint_end_it_at_once_and_the_run_can_go_on(
    home: Home, run: Path, deed: str, number: signal.Signals | None, code: int
) -> None:
    program = [sys.executable, "-c", PROGRAM.format(deed=deed), home.directory, "echo"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        if number is not None:
            process.send_signal(number)
        assert process.wait(PATIENCE) == code
        rest = process.stderr.read()
    assert first.endswith("run echo: round 1: north: asked\n")
    assert "Traceback" not in rest
    with Run.open(run, home.key) as again:
        assert again.epoch == 3
    found = wanted.read(run)
    assert found is not None
    assert found.state == "run"
