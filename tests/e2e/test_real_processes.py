"""The whole thing with real processes on loopback: the coordinator's guarded server, its launch, two hospitals' nodes, one round."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrad_common import chain
from fedrad_common.chain import Entry
from fedrad_common.identity import SigningKey
from fedrad_common.tasks.echo import update
from fedrad_server.history import read_run
from fedrad_server.replay import replay

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


@dataclass
class Stage:
    """Starts programs, each in its own session, so that what is left of them can be found."""

    folder: Path
    started: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        return {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "LANG": "C.UTF-8"}

    def start(self, program: str, *arguments: object, log: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("wb") as stream:
            process = subprocess.Popen(
                command(program, *arguments), env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started.append((log, process))
        return process

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(program, *arguments), env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=50
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    @property
    def orphans(self) -> list[int]:
        """Processes whose session one of ours led, and that still live."""
        sessions = {process.pid for _, process in self.started}
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
        for _, process in self.started:
            if process.poll() is None or self.orphans:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def command(program: str, *arguments: object) -> list[str]:
    module = {"fedrad-site": "fedrad_client.cli", "fedrad-coordinator": "fedrad_server.cli"}[program]
    return [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]


def eventually(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def status(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=b"", headers={"content-type": "application/protobuf", **headers}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def coordinator(stage: Stage) -> SigningKey:
    """The sites of this test trust the coordinator that the command line makes."""
    made = stage.run("fedrad-coordinator", "init", "coordinator")
    assert made.returncode == 0, made.stderr
    return SigningKey.load(stage.folder / "coordinator" / "keys" / "coordinator.key")


@contextmanager
def serving(stage: Stage) -> Iterator[dict[str, int]]:
    ready = stage.folder / "coordinator" / "superlink" / "ready.json"
    server = stage.start("fedrad-coordinator", "start", "coordinator", log="superlink")
    eventually(lambda: ready.exists() or server.poll() is not None)
    assert ready.exists(), stage.log("superlink")
    yield json.loads(ready.read_text())
    server.send_signal(signal.SIGTERM)
    server.wait(15)


def enrol(stage: Stage, home: Path) -> None:
    """What two people do by hand: hand over the keys, admit."""
    keys = json.loads(stage.run("fedrad-site", "start", "--show-keys", "--json", "--home", home).stdout)
    admitted = stage.run(
        "fedrad-coordinator", "admit", "coordinator", home.name, "--node-key", keys["node_key"], "--envelope-key", keys["envelope_key"]
    )
    assert admitted.returncode == 0, admitted.stderr


def test_two_hospitals_train_one_round_though_the_coordinator_is_killed_in_its_middle(stage: Stage, make_site) -> None:
    (stage.folder / "tiny.toml").write_bytes(PROTOCOL)
    homes = {name: make_site(name).path for name in ("north", "south")}
    approvals = [
        stage.start("fedrad-site", "approve", "tiny.toml", "--declared-size", 60, "--home", home, log=f"approve-{name}")
        for name, home in homes.items()
    ]
    run = stage.folder / "coordinator" / "runs" / "tiny"
    with serving(stage) as ports:
        # The guard: from outside only Fleet, which knows no stranger; Control with the token only.
        token = (stage.folder / "coordinator" / "superlink" / "token").read_text().strip()
        assert status(ports["public"], "/v1/control/list-runs") == 404
        assert status(ports["public"], "/v1/control/list-runs", Authorization=f"Bearer {token}") == 404
        assert status(ports["public"], "/v1/runtime/acquire-task") == 404
        assert status(ports["private"], "/v1/control/list-runs") == 401
        assert status(ports["private"], "/v1/control/list-runs", Authorization="Bearer wrong") == 401
        assert status(ports["private"], "/v1/control/list-runs", Authorization=f"Bearer {token}") == 200
        assert status(ports["public"], "/v1/fleet/pull-messages") == 401

        assert [approval.wait(30) for approval in approvals] == [0, 0], stage.log("approve-north")
        for home in homes.values():
            enrol(stage, home)

        def node(name: str) -> subprocess.Popen[bytes]:
            return stage.start("fedrad-site", "start", "--server", f"127.0.0.1:{ports['public']}", "--home", homes[name], log=name)

        nodes = [node("north")]
        killed = stage.start("fedrad-coordinator", "launch", "coordinator", "tiny.toml", log="launch")
        eventually(lambda: (run / "rounds/0001/updates/north.json").exists() or killed.poll() is not None)
        killed.kill()
        killed.wait()
        nodes.append(node("south"))
        resumed = stage.run("fedrad-coordinator", "launch", "coordinator", "--resume", "--name", "tiny", "--json")
        logs = "".join(stage.log(name) for name, _ in stage.started)
        assert resumed.returncode == 0, resumed.stderr + logs
        for process in nodes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(15) for process in nodes] == [0, 0]

    records = read_run(run)
    assert records.finished
    assert sorted(records.manifests[-1].updates) == ["north", "south"]
    assert np.array_equal(np.fromfile(run / "result" / "model.f32", "<f4"), update(np.zeros(40, np.float32), 1))
    assert sorted(receipt.site for receipt in records.receipts(1)) == ["north", "south"]
    assert [len(released(home)) for home in homes.values()] == [1, 1], "a site was asked again for what was stored"
    assert replay(run).equal
    assert not stage.orphans
    assert not list((stage.folder / "user").rglob("*")), "something was written into the user's home"
    assert not list(stage.folder.rglob("*.fab")), "a bundle was unpacked or stored"
    assert "Traceback" not in logs


def released(home: Path) -> list[Entry]:
    return [entry for entry in chain.read(home / "audit.chain", "audit") if entry.type in ("release", "resend")]


def test_a_site_that_is_killed_while_it_answers_is_asked_again_as_soon_as_it_is_back(stage: Stage, make_site) -> None:
    (stage.folder / "tiny.toml").write_bytes(
        PROTOCOL.replace(b"quorum = 2, deadline_seconds = 40.0", b"quorum = 1, deadline_seconds = 300.0")
    )
    home = make_site("north").path
    approval = stage.start("fedrad-site", "approve", "tiny.toml", "--declared-size", 60, "--home", home, log="approve")
    run = stage.folder / "coordinator" / "runs" / "tiny"
    with serving(stage) as ports:
        assert approval.wait(30) == 0, stage.log("approve")
        enrol(stage, home)
        arguments = ("start", "--server", f"127.0.0.1:{ports['public']}", "--home", home)
        first = stage.start("fedrad-site", *arguments, log="first")
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "tiny.toml", log="launch")
        eventually(lambda: b'"type":"answer"' in (home / "ledger.chain").read_bytes() or launched.poll() is not None)
        first.kill()  # its work, a child that has to start first, is still going on
        first.wait()
        assert not released(home), "it had answered already: this test came too late"
        second = stage.start("fedrad-site", *arguments, log="second")

        assert launched.wait(40) == 0, stage.log("launch") + stage.log("second")
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0
    assert read_run(run).finished
    assert len(released(home)) == 1
    reserved = [entry.body for entry in chain.read(home / "ledger.chain", "ledger") if entry.type == "answer"]
    assert [answer["cost"] > 0 for answer in reserved] == [False, True], "the lost answer must stay charged, and the new one be paid anew"
    eventually(lambda: not stage.orphans)


def test_a_run_goes_on_after_its_server_was_killed_and_started_again(stage: Stage, make_site) -> None:
    (stage.folder / "tiny.toml").write_bytes(PROTOCOL)
    homes = {name: make_site(name).path for name in ("north", "south")}
    approvals = [
        stage.start("fedrad-site", "approve", "tiny.toml", "--declared-size", 60, "--home", home, log=f"approve-{name}")
        for name, home in homes.items()
    ]
    run = stage.folder / "coordinator" / "runs" / "tiny"
    with serving(stage) as ports:
        assert [approval.wait(30) for approval in approvals] == [0, 0], stage.log("approve-north")
        for home in homes.values():
            enrol(stage, home)
        arguments = ("start", "--server", f"127.0.0.1:{ports['public']}", "--home")
        nodes = [stage.start("fedrad-site", *arguments, homes["north"], log="north")]
        launched = stage.start("fedrad-coordinator", "launch", "coordinator", "tiny.toml", log="launch")
        eventually(lambda: (run / "rounds/0001/updates/north.json").exists() or launched.poll() is not None)
        os.kill(ports["pid"], signal.SIGKILL)
        dict(stage.started)["superlink"].wait()
        (stage.folder / "coordinator" / "superlink" / "ready.json").unlink()
        with serving(stage) as again:
            assert again["public"] == ports["public"], "sites would look for it in vain"
            nodes.append(stage.start("fedrad-site", *arguments, homes["south"], log="south"))

            assert launched.wait(40) == 0, stage.log("launch") + stage.log("north") + stage.log("south")
            for node in nodes:
                node.send_signal(signal.SIGTERM)
            assert [node.wait(15) for node in nodes] == [0, 0]
    assert sorted(read_run(run).manifests[-1].updates) == ["north", "south"]
