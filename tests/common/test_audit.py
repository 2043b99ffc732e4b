"""The audit log's table: what may be written, what is believed, and how a log that was made anew is noticed."""

import json
from pathlib import Path

import pytest

from fedrad_common.audit import COORDINATOR_EVENTS, SITE_EVENTS, check_entries, check_out, checked, described, exported
from fedrad_common.chain import Chain, read
from fedrad_common.checkpoint import check_checkpoint, check_head, checkpoint
from fedrad_common.errors import ChainError, FormatError, MisuseError
from fedrad_common.identity import SigningKey

HASH, SALT, RUN = "ab" * 32, "cd" * 16, "run-00000001"
PATIENT = "Doe^John 1961-04-01"
TABLES = [(side, table, name) for side, table in (("site", SITE_EVENTS), ("coordinator", COORDINATOR_EVENTS)) for name in table]
GOOD = {
    "SHA-256 in hexadecimal": HASH,
    "16 random bytes in hexadecimal": SALT,
    "name of a site": "north",
    "id of a run": RUN,
    "code": "clock",
    "version": "0.1.0",
    "kind of an order": "train",
    "whole number": 3,
    "number": 0.5,
    "number, or null for no bound": None,
    "time in UTC": "2026-01-02T03:04:05+00:00",
    "format of a log": "fedrad-chain-1",
}


def value(rule) -> object:
    return GOOD.get(rule.words) or (rule.words.removeprefix("one of ").split(", ")[0] if "one of" in rule.words else GOOD[rule.words])


def body(event) -> dict:
    return {name: value(rule) for name, rule in {**event.must, **event.may}.items()}


def log(path: Path, *entries: tuple[str, dict], kind: str = "audit") -> Path:
    with Chain.create(path, kind, {"site": "north"}) as chain:
        for event, fields in entries:
            chain.append(event, fields)
    return path


@pytest.mark.parametrize(("side", "table", "name"), TABLES, ids=lambda given: given if isinstance(given, str) else "")
def test_every_field_of_every_event_has_a_value_and_refuses_text(side: str, table, name: str) -> None:
    event = table[name]

    assert event.fault(body(event)) is None
    for field in body(event):
        assert event.fault({**body(event), field: PATIENT}) is not None, field
        assert event.fault({**body(event), field: [1]}) is not None, field
        assert event.fault({**body(event), field: True}) is not None, field
    assert event.fault({**body(event), "patient": "P1"}) == "has an unknown field"
    assert all(event.fault({key: item for key, item in body(event).items() if key != field}) == f"lacks {field}" for field in event.must)


@pytest.mark.parametrize(
    ("fields", "fault"), [({"site": "north", "note": PATIENT}, "unknown field"), ({"site": PATIENT}, "name of a site"), ({}, "lacks site")]
)
def test_what_the_table_does_not_list_is_never_written(fields: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        checked(COORDINATOR_EVENTS, "admit", fields)

    assert PATIENT not in str(caught.value)


@pytest.mark.parametrize("event", ["gossip", "open", "clock"])
def test_an_event_that_the_table_does_not_list_is_never_written(event: str) -> None:
    with pytest.raises(ValueError, match="no event"):
        checked(SITE_EVENTS, event, {"site": "north"})


@pytest.mark.parametrize(
    "entry",
    [
        ("gossip", {"salt": SALT}),
        ("pause", {"salt": SALT, "why": PATIENT}),
        ("pause", {}),
        ("ingest", {"salt": SALT, "generation": PATIENT}),
        ("open", {"format": "fedrad-chain-1", "kind": "audit", "site": "north"}),
    ],
    ids=["event", "field", "salt", "value", "second opening"],
)
def test_an_entry_that_fedrad_never_writes_is_flagged_though_its_hashes_are_right(tmp_path: Path, entry: tuple[str, dict]) -> None:
    entries = read(log(tmp_path / "audit.chain", ("pause", {"salt": SALT}), entry), "audit")

    check_entries(SITE_EVENTS, entries[:2], name="audit.chain")
    with pytest.raises(ChainError, match=r"audit\.chain: entry 2 ") as caught:
        check_entries(SITE_EVENTS, entries, name="audit.chain")
    assert PATIENT not in str(caught.value)


# ── checkpoints ──


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def signed(path: Path, key: SigningKey, out: Path) -> Path:
    with Chain.open(path, "audit") as chain:
        out.write_text(checkpoint(chain, side="site", name="north", key=key).model_dump_json())
    return out


def anew(path: Path, *entries: tuple[str, dict]) -> list:
    """Somebody who owns the machine deletes the log and writes another: every hash of it is right."""
    path.unlink()
    path.with_name("audit.chain.mark").unlink()
    return read(log(path, *entries), "audit")


def test_a_log_that_only_grew_fits_its_checkpoint(tmp_path: Path, key: SigningKey) -> None:
    path = log(tmp_path / "audit.chain", ("pause", {"salt": SALT}))
    kept = signed(path, key, tmp_path / "kept.json")
    with Chain.open(path, "audit") as chain:
        chain.append("resume", {"salt": SALT})

    assert "all 2 entries" in check_checkpoint(read(path, "audit"), kept, keys=[key.public], log="audit.chain")


@pytest.mark.parametrize("rewritten", [(), (("resume", {"salt": SALT}),), (("resume", {"salt": SALT}), ("pause", {"salt": SALT}))])
def test_a_log_made_anew_passes_by_itself_and_is_noticed_by_its_checkpoint(tmp_path: Path, key: SigningKey, rewritten) -> None:
    path = log(tmp_path / "audit.chain", ("pause", {"salt": SALT}))
    kept, head = signed(path, key, tmp_path / "kept.json"), read(path, "audit")[-1].hash
    entries = anew(path, *rewritten)

    check_entries(SITE_EVENTS, entries, name="audit.chain")  # the attack works: nothing in the log itself shows it
    with pytest.raises(ChainError):
        check_checkpoint(entries, kept, keys=[key.public], log="audit.chain")
    with pytest.raises(ChainError):
        check_head(entries, head, log="audit.chain")


def test_a_checkpoint_that_somebody_else_signed_or_changed_proves_nothing(tmp_path: Path, key: SigningKey) -> None:
    path = log(tmp_path / "audit.chain", ("pause", {"salt": SALT}))
    entries, kept = read(path, "audit"), signed(path, SigningKey.generate(), tmp_path / "kept.json")

    with pytest.raises(FormatError, match="signature"):
        check_checkpoint(entries, kept, keys=[key.public], log="audit.chain")
    edited = json.loads(signed(path, key, kept).read_text())
    kept.write_text(json.dumps({**edited, "body": edited["body"].replace('"count":2', '"count":1')}))
    with pytest.raises(FormatError, match="signature"):
        check_checkpoint(entries, kept, keys=[key.public], log="audit.chain")
    with pytest.raises(MisuseError, match="no such file"):
        check_checkpoint(entries, tmp_path / "other.json", keys=[key.public], log="audit.chain")


def test_a_site_that_got_a_new_key_still_knows_its_old_checkpoints(tmp_path: Path, key: SigningKey) -> None:
    path = log(tmp_path / "audit.chain")
    kept = signed(path, key, tmp_path / "kept.json")

    assert check_checkpoint(read(path, "audit"), kept, keys=[SigningKey.generate().public, key.public], log="audit.chain")


# ── export ──


def test_an_export_holds_every_entry_in_both_forms(tmp_path: Path) -> None:
    entries = read(log(tmp_path / "audit.chain", ("ingest", {"salt": SALT, "generation": 3}), ("pause", {"salt": SALT})), "audit")
    lines = exported(entries, "jsonl").decode().splitlines()
    table = exported(entries, "csv").decode().splitlines()

    assert [json.loads(line)["hash"] for line in lines] == [entry.hash for entry in entries]
    assert table[0] == "number,at,type,format,generation,kind,salt,site,hash"
    assert [line.split(",")[-1] for line in table[1:]] == [entry.hash for entry in entries]
    assert table[2].split(",")[2:5] == ["ingest", "", "3"]


def test_an_entry_is_shown_on_one_line_without_its_random_bytes(tmp_path: Path) -> None:
    entry = read(log(tmp_path / "audit.chain", ("ingest", {"salt": SALT, "generation": 3})), "audit")[1]

    assert described(entry).split()[2:] == ["ingest", "generation=3"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("")

    check_out(tmp_path / "new.json", force=False)
    check_out(there, force=True)
    for path, force in ((there, False), (tmp_path, True), (tmp_path / "no" / "new.json", True)):
        with pytest.raises(MisuseError):
            check_out(path, force=force)
