"""Everything with real processes on loopback over TLS: three hospitals enrol, train and die; the coordinator is killed and goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrad_common import chain
from fedrad_common.chain import Entry
from fedrad_common.tasks.echo import update
from fedrad_server.contacts import ages
from fedrad_server.history import read_run
from fedrad_server.replay import replay

PROTOCOL = """
format = "fedrad-protocol-1"
name = "{name}"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = 40 }} }}
privacy = {{ unit = "patient", epsilon = 2.0, expected_batch = 5.0, steps_per_round = 2, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {quorum}, deadline_seconds = 120.0, retries = 0 }}
"""
SITES = ("north", "south", "west")
_LONG = 120.0  # seconds after which something hangs, also on a machine that others keep busy
NOTICED = 60.0  # seconds in which a killed site is noticed however busy the machine; benchmarks/federation/kills.py measures the bar of 15


@dataclass
class Stage:
    """A coordinator and three sites in one folder. Starts programs, each in its own session, so that what is left of them can be found."""

    folder: Path
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    @property
    def environment(self) -> dict[str, str]:
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        return {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "LANG": "C.UTF-8"}

    def start(self, program: str, *arguments: object, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("wb") as stream, (self.folder / f"{log}.out").open("wb") as out:
            process = subprocess.Popen(
                command(program, *arguments), env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=out, stderr=stream, start_new_session=True,
            )  # fmt: skip
        self.started[log] = process
        return process

    def run(self, program: str, *arguments: object) -> str:
        ended = subprocess.run(
            command(program, *arguments), env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=_LONG
        )
        assert ended.returncode == 0, ended.stderr + "".join(map(self.log, self.started))
        return ended.stdout

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def approve(self, name: str, *, quorum: int, rounds: int) -> None:
        """All sites at the same time: each is a program that loads for a while."""
        (self.folder / f"{name}.toml").write_text(PROTOCOL.format(name=name, quorum=quorum, rounds=rounds))
        asked = [
            self.start("fedrad-site", "approve", f"{name}.toml", "-n", 60, "--home", site, log=f"approve-{name}-{site}") for site in SITES
        ]
        assert [process.wait(_LONG) for process in asked] == [0, 0, 0], "".join(map(self.log, self.started))

    def node(self, name: str) -> subprocess.Popen[bytes]:
        return self.start("fedrad-site", "start", "--home", name, log=name)

    def hold_back(self, node: "subprocess.Popen[bytes]") -> None:
        """Its work stands still until the node's end, with which it ends: what it is asked stays unanswered."""
        work = [process for process in self.left(node) if b"fedrad_client.work" in commandline(process)]
        assert work, "its work was not started"
        for process in work:
            os.kill(process, signal.SIGSTOP)

    def heard(self, *names: str) -> bool:
        """Since a moment ago: their nodes speak to the coordinator's server."""
        return all(ages(self.home / "superlink", time.time()).get(name, 99.0) < 5 for name in names)

    def players(self) -> list[int]:
        return [process for process in self.left() if b"fedrad_server.player" in commandline(process)]

    def left(self, *leaders: "subprocess.Popen[bytes]") -> list[int]:
        """Processes whose session one of ours led, or one of these, and that still live."""
        sessions = {process.pid for process in leaders or self.started.values()}
        found = []
        for entry in Path("/proc").iterdir():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            if int(session) in sessions and state != "Z":
                found.append(int(entry.name))
        return found

    def kill(self) -> None:
        for number in self.left():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self.started.values():
            process.wait()


def command(program: str, *arguments: object) -> list[str]:
    module = {"fedrad-site": "fedrad_client.cli", "fedrad-coordinator": "fedrad_server.cli"}[program]
    return [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]


def commandline(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def eventually(condition: Callable[[], object], *, seconds: float = _LONG, what: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time\n{what()}"
        time.sleep(0.02)


@contextmanager
def coordinating(stage: Stage, *, log: str = "coordinator") -> Iterator[dict[str, object]]:
    """`fedrad-coordinator start`, until SIGTERM; yields its ready line."""
    process = stage.start("fedrad-coordinator", "start", "coordinator", "--json", log=log)
    ready = stage.folder / f"{log}.out"
    eventually(lambda: ready.read_bytes().endswith(b"\n") or process.poll() is not None)
    assert process.poll() is None, stage.log(log)
    yield json.loads(ready.read_text())
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(_LONG) == 0, stage.log(log)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, write_cohort) -> Path:
    """What two people do by hand, through their own commands: invite, request, compare six words, admit, approve."""
    stage = Stage(tmp_path_factory.mktemp("enrolled"))
    try:
        stage.run("fedrad-coordinator", "init", "coordinator")
        with coordinating(stage):
            stage.run("fedrad-coordinator", "invite", "coordinator", "--out", "invitation.json")
            made = [
                stage.start("fedrad-site", "init", "--invitation", "invitation.json", "--name", name, "-n", 60, "--epsilon", 8,
                            "--home", name, "--json", log=f"init-{name}")
                for name in SITES
            ]  # fmt: skip
            assert [process.wait(_LONG) for process in made] == [0, 0, 0], stage.log("init-north")
            for name in SITES:
                words = json.loads((stage.folder / f"init-{name}.out").read_text())["words"]
                words = words if isinstance(words, str) else " ".join(words)
                stage.run("fedrad-coordinator", "admit", "coordinator", f"{name}/enrolment/request.json", "--words", words)
                settings = stage.folder / name / "site.toml"
                settings.write_text(settings.read_text().replace('tasks = ["classification"]', 'tasks = ["classification", "echo"]'))
                write_cohort(stage.folder / name / "cohort")
        stage.approve("trio", quorum=3, rounds=1)
        stage.approve("pair", quorum=2, rounds=2)
    finally:
        stage.kill()
    return stage.folder


@pytest.fixture
def stage(enrolled: Path, tmp_path: Path) -> Iterator[Stage]:
    """As they were when they had enrolled; each test is another future of theirs."""
    shutil.copytree(enrolled, tmp_path / "stage")
    made = Stage(tmp_path / "stage")
    yield made
    made.kill()


def end(stage: Stage, *nodes: subprocess.Popen[bytes]) -> None:
    """Ask the nodes to end; nothing of anybody may be left, and nothing may lie where it should not."""
    for process in nodes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(_LONG) for process in nodes] == [0] * len(nodes)


def assert_clean(stage: Stage) -> None:
    eventually(lambda: not stage.left(), seconds=30)
    assert not list((stage.folder / "user").rglob("*")), "something was written into the user's home"
    assert not list(stage.folder.rglob("*.fab")), "a bundle was unpacked or stored"
    assert "Traceback" not in "".join(map(stage.log, stage.started))


def released(home: Path) -> list[Entry]:
    return [entry for entry in chain.read(home / "audit.chain", "audit") if entry.type in ("release", "resend")]


def test_three_hospitals_train_though_the_whole_coordinator_is_killed_in_the_middle(stage: Stage) -> None:
    run = stage.home / "runs" / "trio"
    with coordinating(stage) as ready:
        nodes = [stage.node("north"), stage.node("south")]
        eventually(lambda: stage.heard("north", "south"), what=lambda: stage.log("north") + stage.log("coordinator"))
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "trio.toml", "--json", log="launch")
        answers = run / "rounds" / "0001" / "updates"
        eventually(lambda: (answers / "north.json").exists() and (answers / "south.json").exists(), what=lambda: stage.log("coordinator"))
        own = [process for process in stage.left() if b"fedrad_server" in commandline(process) and process != launched.pid]
        assert len(own) >= 3, "supervisor, server and player"
        stage.started["coordinator"].kill()
        stage.started["coordinator"].wait()
        eventually(lambda: not set(own) & set(stage.left()), seconds=30)

    with coordinating(stage, log="again") as again:
        assert again["address"] == ready["address"], "sites would look for it in vain"
        nodes.append(stage.node("west"))
        assert launched.wait(_LONG) == 0, stage.log("again") + stage.log("launch") + stage.log("west")
        assert json.loads(stage.run("fedrad-coordinator", "status", "coordinator", "--json"))["health"] == "serving"
        end(stage, *nodes)

    records = read_run(run)
    assert records.finished
    assert sorted(records.manifests[-1].updates) == list(SITES)
    assert np.array_equal(np.fromfile(run / "result" / "model.f32", "<f4"), update(np.zeros(40, np.float32), 1))
    assert sorted(receipt.site for receipt in records.receipts(1)) == list(SITES)
    assert [len(released(stage.folder / name)) for name in SITES] == [1, 1, 1], "a site was asked again for what was stored"
    assert replay(run).equal
    assert_clean(stage)


def test_a_site_that_is_killed_is_noticed_and_the_run_goes_on_at_quorum(stage: Stage) -> None:
    with coordinating(stage):
        nodes = [stage.node(name) for name in SITES]
        eventually(lambda: stage.heard(*SITES), what=lambda: stage.log("west"))
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "pair.toml", log="launch")
        ledger = stage.folder / "west" / "ledger.chain"
        eventually(lambda: b'"type":"answer"' in ledger.read_bytes(), what=lambda: stage.log("coordinator"))
        nodes[2].kill()
        killed = time.monotonic()
        eventually(lambda: "west: gone: silent for " in stage.log("launch") or launched.poll() is not None, seconds=NOTICED)
        noticed = time.monotonic() - killed
        assert launched.wait(_LONG) == 0, stage.log("launch") + stage.log("coordinator")
        end(stage, *nodes[:2])
    assert "west: gone: silent for " in stage.log("launch"), stage.log("launch")
    assert noticed <= NOTICED
    records = read_run(stage.home / "runs" / "pair")
    assert records.finished
    assert records.manifests[-1].missing == {"west": "gone"}
    assert_clean(stage)


def test_a_site_that_is_killed_while_it_answers_is_asked_again_as_soon_as_it_is_back(stage: Stage) -> None:
    home = stage.folder / "west"
    with coordinating(stage):
        nodes = [stage.node("north"), stage.node("south")]
        first = stage.node("west")
        eventually(lambda: stage.heard("west"), what=lambda: stage.log("west"))
        stage.hold_back(first)
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "trio.toml", log="launch")
        eventually(lambda: b'"type":"answer"' in (home / "ledger.chain").read_bytes(), what=lambda: stage.log("coordinator"))
        first.kill()  # its work is still going on
        first.wait()
        assert not released(home)
        nodes.append(stage.node("west"))
        assert launched.wait(_LONG) == 0, stage.log("launch") + stage.log("coordinator") + stage.log("west")
        end(stage, *nodes)
    assert len(released(home)) == 1
    reserved = [entry.body for entry in chain.read(home / "ledger.chain", "ledger") if entry.type == "answer"]
    assert [answer["cost"] > 0 for answer in reserved] == [False, True], "the lost answer must stay charged, and the new one be paid anew"
    assert_clean(stage)


def test_a_run_goes_on_after_its_server_and_its_player_were_killed_and_after_it_was_stopped(stage: Stage) -> None:
    with coordinating(stage) as ready:
        nodes = [stage.node("north"), stage.node("south")]
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "trio.toml", log="launch")
        answers = stage.home / "runs" / "trio" / "rounds" / "0001" / "updates"
        eventually((answers / "north.json").exists, what=lambda: stage.log("coordinator"))
        os.kill(int(str(ready["server_pid"])), signal.SIGKILL)
        os.kill(stage.players()[0], signal.SIGKILL)
        eventually((answers / "south.json").exists, what=lambda: stage.log("coordinator"))

        eventually(stage.players)
        assert json.loads(stage.run("fedrad-coordinator", "stop", "coordinator", "trio", "--json"))["state"] == "stopped"
        eventually(lambda: not stage.players(), seconds=30)
        assert launched.wait(_LONG) == 1, "whoever follows it is told"

        nodes.append(stage.node("west"))
        assert json.loads(stage.run("fedrad-coordinator", "resume", "coordinator", "trio", "--json"))["outcome"] == "finished"
        end(stage, *nodes)
    assert sorted(read_run(stage.home / "runs" / "trio").manifests[-1].updates) == list(SITES)
    assert_clean(stage)
