"""The supervisor's promises, with processes that end on command and a clock that a test moves."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, unsynced
from fakes.roots import unreadable

from fedrad_common.errors import ClockError, DiskError, FedradError
from fedrad_server import wanted
from fedrad_server.keeper import LONGEST_PAUSE, pause_after
from fedrad_server.player import PASSING, PAUSED
from fedrad_server.supervisor import (
    HOPELESS,
    MOST_FAILURES,
    PATIENCE,
    PLAYER,
    SERVER,
    TIDY,
    UNWELL,
    Supervisor,
)

__all__ = ["unsynced"]  # a fixture that every test here uses


@dataclass
class Process:
    module: str
    arguments: tuple[str, ...]
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@dataclass
class Stage:
    """A home, and a supervisor over fake processes; `step` looks at everything and moves the clock."""

    home: Path
    now: float = 0.0
    started: list[Process] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    listens: bool = True  # a server that starts does so
    ready: int = 0
    well: bool = True  # what the server says of itself

    def __post_init__(self) -> None:
        (self.home / "superlink").mkdir(parents=True)
        self.supervisor = Supervisor(
            self.home,
            self.spawn,
            self.end,
            self.said.append,
            clock=lambda: self.now,
            on_ready=lambda: setattr(self, "ready", self.ready + 1),
            is_well=lambda: self.well,
        )

    def spawn(self, module: str, *arguments: str) -> Process:
        process = Process(module, arguments, pid=100 + len(self.started))
        self.started.append(process)
        if module == SERVER and self.listens:
            ready = {"format": "fedrad-superlink-1", "public": 9092, "private": 9093, "host": "127.0.0.1", "pid": process.pid}
            (self.home / "superlink" / "ready.json").write_text(json.dumps(ready))
        return process

    def end(self, process: Process) -> int:
        self.ended.append(process.module)
        process.code = -15 if process.code is None else process.code
        return process.code

    def step(self, times: int = 1, *, seconds: float = 0.4) -> None:
        for _ in range(times):
            self.supervisor.step()
            self.now += seconds

    def running(self, module: str) -> list[Process]:
        return [process for process in self.started if process.module == module and process.code is None]

    def started_of(self, module: str) -> list[Process]:
        return [process for process in self.started if process.module == module]

    def run(self, name: str, *, created: str = "2026-01-01T00:00:00+00:00", finished: bool = False) -> Path:
        world = World(self.home / "runs" / name)
        if finished:
            world.finish(protocol(rounds=1))
        else:
            world.create(protocol()).close()
        launch = self.home / "runs" / name / "launch.json"
        document = json.loads(launch.read_text())
        body = json.loads(document["body"])
        launch.write_text(json.dumps({**document, "body": json.dumps({**body, "created": created})}))
        wanted.write(world.directory, "run")
        return world.directory


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "home")


def test_the_server_comes_first_and_then_the_players_in_the_order_of_their_launch(stage: Stage) -> None:
    stage.run("aa", created="2026-01-02T00:00:00+00:00")
    first = stage.run("zz", created="2026-01-01T00:00:00+00:00")

    stage.step(5)

    assert [process.module for process in stage.started][:1] == [SERVER]
    assert [process.arguments for process in stage.started_of(PLAYER)] == [(str(stage.home), "zz")]
    stage.running(PLAYER)[0].code = PAUSED
    wanted.write(first, "paused")
    stage.step(3)
    assert [process.arguments[1] for process in stage.started_of(PLAYER)] == ["zz", "aa"]


def test_nothing_is_played_before_the_server_listens(stage: Stage) -> None:
    stage.listens = False
    stage.run("echo")
    stage.step(5)
    assert not stage.started_of(PLAYER)
    assert stage.ready == 0


def test_a_ready_file_of_a_killed_server_is_not_believed(stage: Stage) -> None:
    stage.listens = False
    former = {"format": "fedrad-superlink-1", "public": 9092, "private": 9093, "host": "127.0.0.1", "pid": 7}
    stage.run("echo")
    for _ in range(2):  # found at the start, and put there by one that is just dying
        (stage.home / "superlink" / "ready.json").write_text(json.dumps(former))
        stage.step(3)
    assert not stage.started_of(PLAYER)


def test_only_runs_that_are_wanted_and_not_finished_are_played(stage: Stage) -> None:
    stage.run("done", finished=True)
    wanted.write(stage.run("stopped"), "stop")
    wanted.write(stage.run("waiting"), "paused")
    (stage.run("foreign") / "wanted.json").unlink()
    stage.step(5)
    assert not stage.started_of(PLAYER)


def test_a_run_that_is_stopped_loses_its_player_and_the_next_one_goes_on(stage: Stage) -> None:
    first, _ = stage.run("a"), stage.run("b")
    stage.step(3)
    wanted.write(first, "stop")
    stage.step(3)
    assert stage.ended == [PLAYER]
    assert [process.arguments[1] for process in stage.running(PLAYER)] == ["b"]


def test_a_player_that_died_is_started_again_after_a_pause_that_grows(stage: Stage) -> None:
    stage.run("echo")
    starts = []
    for _ in range(4):
        while not stage.running(PLAYER):
            stage.step(seconds=0.1)
        starts.append(stage.now)
        stage.running(PLAYER)[0].code = -9
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= pause_after(1)
    assert gaps[-1] >= pause_after(3)


def test_pauses_end_at_half_a_minute() -> None:
    assert pause_after(1) == 0.5
    assert pause_after(100) == LONGEST_PAUSE
    assert pause_after(10_000) == LONGEST_PAUSE  # a disk that is full for days


def state(run: Path) -> str:
    found = wanted.read(run)
    assert found is not None
    return found.state


def fail(stage: Stage, times: int, code: int = 1, between: Callable[[], None] = lambda: None) -> None:
    for _ in range(times):
        for _ in range(500):
            if stage.running(PLAYER):
                break
            stage.step()
        stage.running(PLAYER)[0].code = code
        between()
    stage.step()


def test_a_run_whose_player_fails_again_and_again_is_set_aside_and_the_next_one_goes_on(stage: Stage) -> None:
    first = stage.run("a")
    stage.run("b")

    fail(stage, MOST_FAILURES)

    found = wanted.read(first)
    assert found is not None
    assert (found.state, found.reason) == (
        "paused",
        f"its player failed {MOST_FAILURES} times with no round between, the last time with code 1",
    )
    stage.step(3)
    assert [process.arguments[1] for process in stage.running(PLAYER)] == ["b"]


def test_a_player_that_fails_in_another_way_each_time_is_set_aside_too(stage: Stage) -> None:
    run = stage.run("a")
    for code in (1, -9, 2, -11, 1):
        assert wanted.read(run) == wanted.Wanted(state="run")
        fail(stage, 1, code)
    assert state(run) == "paused"


def test_a_run_that_closes_rounds_between_its_failures_is_not_set_aside_and_starts_again_at_once(stage: Stage) -> None:
    run = stage.run("a")
    closed = iter(range(1, 100))

    def close() -> None:
        (folder := run / "rounds" / f"{next(closed):04d}").mkdir()
        (folder / "manifest.json").touch()

    fail(stage, MOST_FAILURES + 2, between=close)
    assert state(run) == "run"
    assert stage.supervisor.player.due - stage.now <= pause_after(1)


def test_what_passes_is_not_the_runs_fault(stage: Stage) -> None:
    run = stage.run("a")
    fail(stage, MOST_FAILURES + 1, PASSING)
    assert state(run) == "run"


@pytest.mark.parametrize("error", [DiskError("audit.chain: no space left on the disk"), ClockError("audit.chain: the clock"), OSError(13)])
def test_what_cannot_be_set_aside_now_is_so_later_and_the_coordinator_lives(stage: Stage, error: Exception) -> None:
    run = stage.run("a")
    noted: list[Path] = []

    def refuse(run: Path) -> None:
        raise error

    stage.supervisor.on_aside = refuse
    fail(stage, MOST_FAILURES + 2)
    assert state(run) == "run"
    assert any("run a: cannot be set aside" in line for line in stage.said)
    stage.supervisor.on_aside = noted.append
    fail(stage, 1)
    assert (state(run), noted) == ("paused", [run])


def test_a_wish_that_cannot_be_written_is_written_later_and_noted_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.run("a")
    noted: list[Path] = []
    stage.supervisor.on_aside = noted.append
    with monkeypatch.context() as patch:
        patch.setattr(wanted, "pause", lambda run, reason: (_ for _ in ()).throw(DiskError("wanted.json: no space left on the disk")))
        fail(stage, MOST_FAILURES + 1)
    assert state(run) == "run"
    fail(stage, 1)
    assert (state(run), noted) == ("paused", [run])


def test_a_player_that_fails_because_the_server_died_is_not_the_runs_fault(stage: Stage) -> None:
    run = stage.run("a")

    def kill_server() -> None:
        stage.running(SERVER)[0].code = -9

    fail(stage, MOST_FAILURES + 1, between=kill_server)
    assert state(run) == "run"
    assert len(stage.started_of(SERVER)) > MOST_FAILURES


def test_a_server_that_dies_is_started_again_while_the_player_stays(stage: Stage) -> None:
    stage.run("echo")
    stage.step(3)
    stage.running(SERVER)[0].code = -9
    stage.step(4)
    assert len(stage.started_of(SERVER)) == 2
    assert len(stage.started_of(PLAYER)) == 1
    assert any("server: ended with code -9" in line for line in stage.said)


def test_a_server_that_hangs_is_ended_and_started_again(stage: Stage) -> None:
    stage.step(3)
    stage.well = False
    stage.step(int(UNWELL / 0.4))
    assert not stage.ended
    stage.step(30)
    assert stage.ended == [SERVER]
    assert "server: does not serve for 30 s, though it lives" in stage.said
    stage.well = True
    stage.step(200)
    assert (stage.ended, len(stage.started_of(SERVER))) == ([SERVER], 2)


def test_a_server_that_is_well_again_in_time_stays(stage: Stage) -> None:
    stage.step(3)
    for _ in range(4):
        stage.well = False
        stage.step(int(UNWELL / 0.4) - 20)
        stage.well = True
        stage.step(20)
    assert not stage.ended


def test_a_player_that_fails_while_the_server_hangs_is_not_the_runs_fault(stage: Stage) -> None:
    run = stage.run("a")
    stage.step(3)
    stage.well = False
    fail(stage, MOST_FAILURES)  # more often than that it cannot, before the server is another one
    assert state(run) == "run"


def test_a_server_that_never_listens_is_ended_and_started_again(stage: Stage) -> None:
    stage.step()
    stage.running(SERVER)[0].code = 1
    stage.listens = False
    stage.step(4)
    stage.step(seconds=PATIENCE + 1)
    stage.step(4)
    assert stage.ended == [SERVER]
    assert len(stage.started_of(SERVER)) == 3


def test_a_server_that_cannot_start_at_all_ends_the_supervisor(stage: Stage) -> None:
    stage.listens = False

    def fail_for_ever() -> None:
        while len(stage.started) < 100:
            stage.step()
            for process in stage.running(SERVER):
                process.code = 2

    with pytest.raises(FedradError, match=f"does not start: code 2, {HOPELESS} times"):
        fail_for_ever()


def test_nodes_are_brought_into_line_after_each_start_of_the_server_until_it_is_done(stage: Stage) -> None:
    stage.step(3)
    stage.running(TIDY)[0].code = 1
    stage.step(5)
    assert len(stage.started_of(TIDY)) == 2
    stage.running(TIDY)[0].code = 0
    stage.step(20)
    assert len(stage.started_of(TIDY)) == 2
    stage.running(SERVER)[0].code = -9
    stage.step(5)
    assert len(stage.started_of(TIDY)) == 3


def test_all_end_in_order_the_player_first(stage: Stage) -> None:
    stage.run("echo")
    stage.step(3)
    stage.running(TIDY)[0].code = 0
    stage.step()
    stage.supervisor.shut_down()
    assert stage.ended == [PLAYER, SERVER]


def test_a_damaged_run_stops_no_other(stage: Stage) -> None:
    (stage.run("a") / "events.chain").write_bytes(b"nonsense\n")
    (stage.run("b") / "wanted.json").write_text("{")
    stage.run("c")
    stage.step(40)
    assert [process.arguments[1] for process in stage.started_of(PLAYER)] == ["c"]
    assert sum("run a: is passed over" in line for line in stage.said) == 1


def test_a_run_that_may_not_be_read_stops_no_other_and_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable(monkeypatch, stage.run("a"))
    unreadable(monkeypatch, stage.run("b") / "wanted.json")
    unreadable(monkeypatch, stage.run("c") / "launch.json")
    stage.run("d")
    stage.step(40)
    assert [process.arguments[1] for process in stage.started_of(PLAYER)] == ["d"]
    assert [sum(f"run {name}: is passed over" in line for line in stage.said) for name in "abc"] == [1, 1, 1]


def test_a_run_that_may_not_be_read_any_more_keeps_its_player(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stage.run("a")
    stage.step(3)
    unreadable(monkeypatch, run / "wanted.json")
    stage.step(5)
    assert len(stage.running(PLAYER)) == 1


def test_a_new_supervisor_goes_on_with_what_is_wanted(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "home")
    stage.run("echo")
    stage.step(3)

    again = Supervisor(stage.home, stage.spawn, stage.end, stage.said.append, clock=lambda: stage.now)
    for _ in range(3):
        again.step()
        stage.now += 0.4
    assert [process.arguments[1] for process in stage.started_of(PLAYER)] == ["echo", "echo"]
