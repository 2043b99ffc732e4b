"""The coordinator's audit log: written by several processes, shown and checked by the command line."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from fakes.coordinator import World, protocol
from fakes.terminal import Terminal

from fedrad_common.audit import COORDINATOR_EVENTS, check_entries
from fedrad_common.chain import CLOCK, Chain, read, utc_now
from fedrad_common.errors import BusyError, ChainError, ClockError
from fedrad_common.identity import SigningKey
from fedrad_server import audit
from fedrad_server.audit import AUDIT, KIND, Event, accept_clock, record, sign_checkpoint
from fedrad_server.layout import EVENTS

COORDINATOR, ME = "fedrad-coordinator", "ab" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "coordinator"
    folder.mkdir()
    record(folder, "init", coordinator=ME)
    return folder


def test_the_events_are_those_of_the_table() -> None:
    assert set(get_args(Event)) == set(COORDINATOR_EVENTS) - {"open", CLOCK}


def test_the_log_begins_with_the_folder_and_only_once(home: Path) -> None:
    assert [entry.type for entry in read(home / AUDIT, KIND)] == ["open", "init"]
    with pytest.raises(ChainError, match="exists already"):
        record(home, "init", coordinator=ME)


def test_a_log_that_is_gone_is_not_begun_anew_by_the_next_event(home: Path) -> None:
    for name in (AUDIT, f"{AUDIT}.mark"):
        (home / name).unlink()

    with pytest.raises(ChainError, match="no such log"):
        record(home, "admit", site="north")


def test_a_field_that_is_not_listed_is_an_error_and_leaves_no_entry(home: Path) -> None:
    with pytest.raises(ValueError, match="unknown field"):
        record(home, "admit", site="north", note="called back by phone")

    assert len(read(home / AUDIT, KIND)) == 2


WRITER = """
import sys
from pathlib import Path
from fedrad_server.audit import record
for number in range(20):
    record(Path(sys.argv[1]), "run-paused", run=sys.argv[2], code="quorum", round=number)
"""


def test_several_processes_that_write_at_once_lose_no_entry(home: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(home), f"run-0000000{number}"]) for number in range(3)]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    entries = read(home / AUDIT, KIND)
    check_entries(COORDINATOR_EVENTS, entries, name=AUDIT)
    for number in range(3):
        assert [entry.body["round"] for entry in entries if entry.body.get("run") == f"run-0000000{number}"] == list(range(20))


def test_who_holds_the_log_for_too_long_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PATIENCE", 0.0)

    with Chain.open(home / AUDIT, KIND), pytest.raises(BusyError):
        record(home, "admit", site="north")


def ahead(path: Path, kind: str, event: str, body: dict[str, object]) -> None:
    """An entry that was written while the clock was a month ahead."""
    with Chain.open(path, kind, clock=lambda: utc_now() + timedelta(days=30)) as chain:
        chain.append(event, body)


def test_a_clock_that_was_ahead_locks_the_log_until_a_person_accepts_the_clock_as_it_is(home: Path) -> None:
    ahead(home / AUDIT, KIND, "stop", {})
    with pytest.raises(ClockError) as caught:
        record(home, "start")
    assert "fedrad-coordinator audit accept-clock" in caught.value.hint
    assert "fedrad-site" not in caught.value.hint

    assert accept_clock(home) == (AUDIT,)
    record(home, "start")
    entries = read(home / AUDIT, KIND)
    assert [entry.type for entry in entries] == ["open", "init", "stop", CLOCK, "start"]
    assert entries[3].body == {"before": entries[2].at}
    check_entries(COORDINATOR_EVENTS, entries, name=AUDIT)


def test_where_no_log_is_ahead_of_the_clock_nothing_is_written(home: Path) -> None:
    World(home / "runs" / "echo").create(protocol()).close()
    assert accept_clock(home) == ()
    assert [entry.type for entry in read(home / AUDIT, KIND)] == ["open", "init"]


def test_an_open_run_goes_on_after_the_clock_was_accepted_and_others_stay_as_they_are(home: Path) -> None:
    world, done, damaged = (World(home / "runs" / name) for name in ("echo", "done", "damaged"))
    with world.create(protocol()) as run:
        run.begin(1)
    receipts = "rounds/0001/receipts.chain"
    done.finish(protocol(rounds=1))
    damaged.create(protocol()).close()
    ahead(world.directory / EVENTS, "events", "paused", {"reason": "", "missing": {}})
    ahead(world.directory / receipts, "receipts", "checked", {})
    ahead(done.directory / EVENTS, "events", "checked", {})
    (damaged.directory / EVENTS).write_text("nonsense")
    with pytest.raises(ClockError) as caught:
        world.open()
    assert "fedrad-coordinator audit accept-clock" in caught.value.hint

    assert accept_clock(home) == (f"echo/{EVENTS}", f"echo/{receipts}")
    with world.open() as again:
        assert world.play(again).outcome == "finished"


# ── the command ──


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def key(home: Path) -> SigningKey:
    """The folder as far as these verbs look at it."""
    key = SigningKey.generate()
    (home / "keys").mkdir()
    key.save(home / "keys" / "coordinator.key")
    (home / "keys" / "coordinator.pub").write_text(key.public.hex)
    (home / "roster.json").write_text('{"format":"fedrad-roster-2","sites":{}}')
    return key


def test_verify_prints_the_head_and_says_what_a_checkpoint_proved(home: Path, key: SigningKey, terminal: Terminal) -> None:
    kept = home.parent / "kept.json"
    signed = json.loads(terminal.do(COORDINATOR, "audit", "checkpoint", home, "--out", kept, "--json").out)
    record(home, "admit", site="north")
    said = json.loads(terminal.do(COORDINATOR, "audit", "verify", home, "--checkpoint", kept, "--json").out)

    assert signed["count"] == 2
    assert (said["entries"], said["head"]) == (4, read(home / AUDIT, KIND)[-1].hash)
    assert "all 2 entries" in said["witnesses"][0]
    terminal.do(COORDINATOR, "audit", "verify", home, "--head", signed["head"])


def test_the_command_accepts_the_clock(home: Path, key: SigningKey, terminal: Terminal) -> None:
    ahead(home / AUDIT, KIND, "stop", {})
    assert terminal.do(COORDINATOR, "audit", "accept-clock", home).out == "accepted the clock as it is, in audit.chain\n"
    assert json.loads(terminal.do(COORDINATOR, "audit", "accept-clock", home, "--json").out) == {"logs": []}
    terminal.do(COORDINATOR, "audit", "verify", home)


def test_a_log_made_anew_is_noticed_by_a_checkpoint_alone(home: Path, key: SigningKey, terminal: Terminal) -> None:
    record(home, "revoke", site="north")
    kept = home.parent / "kept.json"
    kept.write_text(sign_checkpoint(home, key=key).model_dump_json())
    for name in (AUDIT, f"{AUDIT}.mark"):
        (home / name).unlink()
    record(home, "init", coordinator=ME)

    terminal.do(COORDINATOR, "audit", "verify", home)  # by itself it is whole
    assert "had 3 when" in terminal.fail(COORDINATOR, "audit", "verify", home, "--checkpoint", kept, code=1).error


def test_an_entry_that_fedrad_never_writes_is_flagged(home: Path, key: SigningKey, terminal: Terminal) -> None:
    with Chain.open(home / AUDIT, KIND) as chain:
        chain.append("admit", {"site": "north", "note": "as agreed"})

    for verb in (["verify", home], ["show", home], ["export", home, "--out", home.parent / "log.jsonl"]):
        assert terminal.fail(COORDINATOR, "audit", *verb, code=1).error == "audit.chain: entry 2 has an unknown field"


def test_the_newest_entries_are_shown_and_the_whole_log_exported(home: Path, key: SigningKey, terminal: Terminal) -> None:
    record(home, "admit", site="north")
    shown = terminal.do(COORDINATOR, "audit", "show", home, "--last", 1).out
    out = home.parent / "log.csv"
    terminal.do(COORDINATOR, "audit", "export", home, "--format", "csv", "--out", out)

    assert shown.split()[2:] == ["admit", "site=north"]
    assert len(out.read_text().splitlines()) == 4
    terminal.fail(COORDINATOR, "audit", "export", home, "--out", out)
