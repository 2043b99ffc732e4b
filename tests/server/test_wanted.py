"""What a person wants of a run: one small file, and names that lead to one folder only."""

import fcntl
import os
import threading
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, unsynced
from fakes.patience import PATIENCE
from fakes.roots import unreadable

from fedrad_common.errors import BusyError, FedradError, FormatError, MisuseError
from fedrad_common.files import exclusive_lock, lock_file
from fedrad_server import wanted
from fedrad_server.liveness import held, patiently, played

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("chest", "skull"):
        World(tmp_path / "home" / "runs" / name).create(protocol()).close()
    return tmp_path / "home"


def test_nobody_asked_for_a_run_that_has_no_file(home: Path) -> None:
    assert wanted.read(home / "runs" / "chest") is None


def test_a_pause_does_not_undo_what_a_person_said_meanwhile(home: Path) -> None:
    run = home / "runs" / "chest"
    wanted.write(run, "stop")
    wanted.pause(run, "its player failed")
    assert wanted.read(run) == wanted.Wanted(state="stop")


def test_what_a_person_says_while_a_pause_is_being_written_stands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = home / "runs" / "chest", wanted.read
    wanted.write(run, "run")
    person = threading.Thread(target=wanted.write, args=(run, "stop"), daemon=True)

    def read(path: Path) -> wanted.Wanted | None:
        found = real(path)
        person.start()
        person.join(0.3)  # as far as it comes
        return found

    with monkeypatch.context() as patch:
        patch.setattr(wanted, "read", read)
        wanted.pause(run)
    person.join(PATIENCE)
    assert wanted.read(run) == wanted.Wanted(state="stop")


def test_a_file_that_root_wrote_is_an_error_with_a_remedy_and_its_run_is_still_listed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable(monkeypatch, home / "runs" / "chest" / "wanted.json")
    unreadable(monkeypatch, home / "runs" / "skull")
    for name in ("chest", "skull"):
        with pytest.raises(FedradError, match=rf"{name}/wanted\.json: cannot be read") as caught:
            wanted.read(home / "runs" / name)
        assert "chown" in caught.value.hint
    assert [path.name for path in wanted.folders(home)] == ["chest", "skull"]


def test_a_damaged_file_is_no_wish(home: Path) -> None:
    (home / "runs" / "chest" / "wanted.json").write_text('{"format":"fedrad-wanted-2","state":"run"}')
    with pytest.raises(FormatError, match=r"chest/wanted\.json"):
        wanted.read(home / "runs" / "chest")


def test_a_run_is_found_by_name_and_by_path(home: Path) -> None:
    assert wanted.find(home, "chest") == home / "runs" / "chest"
    assert wanted.find(home, str(home / "runs" / "chest")) == home / "runs" / "chest"


@pytest.mark.parametrize("name", ["", ".", "..", "../home", "nowhere", "runs/chest", "/etc", "chest/../../.."])
def test_no_other_name_leads_anywhere(home: Path, name: str) -> None:
    with pytest.raises(MisuseError, match="is no run"):
        wanted.find(home, name)


def test_a_glance_at_a_lock_neither_makes_nor_keeps_it(home: Path) -> None:
    run = home / "runs" / "chest"
    (run / "lock").unlink(missing_ok=True)
    assert not played(run)
    assert not (run / "lock").exists()
    with exclusive_lock(run / "lock", what="run"):
        assert played(run)
    assert not played(run)
    os.close(lock_file(run / "lock", what="run"))


def test_whoever_needs_a_lock_outwaits_a_glance_and_no_owner(home: Path) -> None:
    path = home / "lock"
    path.touch()
    glance = os.open(path, os.O_RDONLY)
    fcntl.flock(glance, fcntl.LOCK_SH)
    timer = threading.Timer(0.15, os.close, [glance])
    timer.start()
    descriptor = patiently(lambda: lock_file(path, what="the coordinator"))
    timer.join()
    assert held(path)
    with pytest.raises(BusyError):
        patiently(lambda: lock_file(path, what="the coordinator"), patience=0.1)
    os.close(descriptor)
