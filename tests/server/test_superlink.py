"""The server's own folder, and the token that Control asks for."""

import socket
import sqlite3

import pytest

from fedrad_server.superlink import flower
from fedrad_server.superlink.files import Ports, SuperLinkFiles
from fedrad_server.superlink.flower import TokenPlugin
from fedrad_server.superlink.serving import _listen_inside

# isort: split
from flwr.common.constant import ACCESS_TOKEN_KEY

from fedrad_common.errors import FedradError
from fedrad_common.files import write_json


@pytest.mark.parametrize(
    ("metadata", "let_in"),
    [
        ([], False),
        ([(ACCESS_TOKEN_KEY, "")], False),
        ([(ACCESS_TOKEN_KEY, "secre")], False),
        ([("other", "secret")], False),
        ([(ACCESS_TOKEN_KEY, "secret")], True),
        ([(ACCESS_TOKEN_KEY, b"secret")], True),
    ],
)
def test_control_is_for_whoever_has_the_token(metadata, let_in):
    allowed, account = TokenPlugin("secret").validate_tokens_in_metadata(metadata)

    assert (allowed, account is not None) == (let_in, let_in)


def test_an_empty_token_lets_nobody_in():
    assert TokenPlugin("").validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, "")]) == (False, None)


def test_token_and_secret_are_made_once_and_are_private(tmp_path):
    files = SuperLinkFiles(tmp_path / "superlink")
    files.prepare()
    before = (files.token, files.secret)
    files.prepare()

    assert (files.token, files.secret) == before
    assert len({*before}) == 2
    assert {(files.folder / name).stat().st_mode & 0o777 for name in ("token", "secret")} == {0o600}


def test_a_server_that_is_not_running_is_said_so(tmp_path):
    with pytest.raises(FedradError, match="not running") as error:
        _ = SuperLinkFiles(tmp_path).serving

    assert "fedrad-coordinator start" in error.value.hint


def test_the_former_ports_are_remembered(tmp_path):
    files = SuperLinkFiles(tmp_path)
    assert files.ports is None
    write_json(files.ports_file, {"format": "fedrad-superlink-1", "public": 5, "private": 6})

    assert files.ports == Ports(public=5, private=6)


@pytest.fixture
def files(tmp_path):
    made = SuperLinkFiles(tmp_path / "superlink")
    made.prepare()
    with sqlite3.connect(made.database) as database:
        database.execute("CREATE TABLE node (name TEXT)")
        database.executemany("INSERT INTO node VALUES (?)", [(f"{number}" * 100,) for number in range(1000)])
    database.close()
    return made


def test_a_database_without_damage_stays(files):
    before = files.database.stat().st_size
    flower._shrink(files)

    assert files.database.stat().st_size == before
    assert sorted(path.name for path in files.folder.iterdir()) == ["secret", "state.db", "token"]


@pytest.mark.parametrize("offset", [0, 8192])
def test_a_damaged_database_is_set_aside_and_the_server_starts_with_a_new_one(files, offset, capsys):
    for number in (1, 2):
        content = bytearray(files.database.read_bytes()) if files.database.exists() else bytearray(b"x" * 20_000)
        content[offset : offset + 5000] = b"x" * 5000
        files.database.write_bytes(content)
        flower._shrink(files)

        assert not files.database.exists()
        assert (files.folder / f"state.db.damaged-{number}").read_bytes() == content
        assert f"state.db.damaged-{number}" in capsys.readouterr().err


def test_nothing_of_a_damaged_database_is_applied_to_the_new_one(files):
    beside = [files.folder / f"state.db{suffix}" for suffix in ("-wal", "-shm", "-journal")]
    for path in beside:
        path.write_bytes(b"of the damaged one")
    flower._set_aside(files.database)

    assert not any(path.exists() for path in (files.database, *beside))
    assert (files.folder / "state.db.damaged-1-journal").exists()


def test_what_cannot_be_tidied_prevents_no_start(files, monkeypatch):
    """A full disk: giving room back needs room."""

    class Full:
        def execute(self, statement):
            raise sqlite3.OperationalError("database or disk is full")

        def close(self):
            pass

    monkeypatch.setattr(flower.sqlite3, "connect", lambda path: Full())
    flower._shrink(files)

    assert files.database.exists()


def test_the_private_port_may_change_when_another_program_took_the_former_one():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _listen_inside(port) as other:
            assert other.getsockname()[1] not in (0, port)
    with _listen_inside(port) as again:
        assert again.getsockname()[1] == port
