"""The log keeps what it acknowledged, and says so when it no longer can."""

import errno
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedrad_common import chain_format
from fedrad_common.canonical import sha256_hex
from fedrad_common.chain import CLOCK, Chain, Entry, read
from fedrad_common.chain_format import Mark, encode_mark
from fedrad_common.errors import BusyError, ChainError, ClockError, DiskError, SyncError

START = datetime(2030, 1, 1, tzinfo=UTC)


def mark_of(log: Path) -> Path:
    return log.with_name(log.name + ".mark")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.chain"
    with Chain.create(path, "ledger", {"site": "north"}) as chain:
        for number in range(5):
            chain.append("spend", {"number": number})
    return path


def numbers(log: Path) -> list[int | None]:
    return [entry.body.get("number") for entry in read(log, "ledger")]


def died_before_its_mark(log: Path) -> bytes:
    """Append entry 5 as a process does that dies between the two syncs. Returns the log without it."""
    whole, mark = log.read_bytes(), mark_of(log).read_bytes()
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})
    mark_of(log).write_bytes(mark)
    return whole


def test_what_was_appended_is_read_back_in_order(log: Path) -> None:
    assert numbers(log) == [None, 0, 1, 2, 3, 4]


def test_an_open_log_goes_on_where_it_ended(log: Path) -> None:
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})

    assert read(log, "ledger")[-1].body == {"number": 5}


def test_opening_a_sound_log_writes_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pwrite", "ftruncate", "fdatasync", "fsync"):
        monkeypatch.delattr(os, name)

    Chain.open(log, "ledger").close()


TAILS: dict[str, Callable[[bytes], bytes]] = {
    "half a line": lambda line: line[: len(line) // 2],
    "a line without its end": lambda line: line[:-1],
    "a line with a lost sector": lambda line: line[:80] + bytes(20) + line[100:],
    "zeros": lambda line: bytes(4096),
    "another log's line": lambda line: line.replace(line[9:73], b"0" * 64),
    "noise": lambda line: bytes(range(256)) * 3,
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_torn_tail_is_cut_because_it_was_never_acknowledged(log: Path, tail: str) -> None:
    whole = died_before_its_mark(log)
    log.write_bytes(whole + TAILS[tail](log.read_bytes()[len(whole) :]))

    assert numbers(log) == [None, 0, 1, 2, 3, 4]
    with Chain.open(log, "ledger") as chain:
        assert len(chain.entries) == 6
    assert log.read_bytes() == whole


def test_an_entry_whose_mark_was_not_written_still_counts(log: Path) -> None:
    """The process died between the two syncs. Nobody was told of the entry, but an account errs upwards only."""
    died_before_its_mark(log)

    with Chain.open(log, "ledger") as chain:
        assert len(chain.entries) == 7
        chain.append("spend", {"number": 6})
    assert numbers(log) == [None, 0, 1, 2, 3, 4, 5, 6]


def changes(log: Path, monkeypatch: pytest.MonkeyPatch, deed: Callable[[Chain], object]) -> list[str]:
    """Open the log and do something: in which order its two files were written and synced."""
    done, write, sync = [], os.pwrite, os.fdatasync

    def name(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().suffix

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *arguments: (done.append(f"write {name(arguments[0])}"), write(*arguments))[1])
        patch.setattr(os, "fdatasync", lambda descriptor: (done.append(f"sync {name(descriptor)}"), sync(descriptor)))
        with Chain.open(log, "ledger") as chain:
            deed(chain)
    return done


ACKNOWLEDGED = ["write .chain", "sync .chain", "write .mark", "sync .mark"]


def test_an_append_returns_when_the_line_and_then_its_mark_are_synced(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert changes(log, monkeypatch, lambda chain: chain.append("spend", {})) == ACKNOWLEDGED


def test_what_a_dead_process_left_is_written_and_synced_again_before_it_is_acknowledged(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the mark could be on the disk without it: the dead process may never have synced it, or its sync may have failed."""
    died_before_its_mark(log)

    assert changes(log, monkeypatch, lambda chain: None) == ACKNOWLEDGED


def test_an_older_copy_is_refused(log: Path) -> None:
    older = log.read_bytes()
    with Chain.open(log, "ledger") as chain:
        chain.append("spend", {"number": 5})
    log.write_bytes(older)

    with pytest.raises(ChainError, match="holds 6 whole entries, 7 were acknowledged"):
        Chain.open(log, "ledger")


def test_another_history_of_the_same_length_is_refused(log: Path, tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    clone = tmp_path / "clone" / log.name
    for path in (log, mark_of(log)):
        shutil.copy(path, clone.parent)
    for place, number in ((log, 5), (clone, 6)):
        with Chain.open(place, "ledger") as chain:
            chain.append("spend", {"number": number})
    shutil.copy(clone, log)

    with pytest.raises(ChainError, match="entry 6 is not the one acknowledged"):
        Chain.open(log, "ledger")


@pytest.mark.parametrize("name", ["ledger.chain", "ledger.chain.mark"])
def test_every_bit_of_both_files_counts(log: Path, name: str) -> None:
    path = log.with_name(name)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ChainError):
            read(log, "ledger")


@pytest.mark.parametrize(
    "damage",
    [lambda m: b"", lambda m: bytes(256), lambda m: m[:-1], lambda m: m + b"\n", lambda m: m.rstrip(), lambda m: m[:200] + bytes(56)],
)
def test_the_mark_has_one_valid_form(log: Path, damage: Callable[[bytes], bytes]) -> None:
    mark_of(log).write_bytes(damage(mark_of(log).read_bytes()))

    with pytest.raises(ChainError, match=r"ledger.chain.mark: is damaged") as caught:
        Chain.open(log, "ledger")
    assert "ledger recover --assume-spent" in caught.value.hint


@pytest.mark.parametrize(("name", "error"), [("ledger.chain", "no such log"), ("ledger.chain.mark", "is missing")])
def test_a_lost_file_is_refused(log: Path, name: str, error: str) -> None:
    log.with_name(name).unlink()

    with pytest.raises(ChainError, match=rf"^{name}: {error}") as caught:
        Chain.open(log, "ledger")
    assert "compare with a witness" in caught.value.hint
    assert "ledger recover --assume-spent" in caught.value.hint


def test_a_sector_that_cannot_be_read_is_no_stack_trace(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", failing)

    with pytest.raises(ChainError, match=r"^ledger.chain.mark: cannot be read \(Input/output error\)$"):
        read(log, "ledger")


def test_every_truncation_below_the_mark_is_refused(log: Path) -> None:
    whole = log.read_bytes()
    for length in range(0, len(whole), 3):
        log.write_bytes(whole[:length])
        with pytest.raises(ChainError, match="were acknowledged"):
            read(log, "ledger")


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4, 5], [0, 1, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 4], [5, 1, 2, 3, 4, 0]])
def test_swapped_doubled_and_lost_entries_are_refused(log: Path, order: list[int]) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[number] for number in order))

    with pytest.raises(ChainError, match=r"was changed|were acknowledged"):
        read(log, "ledger")


def forged(log: Path, payload: bytes) -> None:
    """Entry 5 by somebody who knows the format: hash and mark are right."""
    *kept, _ = log.read_bytes().splitlines(keepends=True)
    digest = sha256_hex(kept[-1][9:73] + payload)
    log.write_bytes(b"".join(kept) + b"%08d %s %s\n" % (len(payload), digest.encode(), payload))
    mark_of(log).write_bytes(encode_mark(Mark(6, digest, log.stat().st_size), "ledger"))


FORM = b'{"at":"2030-01-01T00:00:00+00:00","body":{"number":4},"n":5,"type":"spend"}'


def test_the_form_that_the_next_test_spoils_is_right(log: Path) -> None:
    forged(log, FORM)

    assert numbers(log) == [None, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"5",
        b"[" * 100_000,
        b"\xff" + FORM,
        FORM[:-1],
        FORM.replace(b":4", b": 4"),
        FORM.replace(b":4", b":NaN"),
        FORM.replace(b'{"number":4}', b"[]"),
        FORM.replace(b'"n":5', b'"n":4'),
        FORM.replace(b'"n":5', b'"n":5.0'),
        FORM.replace(b'"spend"', b"7"),
        FORM.replace(b"2030-01-01T00:00:00+00:00", b"2030-01-01T00:00:00"),
        FORM.replace(b"2030-01-01", b"tomorrow"),
        FORM.replace(b'"type":"spend"', b'"type":"spend","what":1'),
        FORM.replace(b'"n":5', b'"m":5'),
    ],
)
def test_what_is_no_entry_is_refused_though_its_hash_is_right(log: Path, payload: bytes) -> None:
    forged(log, payload)

    with pytest.raises(ChainError, match="entry 5 was changed"):
        read(log, "ledger")


@pytest.mark.parametrize("mark", [Mark(0, "0" * 64, 0), Mark(6.0, "0" * 64, 1), Mark("6", "0" * 64, 1), Mark(True, "0" * 64, 1)])
def test_a_mark_that_says_nonsense_is_refused_though_its_checksum_is_right(log: Path, mark: Mark) -> None:
    mark_of(log).write_bytes(encode_mark(mark, "ledger"))

    with pytest.raises(ChainError, match=r"mark: is damaged"):
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


TROUBLES = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota", errno.EROFS: "read-only", errno.EIO: "fails to read or write"}


@pytest.mark.parametrize("number", TROUBLES)
def test_a_disk_that_takes_no_more_leaves_the_log_as_it_was(log: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    before = log.read_bytes()
    with Chain.open(log, "ledger") as chain:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
            with pytest.raises(DiskError, match=TROUBLES[number]):
                chain.append("spend", {"number": 5})
        assert len(chain.entries) == 6
        assert log.read_bytes() == before
        chain.append("spend", {"number": 5})
    assert len(read(log, "ledger")) == 7


def test_a_line_that_was_written_in_part_is_taken_back(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = log.read_bytes(), os.pwrite
    with Chain.open(log, "ledger") as chain:
        monkeypatch.setattr(os, "pwrite", lambda descriptor, content, position: real(descriptor, content[:50], position))
        with pytest.raises(DiskError, match="no space left"):
            chain.append("spend", {"number": 5})
    assert log.read_bytes() == before


@pytest.mark.parametrize("failing", [1, 2])
def test_after_a_sync_that_failed_nothing_is_appended_until_the_log_is_opened_anew(
    log: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The second sync would say yes without having written anything. Sync 1 is the line's, 2 the mark's."""
    count, before = 0, read(log, "ledger")

    def fdatasync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with Chain.open(log, "ledger") as chain:
        for _ in range(2):
            with pytest.raises(SyncError, match="did not confirm a write"):
                chain.append("spend", {"number": 5})
        assert chain.entries == before
    assert count == failing
    with Chain.open(log, "ledger") as chain:  # whoever was not told counts it all the same
        assert len(chain.entries) == 7


def test_a_mark_that_finds_no_room_stops_the_log_too(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that never writes in place."""
    real = os.pwrite

    def pwrite(descriptor: int, content: bytes, position: int) -> int:
        if position == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content, position)

    with Chain.open(log, "ledger") as chain, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(DiskError, match="no space left"):
            chain.append("spend", {"number": 5})
        with pytest.raises(SyncError):
            chain.append("spend", {"number": 6})
    assert len(read(log, "ledger")) == 7


def at(*times: datetime) -> Callable[[], datetime]:
    given = iter(times)
    return lambda: next(given)


def test_a_clock_that_went_back_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    clock = at(START, START - timedelta(minutes=59), START - timedelta(hours=2), START - timedelta(minutes=59))
    with Chain.create(tmp_path / "a.chain", "ledger", {}, clock=clock) as chain:
        chain.append("spend", {})
        with pytest.raises(ClockError, match=r"the clock says 2029-12-31 22:00 UTC, the last entry is of 2029-12-31T23:01") as caught:
            chain.append("spend", {})
        assert "fedrad-site ledger recover --accept-clock" in caught.value.hint
        chain.append("spend", {})

    assert [entry.number for entry in read(tmp_path / "a.chain", "ledger")] == [0, 1, 2]


def test_the_owner_of_a_log_says_by_which_command_the_clock_is_accepted(tmp_path: Path) -> None:
    accept = "fedrad-coordinator audit accept-clock HOME"
    early = START - timedelta(hours=2)
    with Chain.create(tmp_path / "a.chain", "audit", {}, clock=at(START, early), accept=accept) as chain:
        with pytest.raises(ClockError) as caught:
            chain.append("stop", {})
        assert caught.value.hint.endswith(f": {accept}")
    with (
        Chain.open(tmp_path / "a.chain", "audit", clock=at(early), accept=accept) as chain,
        pytest.raises(ClockError, match="clock") as again,
    ):
        chain.append("stop", {})
    assert again.value.hint.endswith(f": {accept}")


def test_a_person_may_accept_the_clock_as_it_is(tmp_path: Path) -> None:
    before = START - timedelta(days=400)
    with Chain.create(tmp_path / "a.chain", "ledger", {}, clock=at(START, before, before, before - timedelta(hours=2))) as chain:
        chain.append(CLOCK, {"before": chain.entries[-1].at})
        chain.append("spend", {})
        with pytest.raises(ClockError):
            chain.append("spend", {})


def test_what_this_process_has_verified_is_compared_and_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.chain"
    with Chain.create(path, "test", {}) as chain:
        for number in range(5):
            chain.append("step", {"number": number})
    Chain.open(path, "test").close()
    decoded, real = [], chain_format.entry_at

    def counting(position: int, content: bytes, *, before: list[Entry], kind: str) -> tuple[Entry, int] | None:
        decoded.append(len(before))
        return real(position, content, before=before, kind=kind)

    monkeypatch.setattr(chain_format, "entry_at", counting)
    with Chain.open(path, "test") as chain:
        assert decoded == [6]  # behind the last one: nothing
        chain.append("step", {"number": 5})
    with Chain.open(path, "test") as chain:
        assert [entry.body.get("number") for entry in chain.entries[1:]] == list(range(6))


@pytest.mark.parametrize("half", ["log.chain", "log.chain.mark"])
def test_a_change_since_this_process_verified_is_found_at_any_byte(tmp_path: Path, half: str) -> None:
    path = tmp_path / "log.chain"
    with Chain.create(path, "test", {}) as chain:
        chain.append("step", {})
    Chain.open(path, "test").close()
    sound = (tmp_path / half).read_bytes()
    for place in range(len(sound)):
        (tmp_path / half).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(ChainError):
            read(path, "test")
    (tmp_path / half).write_bytes(sound)
    assert len(read(path, "test")) == 2


def test_an_older_pair_put_back_under_a_running_process_is_read_as_what_it_is(tmp_path: Path) -> None:
    path, mark = tmp_path / "log.chain", tmp_path / "log.chain.mark"
    with Chain.create(path, "test", {}) as chain:
        older = path.read_bytes(), mark.read_bytes()
        chain.append("step", {})
    assert len(read(path, "test")) == 2
    path.write_bytes(older[0])
    mark.write_bytes(older[1])

    assert len(read(path, "test")) == 1  # only a witness can tell
