"""A hospital enrols: from the coordinator's invitation to its request and the words, new node keys, and the way out."""

import json
import stat
from pathlib import Path

import pytest
from conftest import protocol_text
from fakes.enrolment import invitation
from fakes.terminal import Keyboard, Terminal, on_disk

from fedrad_client.cli.questions import delta_for, most
from fedrad_client.enrolment import current
from fedrad_client.node.key import node_key
from fedrad_client.recovery import recover
from fedrad_client.site import Home, open_site
from fedrad_common.chain import read
from fedrad_common.enrolment import Leave, OpenedInvitation, SignedRequest, open_request, read_document
from fedrad_common.identity import NodePublicKey, SigningKey
from fedrad_common.records import Signed
from fedrad_server.authority import authority_text
from fedrad_server.home import Home as CoordinatorHome

SITE, COORDINATOR = "fedrad-site", "fedrad-coordinator"


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capsys)


@pytest.fixture
def invited(tmp_path: Path, coordinator: SigningKey) -> Path:
    return write(tmp_path / "invitation.json", invitation(coordinator))


def write(path: Path, opened: OpenedInvitation) -> Path:
    path.write_bytes(opened.document + b"\n")
    return path


@pytest.fixture
def home(terminal: Terminal, invited: Path) -> Path:
    """An enrolled site."""
    terminal.do(SITE, "init", "--invitation", invited, "--name", "north", "-n", 500, "--home", terminal.folder / "north")
    return terminal.folder / "north"


def requested(home: Path) -> SignedRequest:
    return read_document(home / "enrolment/request.json", SignedRequest, option="REQUEST")


def test_init_with_an_invitation_knows_the_coordinator_and_asks_to_be_let_in(home: Path, coordinator: SigningKey) -> None:
    request, site = open_request(requested(home)), Home(home)

    assert site.coordinator == coordinator.public
    assert site.config.coordinator.server == "fl.example.org:9092"
    assert request.content.name == "north"
    assert request.content.envelope == site.envelope_key.public.hex
    assert request.node.pem.encode() == (home / "keys/node.pub").read_bytes()


def test_the_authority_that_the_invitation_brings_is_the_only_one_believed(terminal: Terminal) -> None:
    terminal.do(COORDINATOR, "init", terminal.folder / "coordinator", "--host", "fl.example.org")
    terminal.do(COORDINATOR, "invite", terminal.folder / "coordinator", "--out", terminal.folder / "invitation.json")
    home = terminal.folder / "north"
    terminal.do(SITE, "init", "--invitation", terminal.folder / "invitation.json", "--name", "north", "--home", home)

    assert (home / Home(home).config.coordinator.authority).read_text() == authority_text(terminal.folder / "coordinator")


def test_without_an_authority_in_the_invitation_this_machines_own_list_decides(home: Path) -> None:
    assert Home(home).config.coordinator.authority == ""
    assert not (home / "keys/authority.pem").exists()


def test_keys_are_for_their_owner_only_and_none_is_printed_or_sent(terminal: Terminal, home: Path) -> None:
    terminal.do(SITE, "request", "--home", home)
    secret = [home / "keys" / name for name in ("envelope.key", "node.key", "pseudonym.key")]

    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert {stat.S_IMODE((home / name).stat().st_mode) for name in (".", "keys", "enrolment")} == {0o700}
    shown = "".join(said.out + said.err for said in terminal.said) + (home / "enrolment/request.json").read_text()
    bodies = [line for path in secret for line in path.read_text().splitlines() if not line.startswith("-----")]
    assert [body for body in bodies if body in shown] == []


def test_request_shows_the_same_words_again(terminal: Terminal, home: Path) -> None:
    first = terminal.said[-1].out
    shown = json.loads(terminal.do(SITE, "request", "--home", home, "--json").out)

    assert shown["words"] == " ".join(open_request(requested(home)).words)
    assert shown["words"] in first
    assert len(shown["words"].split()) == 6


def test_after_a_recovery_the_request_is_of_the_new_identity(home: Path) -> None:
    former = current(Home(home))
    recover(Home(home), new_ceiling=None)
    made = current(Home(home))

    assert made.request.content.envelope == Home(home).envelope_key.public.hex != former.request.content.envelope
    assert made.request.node != former.request.node, "the coordinator retires the old one"
    assert made.words != former.words
    assert current(Home(home)).words == made.words


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        ((), 2, "missing option '--invitation'"),
        (("--invitation", "nowhere.json"), 2, "--invitation: nowhere.json: no such file"),
        (("--invitation", "changed.json"), 1, "invitation: the signature does not fit"),
        (("--invitation", "text.json"), 1, "text.json: document: "),
        (("--invitation", "invitation.json", "--coordinator", "other.pub"), 2, "--coordinator: is another key than the invitation's"),
        (("--invitation", "invitation.json", "--local"), 2, "init: --local and --invitation exclude each other"),
        (("--invitation", "invitation.json", "-n", "500", "--delta", "1e-3"), 2, "--delta: 0.001 is above 1 / (10 × 500)"),
        (("--invitation", "invitation.json", "-n", "0"), 2, "invalid value for '--declared-size'"),
        (("--invitation", "invitation.json", "--name", "no/slash"), 2, "site.toml: site.name: "),
    ],
)
def test_a_site_is_made_whole_or_not_at_all(terminal: Terminal, invited: Path, options: tuple[str, ...], code: int, error: str) -> None:
    (terminal.folder / "changed.json").write_bytes(invited.read_bytes().replace(b"fl.example.org", b"fl.example.com"))
    (terminal.folder / "text.json").write_text("hello")
    (terminal.folder / "other.pub").write_text(SigningKey.generate().public.hex)
    placed = [terminal.folder / option if option.endswith((".json", ".pub")) else option for option in options]
    said = terminal.fail(SITE, "init", "--name", "north", "--home", terminal.folder / "new", *placed, code=code, hint=False)

    assert said.error.startswith(error)


def test_an_invitation_of_the_key_that_is_expected_is_taken(terminal: Terminal, invited: Path, coordinator: SigningKey) -> None:
    (terminal.folder / "coordinator.pub").write_text(coordinator.public.hex)
    expected = ("--coordinator", terminal.folder / "coordinator.pub", "--home", terminal.folder / "north")
    terminal.do(SITE, "init", "--invitation", invited, "--name", "north", *expected)

    assert Home(terminal.folder / "north").coordinator == coordinator.public


def test_a_disk_that_fails_while_enrolling_leaves_nothing(terminal: Terminal, invited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("fedrad_client.enrolment._write_request", full)
    said = terminal.fail(SITE, "init", "--invitation", invited, "--name", "north", "--home", terminal.folder / "new", code=1)

    assert said.error == "new: no space left on the disk"


def test_a_second_init_changes_no_key(terminal: Terminal, home: Path, invited: Path) -> None:
    terminal.fail(SITE, "init", "--invitation", invited, "--name", "north", "--home", home)


def test_on_a_terminal_init_asks_for_what_is_missing(terminal: Terminal, invited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard(f"north\n{invited}\n300\n6\n"))
    terminal.do(SITE, "init", "--home", terminal.folder / "north", "--json")
    config = Home(terminal.folder / "north").config

    assert (config.site.name, config.privacy.epsilon, config.privacy.delta) == ("north", 6.0, 3e-4)
    assert json.loads(terminal.said[-1].out)["site"] == "north", "questions go to stderr"


def test_a_large_epsilon_is_asked_for_twice(terminal: Terminal, invited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Keyboard("300\n50\nn\n"))
    said = terminal.type(SITE, "init", "--invitation", invited, "--name", "north", "--home", terminal.folder / "new")
    assert said.code == 1
    assert "not confirmed: nothing was made" in said.err
    assert not (terminal.folder / "new").exists()

    monkeypatch.setattr("sys.stdin", Keyboard("300\n50\ny\n"))
    terminal.do(SITE, "init", "--invitation", invited, "--name", "north", "--home", terminal.folder / "new")
    assert Home(terminal.folder / "new").config.privacy.epsilon == 50


@pytest.mark.parametrize(
    ("declared_size", "delta"), [(1, 0.1), (500, 2e-4), (300, 3e-4), (700, 1e-4), (1000, 1e-4), (1001, 9e-5), (10_000, 1e-5)]
)
def test_delta_is_one_digit_and_at_most_a_tenth_of_one_patient(declared_size: int, delta: float) -> None:
    assert delta_for(declared_size) == delta
    assert delta <= 1 / (10 * declared_size) * (1 + 1e-12)
    assert most(delta) >= declared_size


def test_a_local_site_has_nothing_to_request(terminal: Terminal) -> None:
    home = terminal.folder / "local"
    terminal.do(SITE, "init", "--local", "--name", "north", "--home", home)

    assert not (home / "enrolment").exists()
    assert "was made with --local" in terminal.fail(SITE, "request", "--home", home).error


# ── with a coordinator ──


@pytest.fixture
def admitted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site that its coordinator, in `coordinator`, has let in."""
    folder, home = terminal.folder, terminal.folder / "north"
    monkeypatch.chdir(folder)
    terminal.do(COORDINATOR, "init", "coordinator", "--host", "fl.example.org")
    terminal.do(COORDINATOR, "invite", "coordinator")
    terminal.do(SITE, "init", "--invitation", "invitation.json", "--name", "north", "--home", home)
    words = json.loads(terminal.do(SITE, "request", "--home", home, "--json").out)["words"]
    terminal.do(COORDINATOR, "admit", "coordinator", home / "enrolment/request.json", "--words", words)
    return home


def roster(terminal: Terminal) -> CoordinatorHome:
    return CoordinatorHome.open(terminal.folder / "coordinator")


def test_what_the_site_reads_out_is_what_the_coordinator_hears(terminal: Terminal, admitted: Path) -> None:
    member = roster(terminal).members["north"]

    assert member.envelope == Home(admitted).envelope_key.public.hex
    assert member.node.encode() == (admitted / "keys/node.pub").read_bytes()


def test_a_renewed_node_key_is_admitted_without_words_and_the_ledger_stays(terminal: Terminal, admitted: Path) -> None:
    before, ledger = node_key(admitted), (admitted / "ledger.chain").read_bytes()
    terminal.do(SITE, "renew", "--home", admitted)
    terminal.do(COORDINATOR, "admit", "coordinator", admitted / "enrolment/request.json")

    after = NodePublicKey(node_key(admitted).public_key())
    assert after != NodePublicKey(before.public_key())
    assert roster(terminal).members["north"].node_key == after
    assert (admitted / "ledger.chain").read_bytes() == ledger
    assert read(admitted / "audit.chain", "audit")[-1].type == "renew"


def test_after_a_lost_ledger_a_site_is_revoked_and_let_in_anew_by_words(terminal: Terminal, admitted: Path) -> None:
    recover(Home(admitted), new_ceiling=None)
    words = json.loads(terminal.do(SITE, "request", "--home", admitted, "--json").out)["words"]
    again = ("admit", "coordinator", admitted / "enrolment/request.json", "--words", words)
    assert "with another envelope key" in terminal.fail(COORDINATOR, *again).error
    terminal.do(COORDINATOR, "revoke", "coordinator", "north")
    terminal.do(COORDINATOR, *again)

    assert roster(terminal).roster == {"north": Home(admitted).envelope_key.public.hex}


def test_a_new_authority_reaches_a_site_by_the_known_coordinators_invitation(terminal: Terminal, admitted: Path) -> None:
    terminal.do(COORDINATOR, "renew", "coordinator", "--new-authority")
    terminal.do(COORDINATOR, "invite", "coordinator", "--force")
    terminal.do(SITE, "renew", "--invitation", "invitation.json", "--home", admitted)

    assert (admitted / "keys/authority.pem").read_text() == authority_text(terminal.folder / "coordinator")


def test_a_lost_node_key_is_made_anew_by_request_and_the_audit_log_says_so(terminal: Terminal, admitted: Path) -> None:
    (admitted / "keys/node.key").unlink()
    terminal.do(SITE, "request", "--home", admitted)
    terminal.do(SITE, "request", "--home", admitted)
    noted = [entry for entry in read(admitted / "audit.chain", "audit") if entry.type == "renew"]

    assert [entry.body["node"] for entry in noted] == [open_request(requested(admitted)).node.id]


def test_a_request_that_is_shown_again_notes_nothing(terminal: Terminal, admitted: Path) -> None:
    (admitted / "enrolment/request.json").unlink()
    terminal.do(SITE, "request", "--home", admitted)

    assert [entry.type for entry in read(admitted / "audit.chain", "audit")] == ["open"]


def test_the_node_key_of_a_new_identity_is_noted(home: Path) -> None:
    recover(Home(home), new_ceiling=None)
    made = current(Home(home))

    assert read(home / "audit.chain", "audit")[-1].body["node"] == made.request.node.id


def test_an_enrolled_site_shows_no_node_key_that_nobody_knows(terminal: Terminal, admitted: Path) -> None:
    (admitted / "keys/node.key").unlink()
    said = terminal.fail(SITE, "start", "--show-keys", "--home", admitted)

    assert said.error == "keys/node.key: is missing"
    assert "fedrad-site renew" in said.hint


@pytest.mark.parametrize("content", [None, "not what it was"])
def test_a_lost_coordinators_key_comes_back_with_a_newer_invitation(terminal: Terminal, admitted: Path, content: str | None) -> None:
    """The invitation that is kept says whose site it is: the way that docs/deployment.md names."""
    lost, before = admitted / "keys/coordinator.pub", (admitted / "keys/coordinator.pub").read_text()
    lost.unlink() if content is None else lost.write_text(content)
    other = write(terminal.folder / "other.json", invitation(SigningKey.generate()))

    assert "is another coordinator's" in terminal.fail(SITE, "renew", "--invitation", other, "--home", admitted).error
    assert "renew --invitation" in terminal.fail(SITE, "renew", "--home", admitted, code=1).hint
    terminal.do(COORDINATOR, "invite", "coordinator", "--force")
    terminal.do(SITE, "renew", "--invitation", "invitation.json", "--home", admitted)

    assert lost.read_text() == before
    terminal.do(COORDINATOR, "admit", "coordinator", admitted / "enrolment/request.json")


def test_a_kept_invitation_that_was_changed_vouches_for_nobody(terminal: Terminal, admitted: Path) -> None:
    (admitted / "keys/coordinator.pub").unlink()
    real, other = Home(admitted).path / "enrolment/invitation.json", SigningKey.generate()
    known = json.loads(json.loads(real.read_text())["body"])["coordinator"]
    real.write_text(real.read_text().replace(known, other.public.hex))
    write(terminal.folder / "other.json", invitation(other))

    terminal.fail(SITE, "renew", "--invitation", "other.json", "--home", admitted, code=1)


def test_without_key_and_invitation_nothing_says_whose_site_it_is(terminal: Terminal, admitted: Path) -> None:
    for name in ("keys/coordinator.pub", "enrolment/invitation.json"):
        (admitted / name).unlink()

    assert "whose site this is" in terminal.fail(SITE, "renew", "--invitation", "invitation.json", "--home", admitted).error


def test_a_site_that_lost_its_coordinators_key_can_leave(terminal: Terminal, admitted: Path) -> None:
    (admitted / "keys/coordinator.pub").unlink()
    terminal.do(SITE, "leave", "--yes", "--home", admitted)

    assert Home(admitted).left
    terminal.do(COORDINATOR, "revoke", "coordinator", "--leave", admitted / "enrolment/leave.json")


def test_another_coordinators_invitation_changes_nothing(terminal: Terminal, admitted: Path) -> None:
    other = write(terminal.folder / "other.json", invitation(SigningKey.generate()))

    assert "is another coordinator's" in terminal.fail(SITE, "renew", "--invitation", other, "--home", admitted).error


def test_a_site_that_leaves_answers_nothing_and_its_word_takes_it_off_the_roster(terminal: Terminal, admitted: Path, write_cohort) -> None:
    write_cohort(admitted / "cohort")
    toml = admitted / "site.toml"
    toml.write_text(toml.read_text().replace('tasks = ["classification"]', 'tasks = ["echo"]'))
    (terminal.folder / "tiny.toml").write_bytes(protocol_text())
    terminal.do(SITE, "approve", "tiny.toml", "--declared-size", 60, "--home", admitted)
    ledger = (admitted / "ledger.chain").read_bytes()
    terminal.do(SITE, "leave", "--yes", "--home", admitted)

    site = Home(admitted)
    assert (site.left, site.paused, site.approvals) == (True, True, [])
    assert (admitted / "ledger.chain").read_bytes() == ledger
    assert json.loads(terminal.do(SITE, "status", "--json", "--home", admitted).out)["state"] == "left"
    assert terminal.fail(SITE, "resume", "--home", admitted, code=1).error == "this site has left"
    (admitted / "paused").unlink()
    assert site.paused, "the mark itself is enough"
    assert [entry.type for entry in read(admitted / "audit.chain", "audit")][-2:] == ["withdraw-approval", "leave"]

    terminal.do(COORDINATOR, "revoke", "coordinator", "--leave", admitted / "enrolment/leave.json")
    assert roster(terminal).members == {}


def test_leaving_wants_a_persons_yes(terminal: Terminal, admitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.fail(SITE, "leave", "--home", admitted).error == "missing option '--yes'"
    before = on_disk(admitted)
    monkeypatch.setattr("sys.stdin", Keyboard("n\n"))

    assert terminal.type(SITE, "leave", "--home", admitted).code == 1
    assert on_disk(admitted) == before


def test_a_site_that_cannot_finish_leaving_is_paused_at_least(terminal: Terminal, admitted: Path) -> None:
    with open_site(admitted):
        assert terminal.type(SITE, "leave", "--yes", "--home", admitted).code == 1
    assert Home(admitted).paused
    assert not Home(admitted).left

    terminal.do(SITE, "leave", "--yes", "--home", admitted)
    word = read_document(admitted / "enrolment/leave.json", Signed, option="--leave")
    assert word.open(Leave, Home(admitted).envelope_key.public, what="leave.json").site == "north"


def test_a_site_that_has_left_comes_back_with_its_old_ledger_and_new_words(terminal: Terminal, admitted: Path) -> None:
    ledger = (admitted / "ledger.chain").read_bytes()
    terminal.do(SITE, "leave", "--yes", "--home", admitted)
    terminal.do(COORDINATOR, "revoke", "coordinator", "--leave", admitted / "enrolment/leave.json")
    assert terminal.fail(SITE, "renew", "--home", admitted).error == "missing option '--invitation'"
    other = SigningKey.generate()
    write(terminal.folder / "other.json", invitation(other))
    shown = json.loads(terminal.do(SITE, "renew", "--invitation", "other.json", "--home", admitted, "--json").out)

    assert shown["words"] == " ".join(open_request(requested(admitted)).words)
    assert Home(admitted).coordinator == other.public
    assert (admitted / "ledger.chain").read_bytes() == ledger
    terminal.do(SITE, "resume", "--home", admitted)
    assert not Home(admitted).paused
