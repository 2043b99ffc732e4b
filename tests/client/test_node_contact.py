"""What a node notes of its coordinator, and what `fedrad-site status` makes of it: healthy is a round trip, and how long ago."""

import json
import logging

import pytest
from typer.testing import CliRunner

from fedrad_client import audit
from fedrad_client.cli import app
from fedrad_client.node.contact import CONTACT, Contact, Seen, last_contact, node_runs
from fedrad_client.node.troubles import trouble
from fedrad_client.site import Home
from fedrad_client.status import facts, lines
from fedrad_common.chain import Chain
from fedrad_common.files import exclusive_lock


@pytest.fixture
def home(site_home):
    (site_home / "node").mkdir()
    return site_home


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def contact(home, clock):
    return Contact(home / CONTACT, clock=lambda: clock[0])


def test_a_round_trip_is_noted_with_its_time(home, contact):
    contact.fine()

    assert json.loads((home / CONTACT).read_bytes()) == {
        "format": "fedrad-contact-1", "at": 1000.0, "state": "online", "code": "", "answered": 1000.0,
    }  # fmt: skip
    assert last_contact(home) == Seen(1000.0, "online", "", 1000.0)


@pytest.mark.parametrize(
    ("code", "state"), [("not-admitted", "refused"), ("clock", "refused"), ("refused", "unreachable"), ("tls-expired", "unreachable")]
)
def test_trouble_is_noted_with_its_code_and_keeps_when_it_last_went_well(home, contact, clock, code, state):
    contact.fine()
    clock[0] = 1005.0
    contact.failed(trouble(code))

    assert last_contact(home) == Seen(1005.0, state, code, 1000.0)


def test_the_file_is_written_at_most_once_a_second_but_at_each_change(home, contact, clock):
    written = []
    for at, failed in ((1000.0, False), (1000.5, False), (1000.9, True), (1001.0, True), (1001.95, True), (1002.0, False)):
        clock[0] = at
        contact.failed(trouble("timeout")) if failed else contact.fine()
        written.append(last_contact(home).at)

    assert written == [1000.0, 1000.0, 1000.9, 1000.9, 1001.95, 1002.0]


def test_a_clock_that_was_set_back_stops_nothing(home, contact, clock):
    contact.fine()
    clock[0] = 10.0
    contact.fine()

    assert last_contact(home).at == 10.0


def test_a_change_is_said_once_with_its_remedy(contact, caplog):
    with caplog.at_level(logging.INFO, logger="fedrad_client"):
        contact.fine()
        for _ in range(3):
            contact.failed(trouble("refused"))
        contact.failed(trouble("dns"))
        contact.fine()

    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["refused", "dns", "the coordinator answers again"]
    assert all(trouble(code).hint in line for code, line in zip(("refused", "dns"), said, strict=False))


def test_a_disk_that_takes_no_file_is_no_trouble(tmp_path):
    Contact(tmp_path / "missing" / "contact.json").fine()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'{"format":"fedrad-contact-2"}', b'{"format":"fedrad-contact-1"}', b"\xff",
     b'{"format":"fedrad-contact-1","at":"x","state":"online","code":"","answered":0}'],
)  # fmt: skip
def test_a_file_that_the_node_did_not_write_says_nothing(home, content):
    (home / CONTACT).write_bytes(content)

    assert last_contact(home) is None
    assert facts(Home(home))["round_trip"] is None


def test_a_node_that_runs_is_seen_by_its_lock(home):
    assert not node_runs(home)
    with exclusive_lock(home / "node" / "lock", what="node"):
        assert node_runs(home)
    assert not node_runs(home)


def shown(home, now):
    value = facts(Home(home), now=now)
    return value, "\n".join(lines(value))


def test_status_of_a_node_that_runs_and_had_a_round_trip_is_healthy(home, contact):
    contact.fine()
    with exclusive_lock(home / "node" / "lock", what="node"):
        value, text = shown(home, 1002.0)

    assert (value["state"], value["running"], value["healthy"], value["round_trip"], value["trouble"]) == ("answering", True, True, 2.0, "")
    assert "healthy, last round trip 2 s ago" in text


def test_status_of_a_node_whose_round_trip_is_long_ago_is_not_healthy(home, contact):
    contact.fine()
    with exclusive_lock(home / "node" / "lock", what="node"):
        value, text = shown(home, 1042.0)

    assert (value["state"], value["healthy"], value["round_trip"]) == ("waiting for the coordinator", False, 42.0)
    assert "healthy" not in text
    assert "last round trip 42 s ago" in text


def test_status_of_a_node_that_does_not_run_says_so_however_fresh_the_file_is(home, contact):
    contact.fine()
    value, text = shown(home, 1000.0)

    assert (value["state"], value["running"], value["healthy"]) == ("not running", False, False)
    assert "not running: fedrad-site start" in text


@pytest.mark.parametrize("running", [True, False])
def test_status_of_a_paused_site_says_paused_whether_a_node_runs_or_not(home, running):
    (home / "paused").touch()
    if running:
        with exclusive_lock(home / "node" / "lock", what="node"):
            value, text = shown(home, 0.0)
    else:
        value, text = shown(home, 0.0)

    assert value["state"] == "paused"
    assert ("no node is running" in text) != running


def test_status_names_the_trouble_and_its_remedy(home, contact):
    contact.failed(trouble("tls-expired"))
    with exclusive_lock(home / "node" / "lock", what="node"):
        value, text = shown(home, 1001.0)

    assert (value["healthy"], value["trouble"], value["round_trip"]) == (False, "tls-expired", None)
    assert f"{trouble('tls-expired').sentence} (tls-expired), never had a round trip" in text
    assert trouble("tls-expired").hint in text


def released(home, *answers):
    with Chain.open(home / "audit.chain", audit.KIND) as log:
        for run, number, manifest in answers:
            facts = {"run": run, "round": number, "kind": "train", "epoch": 1, "bytes": 1, **manifest}
            audit.record(log, "release", **facts, **dict.fromkeys(("question", "envelope", "payload", "ledger"), "b" * 64))


def test_status_shows_the_manifests_of_the_runs_that_were_answered_last(home):
    """A long run that is answered again comes after those that were begun later."""
    named = {"manifest": "c" * 64}
    released(home, ("run-0001", 1, named), *((f"run-000{n}", 1, named) for n in (2, 3, 4)), ("run-0001", 2, named))

    assert list(facts(Home(home))["manifests"]) == ["run-0003 round 1", "run-0004 round 1", "run-0001 round 2"]


def test_status_of_an_answer_that_named_no_manifest_says_so(home):
    released(home, ("run-0001", 1, {}))
    value = facts(Home(home))

    assert value["manifests"] == {"run-0001 round 1": ""}
    assert "run-0001 round 1 named none" in "\n".join(lines(value))


def test_a_site_is_paused_though_its_audit_log_takes_no_entry(home):
    (home / "audit.chain").write_bytes(b"hello")
    ended = CliRunner().invoke(app, ["pause", "--home", str(home)])

    assert ended.exit_code == 1
    assert Home(home).paused


def test_status_for_programs_is_one_line_of_json(home, contact):
    contact.fine()
    ended = CliRunner().invoke(app, ["status", "--json", "--home", str(home)])

    assert json.loads(ended.stdout)["round_trip"] > 0
    assert ended.stdout.count("\n") == 1
