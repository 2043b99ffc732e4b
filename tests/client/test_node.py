"""What a node refuses before it connects to anything, what it shows to be admitted, and how it starts and ends."""

import json
import logging
import os
import signal
import socket
import threading
from contextlib import nullcontext

import pytest
from fakes.certificates import Authority
from typer.testing import CliRunner

from fedrad_client import audit
from fedrad_client.cli import app
from fedrad_client.node import service
from fedrad_client.node.executor import Executor
from fedrad_client.node.logs import logging_codes
from fedrad_client.node.service import _stop_on_signals, run_node
from fedrad_client.node.systemd import notify
from fedrad_client.site import AUDIT, Home
from fedrad_client.work import Worker
from fedrad_common.chain import read
from fedrad_common.errors import BusyError, ConfigError, DiskError, MisuseError
from fedrad_common.files import exclusive_lock


@pytest.fixture
def home(site_home, monkeypatch):
    """A site that was given its coordinator's authority; no signal of a test changes the test's own process."""
    monkeypatch.setattr("signal.signal", lambda number, action: None)
    monkeypatch.setattr("fedrad_common.processes.hide", lambda: None)  # nor hides it
    (site_home / "keys" / "authority.pem").write_bytes(Authority.make().pem)
    return site_home


@pytest.fixture
def served(monkeypatch):
    """Nothing is connected to and no child is started: what a node would have served with."""
    made = []

    def run(self):
        made.append(self)

    monkeypatch.setitem(run_node.__kwdefaults__, "working", nullcontext)
    monkeypatch.setattr(Executor, "run", run)
    return made


@pytest.mark.parametrize("server", ["https://coordinator.example", "coordinator.example", "127.0.0.1", "coordinator.example:0"])
def test_an_address_that_is_none_is_refused_before_anything_is_written(home, server):
    with pytest.raises(MisuseError) as refused:
        run_node(home, server)

    assert "HOST" in f"{refused.value}" or "fl.example.org:9092" in refused.value.hint
    assert not (home / "node").exists()


def test_a_site_that_names_no_coordinator_is_told_where_to_write_it(home):
    with pytest.raises(MisuseError, match=r"coordinator\.server: is empty") as refused:
        run_node(home)

    assert "HOST:PORT" in refused.value.hint


def test_no_connection_is_made_without_an_authority_to_believe(home):
    (home / "keys" / "authority.pem").unlink()
    with pytest.raises(ConfigError, match=r"authority\.pem"):
        run_node(home, "127.0.0.1:1")


def test_the_coordinator_of_the_settings_is_served(home, served):
    settings = home / "site.toml"
    settings.write_text(settings.read_text().replace('server = ""', 'server = "fl.example.org:9092"'))
    run_node(home)

    with served[0].connect() as fleet:
        assert fleet._base_url == "https://fl.example.org:9092"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epsilon = 8.0 ", "epsilon = 9.0 ", r"privacy\.epsilon: 9, this site's ledger was opened with 8"),
        ("delta = 0.001", "# delta", r"privacy\.delta: 1e-06 \(the line is missing\), this site's ledger was opened with 0\.001"),
    ],
)
def test_a_node_does_not_start_with_settings_under_which_it_could_answer_nothing(home, served, old, new, said):
    settings = home / "site.toml"
    settings.write_text(settings.read_text().replace(old, new))

    with pytest.raises(ConfigError, match=said) as refused:
        run_node(home, "127.0.0.1:1")
    assert (refused.value.exit_code, bool(refused.value.hint)) == (2, True)
    assert (served, (home / "node").exists()) == ([], False)


def test_a_node_of_an_enrolled_site_makes_no_key_that_nobody_knows(home, served):
    (home / "enrolment").mkdir()
    (home / "enrolment" / "request.json").touch()
    with pytest.raises(MisuseError, match=r"^keys/node\.key: is missing$") as refused:
        run_node(home, "127.0.0.1:1")

    assert "fedrad-site renew" in refused.value.hint
    assert (served, (home / "keys" / "node.key").exists()) == ([], False)


def test_a_node_hides_before_it_holds_a_key(home, served, monkeypatch):
    did, real = [], service.connecting_key
    monkeypatch.setattr("fedrad_common.processes.hide", lambda: did.append("hides"))
    monkeypatch.setattr(service, "connecting_key", lambda home: did.append("reads a key") or real(home))
    run_node(home, "127.0.0.1:1")

    assert did == ["hides", "reads a key"]


def test_a_lowered_ceiling_keeps_no_node_from_starting(home, served):
    settings = home / "site.toml"
    settings.write_text(settings.read_text().replace("epsilon = 8.0 ", "epsilon = 2.0 "))
    run_node(home, "127.0.0.1:1")

    assert len(served) == 1


def test_a_folder_without_a_site_stays_as_it_was(tmp_path):
    with pytest.raises(MisuseError, match="no site here"):
        run_node(tmp_path, "127.0.0.1:1")

    assert not list(tmp_path.iterdir())


def test_two_nodes_never_serve_one_site(home):
    (home / "node").mkdir()
    with exclusive_lock(home / "node" / "lock", what="node"), pytest.raises(BusyError):
        run_node(home, "127.0.0.1:1")


def test_a_look_at_the_lock_does_not_keep_a_node_from_starting(home, served, monkeypatch):
    real, tries = service.lock_file, []

    def lock_file(path, *, what):
        tries.append(path)
        if len(tries) == 1:  # `fedrad-site status` holds it for a moment
            raise BusyError("")
        return real(path, what=what)

    monkeypatch.setattr(service, "lock_file", lock_file)
    run_node(home, "127.0.0.1:1")

    assert len(served) == 1


def test_show_keys_prints_public_halves_only(site_home):
    shown = CliRunner().invoke(app, ["start", "--show-keys", "--json", "--home", str(site_home)])

    keys = json.loads(shown.stdout)
    assert keys["envelope_key"] == Home(site_home).envelope_key.public.hex
    assert keys["node_key"].endswith("keys/node.pub")
    assert "PRIVATE" not in shown.output


def test_a_node_answers_in_time_slots_and_works_in_one_place_for_its_whole_life(home, served, monkeypatch):
    asked, places, site = [], [], home
    monkeypatch.setattr(service, "answer_in_slot", lambda message, home, *, work: asked.append((message, home, work)))

    class Place:
        def __init__(self, home):
            assert home.path == site

        def __enter__(self):
            places.append("begun")
            return "work"

        def __exit__(self, *_):
            places.append("ended")

    monkeypatch.setattr(Executor, "run", lambda self: [self.answer("first"), self.answer("second")])
    run_node(home, "127.0.0.1:1", working=Place)

    assert asked == [("first", home, "work"), ("second", home, "work")]
    assert places == ["begun", "ended"]


def test_the_work_is_done_in_a_warm_child_unless_a_test_says_otherwise():
    assert run_node.__kwdefaults__ == {"working": Worker}


def test_start_and_end_are_in_the_audit_log(home, served, monkeypatch):
    monkeypatch.setattr(Executor, "run", lambda self: [self.note("online", ""), self.note("refused-by-coordinator", "clock")])
    run_node(home, "127.0.0.1:1")

    entries = read(home / AUDIT, audit.KIND)[-4:]
    assert [(entry.type, entry.body.get("code")) for entry in entries] == [
        ("start", None), ("online", None), ("refused-by-coordinator", "clock"), ("stop", None),
    ]  # fmt: skip


def test_a_full_disk_does_not_keep_a_node_from_its_connection(home, served, monkeypatch, caplog):
    monkeypatch.setattr(audit, "note", lambda *_, **__: (_ for _ in ()).throw(DiskError("no space left on the disk")))
    run_node(home, "127.0.0.1:1")

    assert len(served) == 1
    assert "the audit log could not be written: DiskError" in caplog.text


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


def test_the_log_is_on_stderr_and_in_a_file_that_others_cannot_read_and_that_does_not_grow_for_ever(home, served, capfd, monkeypatch):
    def run(self):
        for _ in range(100):
            logging.getLogger("fedrad_client.node").info("a line of ours")
        logging.getLogger("httpx").error("Jane Doe")
        logging.getLogger("flwr").error("Jane Doe")
        logging.getLogger("some.library").error("Jane Doe")

    monkeypatch.setattr("fedrad_client.node.logs._BYTES", 1000)
    monkeypatch.setattr(Executor, "run", run)
    run_node(home, "127.0.0.1:1")

    files = sorted((home / "node").glob("node.log*"))
    shown = capfd.readouterr().err
    assert len(files) == 5
    assert max(path.stat().st_size for path in files) <= 1000
    assert (home / "node").stat().st_mode & 0o077 == 0
    assert shown.count("a line of ours") == 100
    assert "Jane Doe" not in shown + "".join(path.read_text() for path in files)


def test_a_log_file_that_cannot_be_written_leaves_the_lines_on_stderr(tmp_path, capfd):
    with logging_codes(tmp_path / "missing"):
        logging.getLogger("fedrad_client.node").info("a line of ours")

    assert "a line of ours" in capfd.readouterr().err


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_where_it_asks(tmp_path, monkeypatch, abstract):
    name = f"@fedrad-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if abstract else name)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")

        assert listening.recv(64) == b"READY=1"


@pytest.mark.parametrize("name", ["", "relative", "/no/such/socket"])
def test_elsewhere_systemd_is_not_missed(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("WATCHDOG=1")


def test_systemd_hears_that_the_node_is_up_and_that_it_lives(home, served, monkeypatch):
    said = []
    monkeypatch.setattr(service, "notify", said.append)
    monkeypatch.setattr(Executor, "run", lambda self: self.alive())
    run_node(home, "127.0.0.1:1")

    assert said == ["READY=1", "WATCHDOG=1"]


def test_pause_and_resume_are_answered_for_programs_and_written_down_once(site_home):
    def do(*arguments):
        return CliRunner().invoke(app, [*arguments, "--home", str(site_home), "--json"])

    assert [json.loads(do(verb).stdout) for verb in ("pause", "pause", "resume", "resume")] == [
        {"state": "paused"}, {"state": "paused"}, {"state": "answering"}, {"state": "answering"},
    ]  # fmt: skip
    assert [entry.type for entry in read(site_home / AUDIT, audit.KIND)][-2:] == ["pause", "resume"]


def test_resume_does_not_say_answering_while_the_hospitals_own_pause_file_is_there(site_home):
    settings = site_home / "site.toml"
    settings.write_text(settings.read_text().replace('pause_file = "paused"', 'pause_file = "backup-runs"'))
    (site_home / "backup-runs").touch()
    ended = CliRunner().invoke(app, ["resume", "--home", str(site_home)])

    assert ended.exit_code == 1
    assert "backup-runs" in str(ended.exception)
