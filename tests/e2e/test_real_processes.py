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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrad_common.bundle import HASH
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
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
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
    """What the two sides do by hand: approve, hand over the keys, admit."""
    name = home.name
    approved = stage.run("fedrad-site", "approve", "tiny.toml", "--declared-size", 60, "--home", home)
    assert approved.returncode == 0, approved.stderr
    keys = json.loads(stage.run("fedrad-site", "start", "--show-keys", "--json", "--home", home).stdout)
    admitted = stage.run(
        "fedrad-coordinator", "admit", "coordinator", name, "--node-key", keys["node_key"], "--envelope-key", keys["envelope_key"]
    )
    assert admitted.returncode == 0, admitted.stderr


def test_two_hospitals_and_a_coordinator_train_one_round(stage: Stage, make_site) -> None:
    (stage.folder / "tiny.toml").write_bytes(PROTOCOL)
    homes = [make_site(name).path for name in ("north", "south")]
    with serving(stage) as ports:
        # The guard: from outside only Fleet, which knows no stranger; Control with the token only.
        assert status(ports["public"], "/v1/control/list-runs") == 404
        assert status(ports["public"], "/v1/runtime/acquire-task") == 404
        assert status(ports["private"], "/v1/control/list-runs") == 401
        assert status(ports["private"], "/v1/control/list-runs", Authorization="Bearer wrong") == 401
        token = (stage.folder / "coordinator" / "superlink" / "token").read_text().strip()
        assert status(ports["private"], "/v1/control/list-runs", Authorization=f"Bearer {token}") == 200
        assert status(ports["public"], "/v1/fleet/pull-messages") == 401

        for home in homes:
            enrol(stage, home)
        nodes = [
            stage.start("fedrad-site", "start", "--server", f"127.0.0.1:{ports['public']}", "--home", home, log=home.name) for home in homes
        ]
        launched = stage.run("fedrad-coordinator", "launch", "coordinator", "tiny.toml", "--json")
        logs = "".join(stage.log(name) for name, _ in stage.started)
        assert launched.returncode == 0, launched.stderr + logs
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        assert [node.wait(15) for node in nodes] == [0, 0]

    run = stage.folder / "coordinator" / "runs" / "tiny"
    records = read_run(run)
    assert records.finished
    assert sorted(records.manifests[-1].updates) == ["north", "south"]
    assert np.array_equal(np.fromfile(run / "result" / "model.f32", "<f4"), update(np.zeros(40, np.float32), 1))
    assert sorted(receipt.site for receipt in records.receipts(1)) == ["north", "south"]
    assert replay(run).equal
    assert not stage.orphans
    assert not list((stage.folder / "user").rglob("*")), "something was written into the user's home"
    assert not list(stage.folder.rglob("*.fab")), "a bundle was unpacked or stored"
    assert HASH not in logs
