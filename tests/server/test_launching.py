"""`launch`, `stop`, `resume`: what a person asks for is on disk before anything plays it, and looking at it changes nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, silent, unsynced
from fakes.patience import PATIENCE

from fedrad_common import chain
from fedrad_common.cli import run_cli
from fedrad_common.errors import ClockError
from fedrad_common.files import exclusive_lock
from fedrad_common.identity import SigningKey
from fedrad_server import following, launching, wanted
from fedrad_server.cli import app
from fedrad_server.history import read_run
from fedrad_server.home import Home, Member
from fedrad_server.runs import Run

Command = Callable[..., tuple[int, str, str]]

__all__ = ["unsynced"]  # a fixture that every test here uses

PROTOCOL = b"""
format = "fedrad-protocol-1"
name = "tiny"
task = { kind = "echo", labels = ["lesion"] }
input = { profile = "xr", height = 8, width = 8 }
model = { name = "echo", options = { length = 40 } }
privacy = { unit = "patient", epsilon = 2.0, expected_batch = 5.0, steps_per_round = 2, rounds = 1 }
training = { learning_rate = 0.1 }
rounds = { quorum = 2, deadline_seconds = 40.0, retries = 0 }
"""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            run_cli(app, "fedrad-coordinator", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """With three sites, and a protocol beside it. Looking goes fast."""
    from fedrad_client.node.key import node_key

    made = Home.create(tmp_path / "home")
    (tmp_path / "site" / "keys").mkdir(parents=True)
    node_key(tmp_path / "site")
    pem = (tmp_path / "site" / "keys" / "node.pub").read_text()
    members = {
        name: Member(envelope=SigningKey.generate().public.hex, node=pem, admitted="2026-01-01") for name in ("ankara", "bergen", "cadiz")
    }
    made.save_members(members)
    (tmp_path / "tiny.toml").write_bytes(PROTOCOL)
    monkeypatch.setattr(following, "_INTERVAL", 0.02)
    return made


class Elsewhere(threading.Thread):
    """Another process, in a thread: its end is waited for, but not for ever, and what it raised is raised again."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.work, self.raised = work, list[BaseException]()
        self.start()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.raised.append(error)

    def join(self, timeout: float | None = PATIENCE) -> None:
        super().join(timeout)
        assert not self.is_alive(), "it does not end"
        for error in self.raised:
            raise error


def played_elsewhere(world: World, **deeds: object) -> Elsewhere:
    """The supervisor's part: once the run is wanted it is played, and a pause is written down."""

    def work() -> None:
        with world.open() as run:
            outcome = world.play(run, **deeds).outcome  # type: ignore[arg-type]
            if outcome == "paused":
                wanted.pause(run.directory)

    return Elsewhere(work)


def test_a_launch_is_on_disk_before_anybody_plays_it(command: Command, home: Home, tmp_path: Path) -> None:
    code, out, err = command("launch", home.directory, tmp_path / "tiny.toml", "--detach", "--json")

    run = home.directory / "runs" / "tiny"
    value = json.loads(out)
    assert code == 0
    assert (value["folder"], value["wanted"], value["supervised"]) == ("tiny", "run", False)
    assert f"fedrad-coordinator start {home.directory}" in err
    assert wanted.read(run) == wanted.Wanted(state="run")
    entry = chain.read(home.directory / "audit.chain", "audit")[-1]
    assert (entry.type, entry.body["run"], entry.body["sites"]) == ("launch", value["run"], 3)


def test_a_run_that_the_audit_log_cannot_name_is_not_there(
    command: Command, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ClockError("audit.chain: the clock went back", hint="set it right")

    monkeypatch.setattr(launching, "record", refuse)
    code, _, err = command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    assert (code, "the clock went back" in err) == (1, True)
    assert not list((home.directory / "runs").iterdir())


def test_a_run_comes_into_being_with_its_wish_and_its_name_in_the_audit_log(
    command: Command, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real, before = home.directory / "runs" / "tiny", Path.rename, list[tuple[bool, str]]()

    def rename(path: Path, target: Path) -> Path:
        if target == run:
            before.append(((path / "wanted.json").is_file(), chain.read(home.directory / "audit.chain", "audit")[-1].type))
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    assert before == [(True, "launch")]


def test_the_first_player_of_a_run_plays_its_first_epoch(command: Command, home: Home, tmp_path: Path) -> None:
    command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    with Run.open(home.directory / "runs" / "tiny", home.key) as opened:
        assert opened.epoch == 1


def test_where_a_coordinator_runs_nobody_is_told_to_start_one(command: Command, home: Home, tmp_path: Path) -> None:
    with exclusive_lock(home.directory / "lock", what="the coordinator"):
        code, out, err = command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    assert (code, err) == (0, "")
    assert out == f"tiny: is to be played; watch it with: fedrad-coordinator watch {home.directory} tiny\n"


@pytest.mark.parametrize("name", ["../tiny", "a/b", ".hidden", "/tmp/tiny"])
def test_a_run_lies_below_runs_and_nowhere_else(command: Command, home: Home, tmp_path: Path, name: str) -> None:
    code, _, err = command("launch", home.directory, tmp_path / "tiny.toml", "--name", name, "--detach")
    assert code == 2
    assert "is no plain name" in err
    assert not list((home.directory / "runs").iterdir())


def test_a_launch_of_a_name_that_is_taken_changes_nothing(command: Command, home: Home, tmp_path: Path) -> None:
    command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    wanted.write(home.directory / "runs" / "tiny", "stop")
    code, _, err = command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    assert code == 2
    assert "tiny: exists already" in err
    assert wanted.read(home.directory / "runs" / "tiny") == wanted.Wanted(state="stop")


def test_a_model_whose_answers_the_server_would_not_take_is_refused_before_anything_is_made(
    command: Command, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "MOST_PARAMETERS", 39)  # the protocol's has 40
    code, _, err = command("launch", home.directory, tmp_path / "tiny.toml", "--detach")
    assert code == 2
    assert "tiny.toml: model: 40 parameters are more than a site may send to this server (39)" in err
    assert not list((home.directory / "runs").iterdir())

    monkeypatch.setattr(launching, "MOST_PARAMETERS", 40)
    assert command("launch", home.directory, tmp_path / "tiny.toml", "--detach")[0] == 0


def test_the_largest_model_that_is_launched_fits_what_one_site_may_push() -> None:
    from fedrad_common.messages import most_bytes
    from fedrad_server.superlink import bounds

    assert most_bytes(bounds.MOST_PARAMETERS) < bounds.MOST_PER_ANSWER


def test_resume_follows_the_run_to_its_end(command: Command, home: Home) -> None:
    world = World(home.directory / "runs" / "echo", key=home.key)
    world.create(protocol(rounds=2)).close()
    player = played_elsewhere(world, cadiz=silent)
    code, out, err = command("resume", home.directory, "echo")
    player.join()
    assert code == 0
    assert out == f"finished after round 2: {world.directory}\n"
    assert "round 2" in err  # each round, where it was shown in time


def test_a_run_that_pauses_is_a_failure_with_its_reason(command: Command, home: Home) -> None:
    world = World(home.directory / "runs" / "echo", key=home.key)
    world.create(protocol(quorum=3, retries=0)).close()
    wanted.write(world.directory, "run")
    played_elsewhere(world, cadiz=silent).join()
    wanted.write(world.directory, "paused")
    code, _, err = command("resume", home.directory, "nowhere")
    assert (code, "nowhere: is no run" in err) == (2, True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wanted, "write", lambda *arguments: None)  # it pauses again at once
        code, out, err = command("resume", home.directory, "echo", "--json")
    assert code == 1
    assert json.loads(out)["outcome"] == "paused"
    assert "2 of 3 needed updates" in json.loads(out)["reason"]


def test_a_finished_run_is_not_resumed(command: Command, home: Home) -> None:
    World(home.directory / "runs" / "echo", key=home.key).finish(protocol(rounds=1))
    code, _, err = command("resume", home.directory, "echo")
    assert code == 2
    assert "echo: is finished" in err


def test_stop_waits_until_the_player_is_gone_and_may_be_said_twice(command: Command, home: Home) -> None:
    run = home.directory / "runs" / "echo"
    World(run, key=home.key).create(protocol()).close()
    wanted.write(run, "run")
    opened = Run.open(run, home.key)
    gone = threading.Event()

    def supervise() -> None:
        assert following.wait_until(lambda: wanted.read(run) == wanted.Wanted(state="stop"), patience=PATIENCE, interval=0.01)
        gone.set()
        opened.close()

    supervisor = Elsewhere(supervise)
    code, out, _ = command("stop", home.directory, "echo")
    assert gone.is_set()
    supervisor.join()
    assert (code, out) == (0, "echo: stopped after round 0\n")
    assert command("stop", home.directory, "echo", "--json")[0] == 0
    entries = [entry.type for entry in chain.read(home.directory / "audit.chain", "audit")]
    assert entries.count("run-stopped") == 1


def test_a_finished_run_stays_finished_when_it_is_stopped(command: Command, home: Home) -> None:
    World(home.directory / "runs" / "echo", key=home.key).finish(protocol(rounds=1))
    assert command("stop", home.directory, "echo")[:2] == (0, "echo: finished after round 1\n")
    assert wanted.read(home.directory / "runs" / "echo") is None


def test_ctrl_c_only_stops_showing_it(home: Home, tmp_path: Path) -> None:
    # Python answers an interrupt by itself only where its parent did not ignore it, as shells do for what runs in the background.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from fedrad_server.cli import main; main()"
    command = [sys.executable, "-c", program, "launch", home.directory, tmp_path / "tiny.toml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        late = threading.Timer(PATIENCE, process.kill)
        late.daemon = True
        late.start()
        while "waiting" not in (line := process.stderr.readline()):
            assert line, "it ended, or was too late"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        late.cancel()
        assert process.wait(PATIENCE) == 130
    assert f"watch it with: fedrad-coordinator watch {home.directory} tiny" in rest
    assert "Traceback" not in rest
    assert wanted.read(home.directory / "runs" / "tiny") == wanted.Wanted(state="run")


def test_public_weights_are_brought_named_and_launched(command: Command, home: Home, tmp_path: Path) -> None:
    from fedrad_common.models import build
    from fedrad_common.packing import pack
    from fedrad_common.protocol import load_protocol
    from fedrad_common.weights import write_weights

    model = 'model = { name = "resnet", options = { channels = 8, stages = 1 } }'
    text = PROTOCOL.decode().replace('kind = "echo"', 'kind = "classification"')
    text = text.replace("height = 8, width = 8", "height = 28, width = 28").replace(PROTOCOL.decode().splitlines()[5], model)
    (tmp_path / "chest.toml").write_text(text)
    protocol = load_protocol(tmp_path / "chest.toml")
    vector = pack(build(protocol.model.model_copy(update={"seed": 9}), n_outputs=1, height=28, width=28))
    write_weights(protocol, vector, tmp_path / "public.safetensors", lineage={})

    bring = ("weights", home.directory, tmp_path / "chest.toml", tmp_path / "public.safetensors", "--source")
    assert command(*bring, "")[0] == 2
    code, section, _ = command(*bring, "invented here")
    assert code == 0
    initial = ", ".join(section.splitlines()[1:])
    (tmp_path / "started.toml").write_text(text.replace(model, f"{model[:-2]}, initial = {{ {initial} }} }}"))
    assert command("launch", home.directory, tmp_path / "started.toml", "--detach")[0] == 0
    (stored,) = (home.directory / "weights").iterdir()
    assert (read_run(home.directory / "runs" / "tiny").model(0) == vector).all()

    stored.write_bytes(stored.read_bytes()[:-1])
    code, _, err = command("launch", home.directory, tmp_path / "started.toml", "--name", "second", "--detach")
    assert (code, "another file, or a changed one" in err) == (2, True)
    stored.unlink()
    code, _, err = command("launch", home.directory, tmp_path / "started.toml", "--name", "second", "--detach")
    assert (code, "no file of that hash is here" in err) == (2, True)
    assert [run.name for run in (home.directory / "runs").iterdir()] == ["tiny"]


def test_a_runs_model_is_exported_with_its_lineage(command: Command, home: Home, tmp_path: Path) -> None:
    from safetensors import safe_open

    text = PROTOCOL.decode().replace('kind = "echo"', 'kind = "classification"').replace("8, width = 8", "28, width = 28")
    (tmp_path / "chest.toml").write_text(text.replace(text.splitlines()[5], 'model = { name = "resnet" }'))
    command("launch", home.directory, tmp_path / "chest.toml", "--detach")
    run, out = home.directory / "runs" / "tiny", tmp_path / "out.safetensors"

    code, shown, _ = command("export", run, "--out", out, "--json")
    with safe_open(out, framework="numpy") as file:
        assert file.metadata().items() <= json.loads(shown).items()
        assert (file.metadata()["epsilon"], "stem.weight" in file.keys()) == ("2", True)  # noqa: SIM118 - no mapping
        assert (file.metadata()["initial"], file.metadata()["trains"]) == ("random", "all")
    assert code == 0
    assert command("export", run, "--out", out)[0] == 2  # nothing is overwritten
    assert command("export", run, "--out", out, "--force")[0] == 0


def test_a_run_of_which_a_part_learns_starts_and_is_exported_with_what_stays_named(command: Command, home: Home, tmp_path: Path) -> None:
    from safetensors import safe_open

    from fedrad_common.models import build, whole_of
    from fedrad_common.packing import pack
    from fedrad_common.protocol import load_protocol
    from fedrad_common.weights import file_hash, write_weights

    model = 'model = { name = "resnet", trains = "head" }'
    text = PROTOCOL.decode().replace('kind = "echo"', 'kind = "classification"').replace("8, width = 8", "28, width = 28")
    text = text.replace(text.splitlines()[5], model)
    (tmp_path / "chest.toml").write_text(text)
    protocol = load_protocol(tmp_path / "chest.toml")
    whole = protocol.model_copy(update={"model": whole_of(protocol.model)})
    vector = pack(build(whole.model.model_copy(update={"seed": 9}), n_outputs=1, height=28, width=28))
    write_weights(whole, vector, tmp_path / "public.safetensors", lineage={})

    bring = ("weights", home.directory, tmp_path / "chest.toml", tmp_path / "public.safetensors", "--source", "invented here")
    code, _, err = command("launch", home.directory, tmp_path / "chest.toml", "--detach")
    assert (code, "what stays would be as each machine draws it" in err) == (2, True)
    code, _, err = command(*bring, "--fresh", "stem")
    assert (code, "initial.fresh is 'head' or of it" in err) == (2, True)
    assert not (home.directory / "weights").exists()
    code, section, _ = command(*bring, "--fresh", "head")
    assert code == 0
    started = text.replace(model, f"{model[:-2]}, initial = {{ {', '.join(section.splitlines()[1:])} }} }}")
    (tmp_path / "started.toml").write_text(started)
    assert command("launch", home.directory, tmp_path / "started.toml", "--detach")[0] == 0
    run = home.directory / "runs" / "tiny"
    assert read_run(run).model(0).size == 2 * 64 + 1 < vector.size / 100

    assert command("export", run, "--out", tmp_path / "out.safetensors")[0] == 0
    with safe_open(tmp_path / "out.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {"head.weight", "head.bias"}
        assert (file.metadata()["trains"], file.metadata()["source"]) == ("head", "invented here")
        assert file.metadata()["weights"] == file_hash(tmp_path / "public.safetensors")
