"""The log keeps what it acknowledged, and says so when it no longer can."""

import os
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedrad_common.chain import Chain, read
from fedrad_common.errors import BusyError, ChainError, FedradError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.chain"
    with Chain.create(path, "ledger", {"site": "north"}) as chain:
        for number in range(5):
            chain.append("spend", {"number": number})
    return path


def test_what_was_appended_is_read_back_in_order(log: Path) -> None:
    assert [entry.body.get("number") for entry in read(log, "ledger")] == [None, 0, 1, 2, 3, 4]


def test_an_open_log_goes_on_where_it_ended(log: Path) -> None:
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})

    assert read(log, "ledger")[-1].body == {"number": 5}


def test_a_torn_tail_is_cut_because_it_was_never_acknowledged(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + b"00000099 " + b"a" * 40)

    with Chain.open(log, "ledger") as chain:
        assert len(chain.entries) == 6
    assert log.read_bytes() == whole


def test_an_entry_whose_mark_was_not_written_still_counts(log: Path) -> None:
    """The process died between the two syncs: what is on the disk may have been acted upon, so it is spent."""
    mark = log.with_name(log.name + ".mark")
    before = mark.read_bytes()
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})
    mark.write_bytes(before)

    with Chain.open(log, "ledger") as chain:
        assert len(chain.entries) == 7
    assert mark.read_bytes() != before


def test_an_older_copy_is_refused(log: Path) -> None:
    older = log.read_bytes()
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})
    log.write_bytes(older)

    with pytest.raises(ChainError, match="holds 6 whole entries, 7 were acknowledged"):
        Chain.open(log, "ledger")


def test_a_missing_mark_is_refused(log: Path) -> None:
    log.with_name(log.name + ".mark").unlink()

    with pytest.raises(ChainError, match="is missing"):
        Chain.open(log, "ledger")


@pytest.mark.parametrize("name", ["ledger.chain", "ledger.chain.mark"])
def test_no_flipped_bit_is_accepted(log: Path, name: str) -> None:
    path = log.with_name(name)
    whole = path.read_bytes()
    written = len(whole.rstrip())
    drawn = random.Random(name)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[drawn.randrange(written)] ^= 1 << drawn.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ChainError):
            read(log, "ledger")


def test_every_truncation_below_the_mark_is_refused(log: Path) -> None:
    whole = log.read_bytes()
    for length in range(0, len(whole), 7):
        log.write_bytes(whole[:length])
        with pytest.raises(ChainError):
            read(log, "ledger")


def test_swapped_entries_are_refused(log: Path) -> None:
    first, second, third, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, third, second, *rest]))

    with pytest.raises(ChainError, match="was changed"):
        read(log, "ledger")


def test_two_processes_cannot_hold_one_log(log: Path) -> None:
    with Chain.open(log, "ledger"), pytest.raises(BusyError):
        Chain.open(log, "ledger")


def test_a_log_of_another_kind_is_refused(log: Path) -> None:
    with pytest.raises(ChainError):
        read(log, "audit")


def test_a_log_is_never_begun_anew(log: Path) -> None:
    with pytest.raises(ChainError, match="exists already"):
        Chain.create(log, "ledger", {})


def test_a_full_disk_appends_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log.read_bytes()
    with Chain.open(log, "ledger") as chain:
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(FedradError, match="no space left"):
            chain.append("spend", {"number": 5})
        assert len(chain.entries) == 6
    assert log.read_bytes() == before


def test_a_clock_that_jumps_back_changes_no_order(tmp_path: Path) -> None:
    times = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)])
    with Chain.create(tmp_path / "a.chain", "ledger", {}, clock=lambda: next(times)) as chain:
        chain.append("spend", {})

    assert [entry.number for entry in read(tmp_path / "a.chain", "ledger")] == [0, 1]
