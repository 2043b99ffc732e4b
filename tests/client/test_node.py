"""What a node refuses before it connects to anything, and what it shows to be admitted."""

import json
import signal
import threading

import pytest
from typer.testing import CliRunner

from fedrad_client.cli import app
from fedrad_client.node.service import _stop_on_signals, run_node
from fedrad_client.site import Home
from fedrad_client.work import run_child
from fedrad_common.errors import BusyError, MisuseError
from fedrad_common.files import exclusive_lock


@pytest.mark.parametrize("server", ["10.0.0.1:9092", "coordinator.example:9092", "127.0.0.1"])
def test_a_coordinator_beyond_this_machine_is_refused_until_there_is_encryption(site_home, server):
    with pytest.raises(MisuseError) as refused:
        run_node(site_home, server)

    assert "127.0.0.1:PORT" in refused.value.hint
    assert not (site_home / "node").exists()


def test_a_folder_without_a_site_stays_as_it_was(tmp_path):
    with pytest.raises(MisuseError, match="no site here"):
        run_node(tmp_path, "127.0.0.1:1")

    assert not list(tmp_path.iterdir())


def test_two_nodes_never_serve_one_site(site_home, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda number, action: None)
    (site_home / "node").mkdir()
    with exclusive_lock(site_home / "node" / "lock", what="node"), pytest.raises(BusyError):
        run_node(site_home, "127.0.0.1:1")


def test_show_keys_prints_public_halves_only(site_home):
    shown = CliRunner().invoke(app, ["start", "--show-keys", "--json", "--home", str(site_home)])

    keys = json.loads(shown.stdout)
    assert keys["envelope_key"] == Home(site_home).envelope_key.public.hex
    assert keys["node_key"].endswith("keys/node.pub")
    assert "PRIVATE" not in shown.output


def test_a_node_answers_in_time_slots_and_works_in_a_child(site_home, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda number, action: None)
    asked = []
    monkeypatch.setattr("fedrad_client.node.service.answer_in_slot", lambda message, home, *, work: asked.append((message, home, work)))
    monkeypatch.setattr("fedrad_client.node.service.Executor.run", lambda self: self.answer("order") or "stopped")
    run_node(site_home, "127.0.0.1:1")

    assert asked == [("order", site_home, run_child)]


def test_the_first_signal_lets_an_answer_wait_for_its_slot_and_the_second_ends_it(monkeypatch):
    acts = {}
    monkeypatch.setattr("signal.signal", lambda number, action: acts.update({number: action}))
    stop = threading.Event()
    _stop_on_signals(stop)

    acts[signal.SIGTERM](signal.SIGTERM, None)  # returns: Python goes on with the wait
    assert stop.is_set()
    with pytest.raises(SystemExit) as ended:
        acts[signal.SIGINT](signal.SIGINT, None)
    assert ended.value.code == 128 + signal.SIGINT
