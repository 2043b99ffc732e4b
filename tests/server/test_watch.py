"""What `watch` shows of a run is what its files say: who answered, who did not and why, how fresh it is, what it cost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, refusing, silent, unsynced

from fedrad_common.files import exclusive_lock
from fedrad_server import wanted, watch
from fedrad_server.display import as_value, changes, in_progress, lines, seconds, state_of
from fedrad_server.home import Home
from fedrad_server.runs import Run
from fedrad_server.watch import Cell, SiteLine, Snapshot, chosen_run, snapshot

__all__ = ["unsynced"]  # a fixture that every test here uses

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "superlink").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def world(home: Path) -> World:
    return World(home / "runs" / "echo")


def contacts(home: Path, *, listening: float = 600.0, **ages: float) -> None:
    """A server that has listened for so many seconds, and heard each site so many ago."""
    ready = home / "superlink" / "ready.json"
    ready.touch()
    os.utime(ready, (NOW.timestamp() - listening,) * 2)
    value = {"format": "fedrad-contacts-1", "sites": {site: NOW.timestamp() - age for site, age in ages.items()}}
    (home / "superlink" / "contacts.json").write_text(json.dumps(value))


def look(world: World, now: datetime = NOW) -> Snapshot:
    return snapshot(world.directory.parents[1], world.directory, now)


def line(found: Snapshot, site: str) -> SiteLine:
    return next(line for line in found.sites if line.site == site)


@contextmanager
def asked(world: World, content: bytes, **codes: str) -> Iterator[Run]:
    """A run whose first round was just asked; some sites have answered with a code, others not at all."""
    with world.create(content) as run:
        wanted.write(run.directory, "run")
        run.begin(1)
        run.record("asked", {"round": 1, "kind": "train", "attempt": 1, "sites": sorted(world.names)})
        for site, code in codes.items():
            kind = "gone" if code == "gone" else "refused"
            run.record(kind, {"round": 1, "kind": "train", "site": site, **({"seconds": 9} if code == "gone" else {"code": code})})
        yield run


def test_the_grid_tells_for_each_site_and_round_what_came_of_it(world: World) -> None:
    world.finish(protocol(rounds=2, quorum=1), bergen=silent, cadiz=refusing("policy"))
    found = look(world)
    assert (found.state, found.round, found.rounds) == ("finished", 2, 2)
    assert line(found, "ankara").rounds == (Cell("accepted"), Cell("accepted"))
    assert line(found, "bergen").rounds == (Cell("late"), Cell("late"))
    assert line(found, "cadiz").rounds == (Cell("refused", "policy"), Cell("refused", "policy"))


def test_a_paused_run_says_why_and_who_was_missing(world: World) -> None:
    world.finish(protocol(quorum=3, retries=0), bergen=silent, cadiz=refusing("budget"))
    wanted.write(world.directory, "paused")
    found = look(world)
    assert found.state == "paused"
    assert "1 of 3 needed updates" in found.reason
    assert [line(found, site).now for site in ("ankara", "bergen", "cadiz")] == [Cell("accepted"), Cell("late"), Cell("refused", "budget")]


def test_a_pause_counts_once_its_player_is_gone(home: Path, world: World) -> None:
    contacts(home, ankara=0, bergen=0, cadiz=0)
    with world.create(protocol()) as run:
        wanted.write(run.directory, "paused")
        assert (look(world).state, look(world).reason) == ("running", "its player is ending")
    assert look(world).state == "paused"


def test_a_pause_that_is_written_while_somebody_looks_comes_with_its_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create(protocol(quorum=3, retries=0)).close()
    wanted.write(world.directory, "run")
    real = watch.read_run

    def read(directory: Path, **options: bool) -> object:
        records = real(directory, **options)
        with world.open() as run:
            world.play(run, cadiz=silent)
        wanted.pause(world.directory)
        return records

    with monkeypatch.context() as patch:
        patch.setattr(watch, "read_run", read)
        found = look(world)
    assert (found.state, found.reason) != ("paused", "")
    assert "2 of 3 needed updates" in look(world).reason


def test_a_run_that_was_set_aside_says_why(world: World) -> None:
    world.create(protocol()).close()
    wanted.write(world.directory, "paused", "its player failed 5 times in a row with code 1")
    assert look(world).reason == "its player failed 5 times in a row with code 1"


def test_while_a_round_is_open_each_site_has_its_own_word(home: Path, world: World) -> None:
    contacts(home, ankara=1, bergen=2, cadiz=30)
    with asked(world, protocol(), bergen="hours"):
        found = look(world)
        assert found.state == "running"
        assert [line(found, site).now for site in ("ankara", "bergen", "cadiz")] == [
            Cell("waiting"),
            Cell("refused", "hours"),
            Cell("gone"),
        ]
        assert state_of(line(found, "cadiz")) == "gone: silent for 30 s"
        assert [line(found, site).age for site in ("ankara", "cadiz")] == pytest.approx([1, 30])


def test_nobody_is_gone_when_the_coordinator_itself_was_away(home: Path, world: World) -> None:
    contacts(home, listening=3, ankara=500, bergen=1)
    with asked(world, protocol()):
        assert {line.now for line in look(world).sites} == {Cell("waiting")}


def test_a_site_that_the_round_gave_up_is_gone_until_it_is_asked_again(home: Path, world: World) -> None:
    contacts(home, ankara=1, bergen=1, cadiz=1)
    with asked(world, protocol(), cadiz="gone") as run:
        assert line(look(world), "cadiz").now == Cell("gone")
        run.record("asked", {"round": 1, "kind": "train", "attempt": 1, "sites": ["cadiz"]})
        assert line(look(world), "cadiz").now == Cell("waiting")


def test_the_time_in_a_round_counts_from_when_it_was_first_asked(home: Path, world: World) -> None:
    contacts(home, ankara=0, bergen=0, cadiz=0)
    with asked(world, protocol()) as run:
        begun = datetime.fromisoformat(run.events.entries[-1].at)
        found = look(world, begun + timedelta(seconds=12))
    assert found.exchange is not None
    assert found.exchange.seconds == 12
    assert in_progress(found) == "round 1: 0 of 3 answered, 2 needed; 12 s of at most 180 s"


@pytest.mark.parametrize(("state", "shown"), [("run", "waiting"), ("stop", "stopped"), (None, "open")])
def test_a_run_that_nobody_plays_says_so(world: World, state: wanted.State | None, shown: str) -> None:
    world.create(protocol()).close()
    if state is not None:
        wanted.write(world.directory, state)
    assert look(world).state == shown


def test_watching_a_run_that_was_stopped_ends(home: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from fedrad_common.cli import run_cli
    from fedrad_server.cli import app

    world.create(protocol()).close()
    wanted.write(world.directory, "stop")
    (home / "roster.json").write_text("{}")  # by which a home is told
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-coordinator", ["watch", str(home), world.directory.name])

    assert (end.value.code or 0) == 0
    assert "stopped" in capsys.readouterr().err


def test_a_run_that_waits_says_for_whom(home: Path, world: World) -> None:
    world.create(protocol()).close()
    wanted.write(world.directory, "run")
    assert look(world).reason == "no coordinator runs on this home"
    with exclusive_lock(home / "lock", what="coordinator"):
        assert look(world).reason == "its player is being started"
        with World(home / "runs" / "other").create(protocol()):
            assert look(world).reason == "run other is played first"


def test_epsilon_is_that_of_the_accepted_updates(home: Path, tmp_path: Path) -> None:
    from fedrad_common.accounting import GaussianEvent, epsilon_prv
    from fedrad_common.accounting.events import exact_delta
    from fedrad_common.records import Privacy

    stated = Privacy(noise_multiplier=1.1, sampling_rate=0.1, steps=2, delta=1e-5)

    class Private(World):
        def __post_init__(self) -> None:
            super().__post_init__()
            for site in self.sites.values():
                former = site.seal
                site.seal = lambda order, vector, /, former=former, **changes: former(order, vector, **{"privacy": stated, **changes})  # type: ignore[method-assign]

    world = Private(home / "runs" / "private")
    world.finish(protocol(rounds=3, quorum=1), bergen=silent)
    found = look(world)
    exact = epsilon_prv([GaussianEvent(1.1, 0.1, 6)], exact_delta(1e-5))
    shown = line(found, "ankara").epsilon
    assert shown is not None
    assert exact <= shown <= 1.3 * exact, "an upper bound, and no wild one"
    assert (line(found, "bergen").epsilon, line(found, "bergen").bounded) == (None, True)


def test_an_evaluation_is_shown_while_it_is_asked_and_not_afterwards(home: Path, world: World) -> None:
    contacts(home, ankara=0, bergen=0, cadiz=0)
    world.finish(protocol(rounds=1, evaluated=(1,)), bergen=silent)
    assert {line.now for line in look(world).sites} == {None}
    other = World(home / "runs" / "other")
    with other.create(protocol(evaluated=(1,))) as run:
        wanted.write(run.directory, "run")
        run.record("asked", {"round": 1, "kind": "evaluate", "attempt": 1, "sites": sorted(other.names)})
        assert in_progress(look(other)).startswith("evaluation after round 1: 0 of 3 answered")
        run.record("evaluated", {"round": 1, "sites": [], "missing": {}})
        assert look(other).exchange is None


def test_a_new_epoch_begins_with_nobody_asked(home: Path, world: World) -> None:
    contacts(home, ankara=0, bergen=0, cadiz=0)
    with asked(world, protocol(), bergen="hours"):
        pass
    with world.open():
        assert {line.now for line in look(world).sites} == {None}


def test_a_site_that_changes_what_it_states_has_no_bound() -> None:
    from fedrad_common.records import Privacy
    from fedrad_server.watch import epsilon

    first = Privacy(noise_multiplier=1.1, sampling_rate=0.1, steps=2, delta=1e-5)
    assert epsilon([first, first]) is not None
    assert epsilon([first, first.model_copy(update={"noise_multiplier": 2.2})]) == float("inf")
    assert epsilon([first.model_copy(update={"marked": True})]) == float("inf")
    assert epsilon([]) is None


def test_without_noise_there_is_no_bound_and_it_says_so(world: World) -> None:
    world.finish(protocol(rounds=1))
    found = look(world)
    assert (line(found, "ankara").epsilon, line(found, "ankara").bounded) == (None, False)
    assert "no bound" in "\n".join(lines(found))


def test_nothing_of_a_sites_batches_or_times_is_shown(world: World) -> None:
    world.finish(protocol(rounds=1))
    shown = json.dumps(as_value(look(world)))
    for word in ("batch", "steps", "size", "norm", "loss"):
        assert word not in shown


def test_plain_lines_tell_what_changed_between_two_looks(home: Path, world: World) -> None:
    contacts(home, ankara=0, bergen=0, cadiz=0)
    with asked(world, protocol()) as run:
        before = look(world)
        assert changes(None, before) == ["run echo: running, round 0 of 3"]
        assert changes(before, look(world)) == []
        run.record("refused", {"round": 1, "kind": "train", "site": "bergen", "code": "hours"})
        contacts(home, ankara=0, bergen=0, cadiz=20)
        assert changes(before, look(world)) == ["round 1: bergen: refused: hours", "round 1: cadiz: gone: silent for 20 s"]
        before = look(world)
    world.play(reopened := world.open(), cadiz=silent)
    reopened.close()
    said = changes(before, look(world))
    assert said[:2] == ["round 1: closed, 2 of 3 (cadiz late)", "round 2: closed, 2 of 3 (cadiz late)"]
    assert said[-1] == "run echo: finished, round 3 of 3"


def test_the_run_that_is_played_is_watched_else_the_one_launched_last(home: Path) -> None:
    assert chosen_run(home) is None
    first, second = (World(home / "runs" / name) for name in ("bb", "aa"))
    for world, created in ((first, "2026-01-01T00:00:00+00:00"), (second, "2026-01-02T00:00:00+00:00")):
        world.create(protocol()).close()
        launch = world.directory / "launch.json"
        document = json.loads(launch.read_text())
        launch.write_text(json.dumps({**document, "body": json.dumps({**json.loads(document["body"]), "created": created})}))
    assert chosen_run(home) == second.directory
    with exclusive_lock(first.directory / "lock", what="run"):
        assert chosen_run(home) == first.directory


def test_a_damaged_run_hides_no_other_and_alone_says_what_it_is(home: Path) -> None:
    for name in ("aa", "bb"):
        World(home / "runs" / name).create(protocol()).close()
    (home / "runs" / "bb" / "launch.json").write_text("{")
    assert chosen_run(home) == home / "runs" / "aa"
    (home / "runs" / "aa" / "launch.json").write_text("{")
    assert chosen_run(home) == home / "runs" / "aa"


@pytest.mark.parametrize(("value", "words"), [(4.4, "4 s"), (119, "119 s"), (150, "2 min"), (7200, "2 h"), (200_000, "2 d")])
def test_ages_are_rounded_for_a_person(value: float, words: str) -> None:
    assert seconds(value) == words


@pytest.mark.parametrize("form", ["--once", "--json"])
def test_watch_answers_at_once_without_heavy_libraries(tmp_path: Path, form: str) -> None:
    Home.create(tmp_path / "home")
    World(tmp_path / "home" / "runs" / "echo").finish(protocol(rounds=12))
    heavy = {"torch", "opacus", "flwr", "ray", "pydicom", "sklearn", "scipy", "plotly"}
    program = (
        f"import atexit, sys\natexit.register(lambda: print({heavy} & set(sys.modules), file=sys.stderr))\n"
        "from fedrad_server.cli import main\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, "watch", tmp_path / "home", form], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "set()\n")
    if form == "--json":
        assert json.loads(ended.stdout)["round"] == 12
    else:
        assert ended.stdout.startswith("run echo: finished, round 12 of 12")
