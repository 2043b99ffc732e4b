"""`doctor` names each trouble with its remedy, and `status` says what runs; both by the kernel's word, not by a stale file."""

import json
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from fakes.certificates import DAY, Authority
from fakes.coordinator import World, protocol, unsynced

from fedrad_common.cli import run_cli
from fedrad_common.files import exclusive_lock
from fedrad_server import authority, soundness, standing, wanted
from fedrad_server.authority import Institution
from fedrad_server.cli import app
from fedrad_server.coordinator_toml import Settings
from fedrad_server.home import Home
from fedrad_server.renewal import renew_certificate
from fedrad_server.standing import Check, examine

__all__ = ["unsynced"]  # a fixture that every test here uses

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


def found(home: Home, name: str, now: datetime = NOW) -> Check:
    return next(check for check in examine(home.directory, now) if check.name == name)


def test_a_coordinator_that_does_not_run_is_told_by_its_lock(home: Home) -> None:
    assert not found(home, "coordinator").ok
    with exclusive_lock(home.directory / "lock", what="the coordinator"):
        assert found(home, "coordinator").ok


def test_a_ready_file_that_a_killed_server_left_does_not_make_it_well(home: Home) -> None:
    from fedrad_server.superlink.health import serve_health

    assert found(home, "server").found == "is not listening"
    service, port = serve_health(lambda: True)
    ready = {"format": "fedrad-superlink-1", "public": 9, "private": 10, "health": port, "host": "127.0.0.1", "pid": 7}
    home.superlink.ready_file.write_text(json.dumps(ready))
    assert found(home, "server").ok
    service.stop(None).wait()
    assert not found(home, "server").ok
    assert "health unreachable" in found(home, "server").found


@pytest.mark.parametrize(("days", "ok"), [(0, True), (370, False), (400, False)])
def test_a_certificate_that_ends_is_named_a_month_before(home: Home, days: int, ok: bool) -> None:
    check = found(home, "certificate", NOW + timedelta(days=days))
    assert check.ok == ok
    assert "fedrad-coordinator renew" in check.remedy


def test_a_certificate_for_other_names_is_named(home: Home) -> None:
    settings = home.directory / "coordinator.toml"
    settings.write_text(settings.read_text().replace('"localhost"', '"fl.example.org"'))
    assert "fl.example.org refuse it: it does not hold this name" in found(home, "certificate").found


def test_a_certificate_of_the_institution_that_holds_a_whole_domain_is_well(tmp_path: Path) -> None:
    home = institutional(tmp_path, "*.example.org")
    assert found(home, "certificate").ok
    assert not [check for check in examine(home.directory, NOW) if check.name == "authority"]


def test_the_institutions_certificate_is_renewed_by_the_institution(tmp_path: Path) -> None:
    home = institutional(tmp_path, "*.example.org")
    check = found(home, "certificate", NOW + timedelta(days=80))
    assert (check.ok, "--certificate FILE --key FILE" in check.remedy) == (False, True)


def institutional(folder: Path, name: str) -> Home:
    root, chain, key = folder / "root.pem", folder / "chain.pem", folder / "server.key"
    authority = Authority.make("institution")
    root.write_bytes(authority.pem)
    made = authority.issue(folder, name, begins=-DAY, ends=90 * DAY)
    chain.write_bytes(made.read_bytes())
    key.write_bytes(made.read_bytes())
    return Home.create(folder / "home", Settings(hosts=("fl.example.org",)), institution=Institution(chain, key, root))


def kill_after(number: int, patch: pytest.MonkeyPatch) -> None:
    """The process ends after so many more files."""
    real, left = authority.write_atomic, [number]

    def write(*arguments: object, **options: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*arguments, **options)  # type: ignore[arg-type]

    patch.setattr(authority, "write_atomic", write)


@pytest.mark.parametrize(
    ("files", "new_authority", "failing", "said"),
    [
        (1, False, "certificate", "keys/server.key is not its key"),
        (1, True, "authority", "is not the key of authority.pem"),
        (2, True, "certificate", "is signed by an authority that is not believed"),
        (3, True, "certificate", "keys/server.key is not its key"),
    ],
)
def test_a_renewal_that_was_killed_is_named_and_the_remedy_heals_it(
    home: Home, files: int, new_authority: bool, failing: str, said: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_after(files, patch)
        with pytest.raises(KeyboardInterrupt):
            renew_certificate(home, new_authority=new_authority)
    failed = [check.name for check in examine(home.directory, datetime.now(UTC)) if not check.ok]
    assert failed == ["coordinator", "server", failing]
    check = found(home, failing)
    assert said in check.found
    assert f"fedrad-coordinator renew {home.directory}" in check.remedy

    renew_certificate(home, new_authority="--new-authority" in check.remedy)
    assert found(home, "certificate").ok
    assert found(home, "authority").ok


def test_a_new_authority_that_cannot_sign_for_the_hosts_is_not_written(home: Home) -> None:
    before = {path.name: path.read_bytes() for path in (home.directory / "keys").iterdir()}
    with pytest.raises(ValueError, match=r"IDNA|A-label|ascii"):
        authority.replace_authority(home.directory, ("klinikum-süd.example",), now=NOW)
    assert {path.name: path.read_bytes() for path in (home.directory / "keys").iterdir()} == before


def test_a_lost_key_of_the_authority_is_named_before_the_certificate_ends(home: Home) -> None:
    (home.directory / "keys/authority.key").unlink()
    assert found(home, "certificate").ok
    assert "--new-authority" in found(home, "authority").remedy


def test_a_key_with_a_passphrase_is_named_and_nobody_is_asked_for_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    key = serialization.load_pem_private_key((home.directory / "keys/server.key").read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (home.directory / "keys/server.key").write_bytes(content)
    given, real = list[object](), ssl.SSLContext.load_cert_chain

    def load(context: ssl.SSLContext, *arguments: object, password: object = None) -> None:
        given.append(password)  # without one, OpenSSL asks at the terminal
        real(context, *arguments, password="")  # type: ignore[arg-type]

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    assert "cannot be used" in found(home, "certificate").found
    assert given == [""]


def test_a_file_that_cannot_be_read_at_all_hides_nothing_either(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [check.name for check in examine(home.directory, NOW)]

    def broken(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(soundness, "read_certificate", broken)
    check = found(home, "certificate")
    assert (check.ok, check.found) == (False, "cannot be looked at (PermissionError)")
    assert [check.name for check in examine(home.directory, NOW)] == usual


@pytest.mark.parametrize(
    ("file", "content", "failing"),
    [
        ("coordinator.toml", b"nonsense", {"settings", "certificate"}),
        ("roster.json", b"{", {"sites"}),
        ("keys/coordinator.pub", None, {"keys"}),
        ("keys/coordinator.pub", b"\xff\xfe", {"keys"}),
        ("audit.chain", b"nonsense", {"audit log"}),
        ("audit.chain.mark", None, {"audit log"}),
        ("keys/server.pem", b"nonsense", {"certificate"}),
        ("keys/authority.pem", b"nonsense", {"certificate", "authority"}),
        ("superlink/ready.json", b"{", {"server"}),
    ],
)
def test_one_trouble_hides_no_other(home: Home, file: str, content: bytes | None, failing: set[str]) -> None:
    usual = {"coordinator", "server"}  # nothing runs here
    assert {check.name for check in examine(home.directory, datetime.now(UTC)) if not check.ok} == usual
    path = home.directory / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    checks = examine(home.directory, datetime.now(UTC))
    assert {check.name for check in checks if not check.ok} == usual | failing
    assert all(check.remedy for check in checks if not check.ok)
    assert {"disk", "owner", "keys"} <= {check.name for check in checks}


def test_a_clock_that_is_behind_the_log_is_named(home: Home) -> None:
    assert found(home, "clock", datetime.now(UTC)).ok
    check = found(home, "clock", datetime.now(UTC) - timedelta(hours=3))
    assert (check.ok, "180 min behind" in check.found) == (False, True)
    assert f"fedrad-coordinator audit accept-clock {home.directory}" in check.remedy


def test_a_home_of_another_account_and_files_of_another_are_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(home, "owner").ok
    with monkeypatch.context() as patch:
        patch.setattr(soundness, "_owner", lambda path: os.geteuid() + (path.name == "roster.json"))
        assert found(home, "owner").found == "belong to another account: roster.json"
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    check = found(home, "owner")
    assert (check.ok, "this is account 4711" in check.found, "sudo -u" in check.remedy) == (False, True, True)


def test_keys_that_others_may_read_are_named(home: Home) -> None:
    assert found(home, "keys").ok
    (home.directory / "keys" / "coordinator.key").chmod(0o644)
    assert found(home, "keys").found == "others may read coordinator.key"
    (home.directory / "keys" / "coordinator.key").write_text("nonsense")
    assert not found(home, "keys").ok


def test_a_disk_that_fills_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(home, "disk").ok
    monkeypatch.setattr(standing, "LEAST_FREE", 2**60)
    assert "free space" in found(home, "disk").remedy
    assert not found(home, "disk").ok


@pytest.mark.parametrize(("age", "ok", "said"), [(2, True, "2 s ago"), (400, False, "7 min ago"), (None, False, "never spoke")])
def test_a_site_is_well_while_it_speaks(home: Home, monkeypatch: pytest.MonkeyPatch, age: float | None, ok: bool, said: str) -> None:
    monkeypatch.setattr(Home, "roster", property(lambda self: {"north": "0" * 64}))
    sites = {} if age is None else {"north": NOW.timestamp() - age}
    (home.superlink.folder / "contacts.json").write_text(json.dumps({"format": "fedrad-contacts-1", "sites": sites}))
    check = found(home, "site north")
    assert (check.ok, said in check.found) == (ok, True)
    assert "fedrad-site doctor" in check.remedy


def test_a_run_that_was_set_aside_is_named_and_one_that_paused_is_not(home: Home) -> None:
    for name, reason in (("aside", "its player failed"), ("paused", "")):
        run = World(home.directory / "runs" / name)
        run.create(protocol()).close()
        wanted.write(run.directory, "paused", reason)
    named = {check.name: check for check in examine(home.directory, NOW) if check.name.startswith("run ")}
    assert list(named) == ["run aside"]
    assert "fedrad-coordinator resume" in named["run aside"].remedy


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            run_cli(app, "fedrad-coordinator", [str(argument) for argument in arguments])
        return int(end.value.code or 0), capsys.readouterr().out

    return call


def test_doctor_fails_when_something_is_wrong_and_says_what(home: Home, command: Callable[..., tuple[int, str]]) -> None:
    code, out = command("doctor", home.directory)
    assert code == 1
    assert f"FAIL  coordinator: does not run\n      remedy: start it: fedrad-coordinator start {home.directory}\n" in out
    value = json.loads(command("doctor", home.directory, "--json")[1])
    assert value["ok"] is False
    names = "coordinator, server, owner, settings, keys, certificate, authority, audit log, clock, disk"
    assert [check["check"] for check in value["checks"]] == names.split(", ")


def test_status_of_a_home_says_what_runs(home: Home, command: Callable[..., tuple[int, str]]) -> None:
    world = World(home.directory / "runs" / "echo")
    with exclusive_lock(home.directory / "lock", what="the coordinator"), world.create(protocol()):
        code, out = command("status", home.directory, "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["supervised"], value["server"], value["playing"], value["sites"]) == (True, None, "echo", [])
    assert "not running" in command("status", home.directory)[1]
