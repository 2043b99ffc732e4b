"""`fedrad-coordinator` as its user meets it."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, refusing, unsynced
from fakes.enrolment import Applicant
from fakes.roots import unreadable
from fakes.terminal import Keyboard, changes, on_disk

from fedrad_common.cli import run_cli
from fedrad_common.enrolment import SignedRequest, open_invitation, open_request, read_document
from fedrad_common.files import exclusive_lock, write_json
from fedrad_common.identity import PublicKey
from fedrad_common.records import Signed
from fedrad_server import liveness, wanted
from fedrad_server.cli import app
from fedrad_server.home import Home
from fedrad_server.lost_secrets import BACK_UP, PLACES, SECRETS, markdown

Run = Callable[..., tuple[int, str, str]]

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            run_cli(app, "fedrad-coordinator", [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return command


def test_init_makes_a_private_key_and_prints_the_public_one(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("init", tmp_path / "home")

    home = Home.open(tmp_path / "home")
    assert code == 0
    assert home.key.public.hex in out
    assert home.public == home.key.public
    assert (tmp_path / "home/keys/coordinator.key").stat().st_mode & 0o777 == 0o600


def test_init_never_overwrites(run: Run, tmp_path: Path) -> None:
    run("init", tmp_path / "home")
    before = Home.open(tmp_path / "home").public
    code, out, err = run("init", tmp_path / "home")
    assert (code, out) == (2, "")
    assert err.startswith("fedrad-coordinator: error: home: exists already\nfedrad-coordinator: hint: ")
    assert Home.open(tmp_path / "home").public == before


def test_init_for_hosts_listens_to_all_and_shows_no_private_key(run: Run, tmp_path: Path) -> None:
    options = ("--host", "fl.example.org", "--host", "192.0.2.1", "--address", "outside.example.org:443")
    code, out, _ = run("init", tmp_path / "home", *options, "--json")

    made, facts = Home.open(tmp_path / "home"), json.loads(out)
    assert code == 0
    assert (facts["listen"], facts["hosts"], facts["own_authority"]) == ("0.0.0.0:9092", ["fl.example.org", "192.0.2.1"], True)
    assert made.settings.seen_as(1) == "outside.example.org:443"
    assert "PRIVATE" not in out + run("init", tmp_path / "other")[1]


def test_init_says_what_to_back_up_and_what_to_do_when_a_key_is_lost_as_the_readme_does(run: Run, tmp_path: Path) -> None:
    out = run("init", tmp_path / "home")[1]

    assert "back up" in out
    assert [secret.file for secret in SECRETS if secret.file not in out or secret.lost not in out or secret.stolen not in out] == []
    readme = (Path(__file__).parents[2] / "server" / "README.md").read_text()
    assert markdown() in readme
    assert BACK_UP in out
    assert f"Back up {BACK_UP}." in readme


def test_a_home_made_of_what_init_says_to_back_up_is_whole(run: Run, tmp_path: Path) -> None:
    home, restored = tmp_path / "home", tmp_path / "restored"
    run("init", home)
    restored.mkdir(mode=0o700)
    for name in PLACES:
        (shutil.copytree if name.endswith("/") else shutil.copy)(home / name, restored / name)

    assert run("audit", "verify", restored)[0] == 0
    assert run("renew", restored)[0] == 0
    checks = json.loads(run("doctor", restored, "--json")[1])["checks"]
    assert {row["check"] for row in checks if not row["ok"]} == {"coordinator", "server"}, "it only does not run"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--host", "fl.example.org:9092"), "init: hosts.0: must be a host's name or address, without a port"),
        (("--listen", "nowhere"), "init: listen: must be HOST:PORT"),
        (("--certificate", "c.pem"), "missing option '--key'"),
        (("--key", "k.pem"), "missing option '--certificate'"),
        (("--certificate", "c.pem", "--key", "k.pem"), "--certificate: c.pem: no such file"),
    ],
)
def test_a_home_is_made_whole_or_not_at_all(run: Run, tmp_path: Path, options: tuple[str, ...], error: str) -> None:
    code, out, err = run("init", tmp_path / "home", *options)

    assert (code, out) == (2, "")
    assert f"fedrad-coordinator: error: {error}" in err
    assert list(tmp_path.iterdir()) == []


def test_renew_makes_a_new_server_certificate_for_the_hosts_in_the_settings(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("init", home)
    authority, toml = (home / "keys/authority.pem").read_bytes(), home / "coordinator.toml"
    toml.write_text(toml.read_text().replace('"localhost"', '"new.example.org"'))
    code, out, _ = run("renew", home, "--json")

    assert (code, json.loads(out)["hosts"]) == (0, ["new.example.org", "127.0.0.1"])
    assert (home / "keys/authority.pem").read_bytes() == authority
    assert (home / "keys/server.key").stat().st_mode & 0o777 == 0o600


def test_after_the_authoritys_key_is_lost_a_new_authority_is_made_when_told(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("init", home)
    authority = (home / "keys/authority.pem").read_bytes()
    (home / "keys/authority.key").unlink()
    code, _, err = run("renew", home)
    assert (code, "--new-authority" in err) == (2, True)

    code, out, _ = run("renew", home, "--new-authority")
    assert (code, "send each a new invitation" in out) == (0, True)
    assert (home / "keys/authority.pem").read_bytes() != authority


@pytest.fixture
def request_file(run: Run, tmp_path: Path) -> Path:
    """A home, an invitation and a request of `bergen` below tmp_path."""
    run("init", tmp_path / "home", "--host", "fl.example.org")
    run("invite", tmp_path / "home", "--out", tmp_path / "invitation.json")
    invited = open_invitation(read_document(tmp_path / "invitation.json", Signed, option="--invitation"))
    return Applicant("bergen").writes(tmp_path / "request.json", invited)


def words_of(path: Path) -> str:
    return " ".join(open_request(read_document(path, SignedRequest, option="REQUEST")).words)


def test_admit_with_the_words_lets_a_site_in(run: Run, tmp_path: Path, request_file: Path) -> None:
    code, out, _ = run("admit", tmp_path / "home", request_file, "--words", words_of(request_file).upper(), "--json")

    assert (code, json.loads(out)) == (0, {"renewed": False, "server_knows": False, "site": "bergen"})
    assert list(Home.open(tmp_path / "home").roster) == ["bergen"]


@pytest.mark.parametrize("words", ["abandon ability able about above absent", "yes", ""])
def test_other_words_admit_nobody(run: Run, tmp_path: Path, request_file: Path, words: str) -> None:
    code, out, err = run("admit", tmp_path / "home", request_file, "--words", words)

    assert (code, out) == (1, "")
    assert "the words differ: nothing was admitted" in err
    assert Home.open(tmp_path / "home").roster == {}


def test_without_words_and_terminal_nobody_is_admitted(run: Run, tmp_path: Path, request_file: Path) -> None:
    code, _, err = run("admit", tmp_path / "home", request_file)

    assert (code, "missing option '--words'" in err) == (2, True)
    assert Home.open(tmp_path / "home").roster == {}


@pytest.mark.parametrize(("typed", "admitted"), [("yes\n", True), ("no\n", False), ("the words\n", True)])
def test_on_a_terminal_a_person_sees_the_words_and_says_whether_they_match(
    run: Run, tmp_path: Path, request_file: Path, monkeypatch: pytest.MonkeyPatch, typed: str, admitted: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(typed.replace("the words", words_of(request_file))))
    code, _, err = run("admit", tmp_path / "home", request_file)

    assert words_of(request_file) in err
    assert (code, list(Home.open(tmp_path / "home").roster)) == ((0, ["bergen"]) if admitted else (1, []))


def test_revoke_wants_either_a_name_or_a_word(run: Run, tmp_path: Path, request_file: Path) -> None:
    run("admit", tmp_path / "home", request_file, "--words", words_of(request_file))
    for arguments in ((), ("bergen", "--leave", request_file)):
        assert run("revoke", tmp_path / "home", *arguments)[0] == 2
    code, out, _ = run("revoke", tmp_path / "home", "bergen")

    assert (code, out) == (0, "revoked bergen\n  the server is not running: Flower's node goes as soon as it runs\n")
    assert run("sites", tmp_path / "home")[1] == "no sites yet\n"


def test_sites_lists_names_key_ids_and_the_last_contact(run: Run, tmp_path: Path) -> None:
    bergen, cadiz = Applicant("bergen").member, Applicant("cadiz").member
    home = Home.create(tmp_path / "home")
    home.save_members({"bergen": bergen, "cadiz": cadiz})
    write_json(tmp_path / "home/superlink/contacts.json", {"format": "fedrad-contacts-1", "sites": {"bergen": time.time() - 60}})
    first, second = json.loads(run("sites", tmp_path / "home", "--json")[1])["sites"]

    key = PublicKey.from_hex(bergen.envelope).id
    assert (first["site"], first["key"], first["node"]) == ("bergen", key, bergen.node_key.id)
    assert 60 <= first["last_contact_seconds"] < 120
    assert (second["site"], second["last_contact_seconds"]) == ("cadiz", None)
    assert key[:16] in run("sites", tmp_path / "home")[1]


def test_a_folder_that_is_no_home_is_said_to_be_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("sites", tmp_path)
    assert code == 2
    assert "is no coordinator's home" in err


def test_status_tells_round_state_and_reason(run: Run, tmp_path: Path) -> None:
    world = World(tmp_path / "home" / "runs" / "echo")
    Home.create(tmp_path / "home")
    world.finish(protocol(quorum=3, retries=0), cadiz=refusing("policy"))

    code, out, _ = run("status", world.directory, "--json")
    value = json.loads(out)

    assert code == 0
    assert (value["state"], value["round"], value["rounds"], value["accepted"]) == ("paused", 0, 3, ["ankara", "bergen"])
    assert "2 of 3 needed updates" in run("status", world.directory)[1]
    assert "round 0 of 3  paused" in run("runs", tmp_path / "home")[1]


def test_replay_exits_with_zero_when_equal_and_one_when_not(run: Run, tmp_path: Path) -> None:
    world = World(tmp_path / "echo")
    world.finish(protocol(rounds=2))
    assert run("replay", world.directory)[:2] == (0, "equal: 2 rounds\n")

    (world.directory / "rounds/0002/updates/bergen.f32").write_bytes(bytes(48))
    code, out, _ = run("replay", world.directory, "--json")
    assert code == 1
    assert json.loads(out)["first_difference"] == 2


def test_one_damaged_run_does_not_hide_the_others(run: Run, tmp_path: Path) -> None:
    Home.create(tmp_path / "home")
    for name in ("first", "second"):
        World(tmp_path / "home" / "runs" / name).finish(protocol(rounds=1))
    (tmp_path / "home/runs/first/protocol.json").write_text("{}")
    code, out, _ = run("runs", tmp_path / "home")
    assert code == 0
    assert "damaged: protocol.toml" in out.splitlines()[0]
    assert "round 1 of 1  finished" in out.splitlines()[1]


def test_a_report_has_a_place_in_an_unfinished_run_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "echo")
    world.create(protocol()).close()
    monkeypatch.setattr("fedrad_server.report.write_report", lambda source, out: out.write_text("page"))

    assert run("report", world.directory)[0] == 0
    assert (world.directory / "result" / "report.html").read_text() == "page"
    code, _, err = run("report", world.directory, "--out", tmp_path / "nowhere" / "report.html")
    assert code == 2
    assert "nowhere: no such folder" in err


@pytest.mark.parametrize("verb", ["status", "replay", "report"])
def test_a_folder_that_is_no_run_is_the_users_mistake(run: Run, tmp_path: Path, verb: str) -> None:
    code, _, err = run(verb, tmp_path)
    assert code == 2
    assert "is no run" in err


@pytest.mark.parametrize(
    "verb",
    [
        "init",
        "renew",
        "invite",
        "admit",
        "revoke",
        "sites",
        "start",
        "doctor",
        "launch",
        "stop",
        "resume",
        "runs",
        "watch",
        "status",
        "replay",
        "report",
    ],
)
def test_every_command_shows_one_complete_example(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert out.count(f"Example: fedrad-coordinator {verb} ") == 1


def test_a_second_coordinator_on_the_same_home_is_told_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", tmp_path / "home")
    monkeypatch.setattr(liveness, "patiently", functools.partial(liveness.patiently, patience=0.1))
    with exclusive_lock(tmp_path / "home" / "lock", what="the coordinator"):
        code, out, err = run("start", tmp_path / "home")
    assert (code, out) == (1, "")
    assert err.startswith("fedrad-coordinator: error: the coordinator is in use by another process\nfedrad-coordinator: hint: ")


WRITING = [
    ["start", "HOME"],
    ["launch", "HOME", "PROTOCOL"],
    ["stop", "HOME", "echo"],
    ["resume", "HOME", "echo"],
    ["invite", "HOME", "--out", "OUT"],
    ["admit", "HOME", "REQUEST", "--words", "x"],
    ["revoke", "HOME", "bergen"],
    ["renew", "HOME"],
    ["audit", "checkpoint", "HOME", "--out", "OUT"],
    ["audit", "accept-clock", "HOME"],
    ["report", "RUN"],
]
READING = [
    ["doctor", "HOME"],
    ["runs", "HOME"],
    ["watch", "HOME", "--once"],
    ["status", "HOME"],
    ["sites", "HOME"],
    ["audit", "show", "HOME"],
]


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_another_account_even_root_writes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """What root writes, the coordinator's own account cannot read: it would stop answering the sites."""
    home = tmp_path / "home"
    run("init", home)
    World(home / "runs" / "echo").create(protocol()).close()
    before, owner = on_disk(tmp_path), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    places = {"HOME": home, "RUN": home / "runs" / "echo", "OUT": tmp_path / "out.json"}
    code, out, err = run(*(places.get(word, word) for word in command))
    assert (code, out) == (2, ""), err
    assert "belongs to another account" in err
    assert f"hint: run this as that account: sudo -u '#{owner}'" in err
    assert changes(before, on_disk(tmp_path)) == []


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_looking_is_for_everybody_who_may_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    home = tmp_path / "home"
    run("init", home)
    World(home / "runs" / "echo").create(protocol()).close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert "another account" not in run(*(home if word == "HOME" else word for word in command))[2]


def test_a_run_stands_the_same_way_wherever_it_is_shown(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("init", home)
    World(home / "runs" / "paused").finish(protocol(quorum=3), bergen=refusing("policy"), cadiz=refusing("policy"))
    World(home / "runs" / "done").finish(protocol(rounds=1))
    for name, wish in (("stopped", "stop"), ("waiting", "run"), ("open", None)):
        World(home / "runs" / name).create(protocol()).close()
        if wish:
            wanted.write(home / "runs" / name, wish)
    listed = {row["folder"]: row["state"] for row in json.loads(run("runs", home, "--json")[1])["runs"]}
    assert listed == {"done": "finished", "open": "open", "paused": "paused", "stopped": "stopped", "waiting": "waiting"}
    for name, state in listed.items():
        assert json.loads(run("watch", home, name, "--json")[1])["state"] == state
        assert json.loads(run("status", home / "runs" / name, "--json")[1])["state"] == state


def test_a_run_that_may_not_be_looked_into_hides_no_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    run("init", home)
    for name in ("echo", "roots"):
        World(home / "runs" / name).create(protocol()).close()
    unreadable(monkeypatch, home / "runs" / "roots")
    listed = {row["folder"]: row["state"] for row in json.loads(run("runs", home, "--json")[1])["runs"]}
    assert listed == {"echo": "open", "roots": "damaged"}
    assert run("watch", home, "--once")[0] == 0
    assert run("status", home)[0] == 0
    code, _, err = run("stop", home, "roots")
    assert (code, "Traceback" in err, "hint: " in err) == (1, False, True)


@pytest.mark.parametrize("verb", ["start", "doctor", "launch", "stop", "resume", "runs", "watch", "status", "replay", "report"])
def test_help_tells_the_exit_codes_and_that_programs_may_read_the_answer(run: Run, verb: str) -> None:
    out = " ".join(run(verb, "--help")[1].split())
    assert "Exit codes: 0 " in out
    assert "--json" in out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status", "RUN"], ["status", "HOME"], ["sites", "HOME"], ["runs", "HOME"], ["replay", "RUN"]]
)
def test_light_commands_load_no_heavy_library(tmp_path: Path, arguments: list[str]) -> None:
    world = World(tmp_path / "run")
    world.finish(protocol(rounds=1))
    Home.create(tmp_path / "home")
    places = {"RUN": str(tmp_path / "run"), "HOME": str(tmp_path / "home")}
    heavy = {"torch", "opacus", "flwr", "ray", "pydicom", "sklearn", "plotly"}
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print({heavy} & set(sys.modules), file=sys.stderr))\n"
        "from fedrad_server.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, *(places.get(argument, argument) for argument in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "set()\n")
