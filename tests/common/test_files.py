"""Files are whole or absent, and a disk that cannot take them is named."""

import errno
import os
from pathlib import Path

import pytest

from fedrad_common.errors import DiskError
from fedrad_common.files import disk_errors, lock_file, new_folder, write_atomic

TROUBLES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


def failing(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


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
