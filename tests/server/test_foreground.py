"""The coordinator in the foreground, with its real server: what the supervisor's promises look like with processes of flesh and blood."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.coordinator import unsynced
from fakes.patience import PATIENCE

from fedrad_common import chain
from fedrad_common.errors import DiskError
from fedrad_server import foreground
from fedrad_server.following import wait_until
from fedrad_server.foreground import is_serving
from fedrad_server.home import Home
from fedrad_server.superlink.health import serve_health

__all__ = ["unsynced"]  # a fixture that every test here uses

HASTY = """
from fedrad_server import supervisor
supervisor.UNWELL, supervisor._ASK = 5.0, 0.5
from fedrad_server.cli import main
main()
"""
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


@pytest.fixture
def start(home: Home, tmp_path: Path) -> Iterator[Start]:
    """`fedrad-coordinator start`, which loses patience with its server after five seconds; its log is beside the home."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> "subprocess.Popen[bytes]":
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, "-c", HASTY, "start", home.directory, "--json"]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_a_server_that_hangs_is_replaced_by_one_that_serves(home: Home, start: Start, tmp_path: Path) -> None:
    coordinator, log = start(), tmp_path / "log"
    assert wait_until(lambda: is_serving(home.superlink) or coordinator.poll() is not None, patience=PATIENCE), log.read_text()
    hanging = home.superlink.serving.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    replaced = wait_until(lambda: log.read_text().count("server: listens") >= 2, patience=PATIENCE)
    assert replaced, log.read_text()
    assert "server: does not serve for 5 s, though it lives" in log.read_text()
    assert home.superlink.serving.pid != hanging
    assert is_serving(home.superlink)
    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(PATIENCE) == 0, log.read_text()
    assert [entry.type for entry in chain.read(home.directory / "audit.chain", "audit")] == ["open", "init", "start", "stop"]


def test_only_a_server_that_says_so_serves(home: Home) -> None:
    well = [True]
    assert not is_serving(home.superlink)
    service, port = serve_health(lambda: well[0])
    ready = {"format": "fedrad-superlink-1", "public": 9, "private": 10, "health": port, "host": "127.0.0.1", "pid": 7}
    home.superlink.ready_file.write_text(json.dumps(ready))
    assert is_serving(home.superlink)
    well[0] = False
    assert not is_serving(home.superlink)
    service.stop(None).wait()
    assert not is_serving(home.superlink)


def test_a_full_disk_at_the_end_hides_nothing_else(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise DiskError("audit.chain: no space left on the disk")

    monkeypatch.setattr(foreground, "record", refuse)
    foreground._note_end(home.directory, "signal")
    assert "the end is not in the audit log: audit.chain: no space left on the disk" in capsys.readouterr().err
