"""The site's audit log: its events, what its head does not tell, refusals that repeat, and the command."""

import dataclasses
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from fakes.terminal import Terminal

from fedrad_client import audit
from fedrad_client.answer import answer
from fedrad_client.approval import approve, withdraw_approval
from fedrad_client.audit import CONTRADICTIONS, KIND, PENDING, Event, Noted, Refusals, note, record, settle, sign_checkpoint, signing_keys
from fedrad_client.policy import REASONS
from fedrad_client.site import AUDIT, Home, Site, open_site
from fedrad_common.audit import SITE_EVENTS, check_entries
from fedrad_common.canonical import canonical_json
from fedrad_common.chain import CLOCK, Chain, read
from fedrad_common.chain_format import encode_line
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Order
from fedrad_sim.one_site import asked

SITE = "fedrad-site"
ORDER = {"run": "run-00000001", "epoch": 1, "round": 1, "kind": "train"}


@pytest.fixture
def log(tmp_path: Path):
    with Chain.create(tmp_path / AUDIT, KIND, {"site": "north"}) as chain:
        yield chain


def types(home: Path) -> list[str]:
    return [entry.type for entry in read(home / AUDIT, KIND)]


def test_the_events_are_those_of_the_table() -> None:
    assert set(get_args(Event)) == set(SITE_EVENTS) - {"open", CLOCK}
    assert set(get_args(Noted)) == {name for name, event in SITE_EVENTS.items() if "noted" in event.may} - {"checkpoint"}


def test_every_reason_is_a_code_that_the_log_has_room_for(log: Chain) -> None:
    for reason, (code, _) in REASONS.items():
        record(log, "refuse", code=code, reason=reason)

    check_entries(SITE_EVENTS, log.entries, name=AUDIT)


def test_a_reason_of_nobodys_list_is_never_written(log: Chain) -> None:
    with pytest.raises(ValueError, match="no reason of ours") as caught:
        Refusals().record(log, code="internal", reason="doe")

    assert "doe" not in str(caught.value)
    assert len(log.entries) == 1


def test_a_coordinator_that_contradicts_itself_is_an_event_of_its_own(log: Chain) -> None:
    refusals = Refusals()
    for reason in sorted(CONTRADICTIONS):
        refusals.record(log, code="policy", reason=reason, run="run-00000001", round=2, question="ab" * 32)

    assert [entry.type for entry in log.entries[1:]] == ["evidence-contradiction"] * 4
    assert {entry.body["code"] for entry in log.entries if entry.type == "evidence-contradiction"} == CONTRADICTIONS
    assert set(REASONS) >= CONTRADICTIONS


# ── what the head tells ──


def guessed(log: Chain, before: list, *, salt: str | None) -> int | None:
    """A coordinator that holds two neighbouring heads tries every number of patients that somebody may have withdrawn."""
    head = log.entries[-1].hash
    for patients in range(1, 50):
        body = {"patients": patients, "listed": patients} | ({} if salt is None else {"salt": salt})
        line = encode_line("withdraw", body, at=log.entries[-1].at, before=before, kind=KIND)
        if line[9:73].decode() == head:
            return patients
    return None


def test_no_number_of_patients_can_be_guessed_from_two_heads_of_the_log(log: Chain) -> None:
    before = list(log.entries)
    log.append("withdraw", {"patients": 17, "listed": 17})  # as it would be without random bytes
    assert guessed(log, before, salt=None) == 17

    earlier = record(log, "pause").body["salt"]  # as from a log that was handed to somebody
    before = list(log.entries)
    record(log, "withdraw", patients=17, listed=17)
    assert guessed(log, before, salt=None) is None
    assert guessed(log, before, salt=earlier) is None
    assert guessed(log, before, salt=log.entries[-1].body["salt"]) == 17  # which is not in any message


# ── refusals that repeat ──


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


ASKED = {"code": "paused", "reason": "paused", "run": "run-00000001", "round": 3, "question": "ab" * 32}


def test_the_same_refusal_is_written_once_a_minute_and_its_repeats_are_counted(log: Chain, clock: Clock) -> None:
    refusals = Refusals(clock)
    for clock.now in range(150):
        refusals.record(log, **ASKED)
    repeated = [entry.body.get("repeated") for entry in log.entries[1:]]

    assert repeated == [None, 59, 59]
    assert refusals.unwritten(log.path) == {"repeated": 29}
    check_entries(SITE_EVENTS, log.entries, name=AUDIT)


@pytest.mark.parametrize(
    "other", [{"reason": "not-approved"}, {"run": "run-00000002"}, {"round": 4}, {"question": "cd" * 32}, {"code": "busy"}]
)
def test_another_refusal_is_written_at_once(log: Chain, clock: Clock, other: dict) -> None:
    refusals = Refusals(clock)
    refusals.record(log, **ASKED)

    assert refusals.record(log, **{**ASKED, **other}) is not None


def test_orders_that_differ_each_time_do_not_fill_the_disk_either(log: Chain, clock: Clock) -> None:
    refusals = Refusals(clock)
    for number in itertools.islice(itertools.count(1), 1000):
        refusals.record(log, **{**ASKED, "round": number})
    clock.now = 61.0
    last = refusals.record(log, **ASKED)

    assert last is not None
    assert last.body["repeated"] == 1000 - 30
    assert len(log.entries) == 1 + 30 + 1


DAY = 60  # a short one


def all_day(refusals: Refusals, log: Chain, clock: Clock, *, reason: str = "paused") -> None:
    """Each order asks something else, as fast as a minute's room allows."""
    for number in range(DAY + 30):
        clock.now += 2.1
        refusals.record(log, **{**ASKED, "code": REASONS[reason][0], "reason": reason, "round": number})


def of(log: Chain, event: Event) -> int:
    return sum(entry.type == event for entry in log.entries)


@pytest.fixture
def days(log: Chain, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The clock on the wall."""
    now = [datetime(2026, 2, 3, 12, tzinfo=UTC)]
    log._clock = lambda: now[-1]
    log.entries[0] = dataclasses.replace(log.entries[0], at="2026-02-03T11:00:00+00:00")
    monkeypatch.setattr(audit, "utc_now", lambda: now[-1])
    monkeypatch.setattr(audit, "_MOST_A_DAY", DAY)
    return now


def test_a_coordinators_questions_fill_a_day_of_the_log_and_no_more(log: Chain, clock: Clock, days: list[datetime]) -> None:
    all_day(Refusals(clock), log, clock)
    assert of(log, "refuse") == DAY
    all_day(again := Refusals(clock), log, clock)  # a node that was started anew
    assert of(log, "refuse") == DAY

    days.append(days[-1] + timedelta(days=1))
    first = again.record(log, **ASKED)
    assert first is not None
    assert first.body["repeated"] == DAY + 30
    check_entries(SITE_EVENTS, log.entries, name=AUDIT)


def test_a_full_day_hides_no_contradiction_and_no_release(log: Chain, clock: Clock, days: list[datetime]) -> None:
    """What a coordinator must not be able to crowd out."""
    all_day(refusals := Refusals(clock), log, clock)
    contradicted = refusals.record(log, **{**ASKED, "code": "policy", "reason": "two-models"})
    all_day(refusals, log, clock, reason="two-models")
    left = record(log, "release", **dict.fromkeys(("question", "envelope", "payload", "ledger"), "ab" * 32), **ORDER, bytes=64)

    assert contradicted is not None
    assert contradicted.type == "evidence-contradiction"
    assert of(log, "evidence-contradiction") == DAY
    assert log.entries[-1] == left


def test_a_minutes_room_for_refusals_is_not_that_of_contradictions(log: Chain, clock: Clock) -> None:
    refusals = Refusals(clock)
    for number in range(100):
        refusals.record(log, **{**ASKED, "round": number})

    assert refusals.record(log, **{**ASKED, "code": "policy", "reason": "forgotten"}) is not None


def test_the_log_of_one_site_says_nothing_of_another_ones_repeats(log: Chain, clock: Clock, tmp_path: Path) -> None:
    refusals = Refusals(clock)
    (tmp_path / "south").mkdir()
    with Chain.create(tmp_path / "south" / AUDIT, KIND, {"site": "south"}) as south:
        for _ in range(5):
            refusals.record(log, **ASKED)

        assert refusals.record(south, **ASKED).body.get("repeated") is None
        assert refusals.unwritten(south.path) == {}


# ── events from outside an open site ──


def test_an_event_is_entered_at_once_where_nobody_holds_the_log(site_home: Path) -> None:
    assert note(site_home, "pause")

    assert types(site_home)[-1] == "pause"
    assert not (site_home / PENDING).exists()


def test_an_event_that_came_during_an_answer_is_entered_after_it_with_its_own_time(site_home: Path) -> None:
    with open_site(site_home) as site:
        assert not note(site_home, "pause")
        assert not note(site_home, "refused-by-coordinator", code="clock")
        assert len(site.audit.entries) == 1
    with open_site(site_home) as site:
        entered = site.audit.entries[1:]

        assert [entry.type for entry in entered] == ["pause", "refused-by-coordinator"]
        assert all(re.match(r"\d{4}-\d\d-\d\dT", entry.body["noted"]) for entry in entered)
        check_entries(SITE_EVENTS, site.audit.entries, name=AUDIT)
    assert not list((site_home / PENDING).iterdir())


def test_the_next_event_brings_those_that_wait_with_it(site_home: Path) -> None:
    with open_site(site_home):
        note(site_home, "pause")
    note(site_home, "resume")

    assert types(site_home)[1:] == ["pause", "resume"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"event":"pause","facts":{"why":"tired"}}', b'{"event":"gossip","facts":{}}', b'{"event":[],"facts":{}}']
)
def test_a_waiting_file_that_fedrad_never_wrote_is_dropped(site_home: Path, content: bytes) -> None:
    (site_home / PENDING).mkdir()
    (site_home / PENDING / "0-1.json").write_bytes(content)
    with Chain.open(site_home / AUDIT, KIND) as chain:
        assert settle(chain) == 0

    assert types(site_home) == ["open"]
    assert not list((site_home / PENDING).iterdir())


def test_a_stop_says_how_many_refusals_were_only_counted(site_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "refusals", Refusals(Clock()))
    with Chain.open(site_home / AUDIT, KIND) as chain:
        for _ in range(4):
            audit.refusals.record(chain, **ASKED)
    note(site_home, "stop", code="signal")

    assert read(site_home / AUDIT, KIND)[-1].body["repeated"] == 3


# ── the command ──


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


def test_verify_prints_both_heads_and_says_what_a_checkpoint_proved(site_home: Path, terminal: Terminal) -> None:
    kept = site_home.parent / "kept.json"
    signed = json.loads(terminal.do(SITE, "audit", "checkpoint", "--home", site_home, "--out", kept, "--json").out)
    note(site_home, "pause")
    said = json.loads(terminal.do(SITE, "audit", "verify", "--home", site_home, "--checkpoint", kept, "--json").out)

    assert (signed["name"], signed["side"], signed["count"]) == ("north", "site", 1)
    assert said["audit"] == {"entries": 3, "head": read(site_home / AUDIT, KIND)[-1].hash}
    assert "all 1 entries" in said["witnesses"][0]
    terminal.do(SITE, "audit", "verify", "--home", site_home, "--head", signed["head"])
    terminal.fail(SITE, "audit", "verify", "--home", site_home, "--head", "0" * 64, code=1)


def made_anew(home: Path) -> None:
    """Somebody who owns the machine writes another log in the old one's place: every hash of it is right."""
    opening = read(home / AUDIT, KIND)[0].body
    for name in (AUDIT, f"{AUDIT}.mark"):
        (home / name).unlink()
    Chain.create(home / AUDIT, KIND, {key: value for key, value in opening.items() if key not in ("format", "kind")}).close()


def test_a_log_made_anew_is_noticed_by_a_checkpoint_alone(site_home: Path, terminal: Terminal) -> None:
    note(site_home, "pause")
    site, kept = Home(site_home), site_home.parent / "kept.json"
    kept.write_bytes(canonical_json(sign_checkpoint(site_home, name="north", key=site.envelope_key).model_dump(mode="json")))
    made_anew(site_home)

    terminal.do(SITE, "audit", "verify", "--home", site_home)  # by itself it is whole
    said = terminal.fail(SITE, "audit", "verify", "--home", site_home, "--checkpoint", kept, code=1)
    assert said.error == "audit.chain: has 1 entries, and had 2 when kept.json was signed"


def test_an_entry_that_fedrad_never_writes_is_flagged(site_home: Path, terminal: Terminal) -> None:
    with Chain.open(site_home / AUDIT, KIND) as chain:
        chain.append("pause", {"salt": "0" * 32, "by": "Dr. Doe"})

    for verb in (
        ["verify"],
        ["show"],
        ["export", "--out", site_home.parent / "log.jsonl"],
        ["export", "--out", "log.csv", "--format", "csv"],
    ):
        said = terminal.fail(SITE, "audit", *verb, "--home", site_home, code=1)
        assert said.error == "audit.chain: entry 1 has an unknown field"
        assert "Doe" not in said.err


def test_the_newest_entries_are_shown_and_the_whole_log_exported(site_home: Path, terminal: Terminal) -> None:
    note(site_home, "pause")
    note(site_home, "resume")
    shown = terminal.do(SITE, "audit", "show", "--last", 1, "--home", site_home).out
    out = site_home.parent / "log.jsonl"
    terminal.do(SITE, "audit", "export", "--out", out, "--home", site_home)

    assert shown.split()[2:] == ["resume"]
    assert [json.loads(line)["type"] for line in out.read_text().splitlines()] == ["open", "pause", "resume"]
    terminal.fail(SITE, "audit", "export", "--out", out, "--home", site_home)
    terminal.do(SITE, "audit", "export", "--out", out, "--force", "--home", site_home)


def test_a_site_with_a_new_identity_still_knows_its_old_checkpoints(site_home: Path) -> None:
    old = Home(site_home).envelope_key.public
    lost = site_home / "lost" / "0001"
    lost.mkdir(parents=True)
    (site_home / "keys" / "envelope.key").rename(lost / "envelope.key")
    SigningKey.generate().save(site_home / "keys" / "envelope.key")

    assert old in signing_keys(site_home)
    assert len(signing_keys(site_home)) == 2


MODEL = np.zeros(16, np.float32)


def test_an_answering_site_writes_nothing_that_its_table_does_not_list(make_site, coordinator, protocol_bytes) -> None:
    """Over a life: approval, answer, resend, refusals of several kinds, withdrawal of the approval."""
    hashed = parse_protocol(protocol_bytes).hash

    def ask(site: Site, key: SigningKey, **changed: object) -> None:
        order = Order(**{**ORDER, "protocol": hashed, "model": vector_hash(MODEL), "length": MODEL.size, **changed})
        answer(site, asked(order, MODEL, coordinator, site.home.path, signer=key), work=lambda job, model: np.ones(16, np.float32))

    with open_site(make_site().path) as site:
        approve(site, protocol_bytes, declared_size=60)
        ask(site, coordinator)
        ask(site, coordinator)
        ask(site, SigningKey.generate())
        ask(site, coordinator, run="run-00000002")
        withdraw_approval(site, hashed)
        ask(site, coordinator, round=3)
        found = list(site.audit.entries)

    check_entries(SITE_EVENTS, found, name=AUDIT)
    assert [entry.type for entry in found] == ["open", "approve", "release", "resend", *["refuse"] * 2, "withdraw-approval", "refuse"]
    assert [entry.body["reason"] for entry in found if entry.type == "refuse"] == ["not-signed", "no-run-left", "not-approved"]
