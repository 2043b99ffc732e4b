"""Files are whole or absent, and a disk that cannot take them is named."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrad_common.errors import DiskError, MisuseError
from fedrad_common.files import check_target, disk_errors, lock_file, new_folder, write_atomic

TROUBLES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


def failing(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def account() -> Iterator[Path]:
    """A folder as an account without root's rights sees it: one in it is read-only, one is shut."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "there").touch()
        for inner, mode in (("folder", 0o777), ("closed", 0o555), ("shut", 0o000)):
            (folder / inner).mkdir()
            (folder / inner).chmod(mode)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            (folder / "shut").chmod(0o777)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("number", TROUBLES)
@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_a_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int) -> None:
    path = tmp_path / "kept"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, failing(number))
        with pytest.raises(DiskError, match=r"^kept: ") as caught:
            write_atomic(path, b"new")

    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


@pytest.mark.parametrize(
    ("name", "force", "said"),
    [
        ("there", False, "--out: there: exists already"),
        ("folder", True, "--out: folder: exists already, and is no file"),
        ("missing/new", True, "--out: new: there is no such folder"),
        ("there/new", True, "--out: new: there is no such folder"),
        ("closed/new", True, "--out: new: its folder cannot be written to"),
        ("shut/new", True, "--out: new: cannot be looked at (PermissionError)"),
        ("n" * 300, True, "(OSError)"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_done(account: Path, name: str, force: bool, said: str) -> None:
    with pytest.raises(MisuseError) as refused:
        check_target(account / name, option="--out", force=force)

    assert said in str(refused.value)
    assert str(account) not in str(refused.value)
    assert refused.value.hint


def test_a_new_file_and_one_that_may_be_overwritten_are_allowed(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(account / "folder")

    check_target(account / "folder" / "new", option="--out", force=False)
    check_target(account / "there", option="--out", force=True)
    check_target(Path("new"), option="--out", force=False)


def test_a_folder_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "made") as folder:
            (folder / "file").write_bytes(b"x")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EROFS))
        with pytest.raises(DiskError, match="made: the file system is read-only"):
            fill()
    assert names(tmp_path) == []
    fill()
    assert names(tmp_path / "made") == ["file"]


def test_a_lock_on_a_read_only_file_system_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EROFS))

    with pytest.raises(DiskError, match=r"^a.lock: the file system is read-only"):
        lock_file(tmp_path / "a.lock", what="a")


def test_an_error_that_is_not_the_disks_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
