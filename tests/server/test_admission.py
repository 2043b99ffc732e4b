"""Admitting and revoking a site: a request whose every part fits or nothing, and Flower's nodes follow the roster."""

import json
from dataclasses import dataclass, field

import pytest
from fakes.enrolment import Applicant, invitation

from fedrad_common.chain import read
from fedrad_common.enrolment import Invitation, Leave, OpenedInvitation, document, open_invitation, open_request, read_document
from fedrad_common.errors import BusyError, FedradError, FormatError, MisuseError
from fedrad_common.files import exclusive_lock, write_json
from fedrad_common.identity import SigningKey
from fedrad_common.records import Signed, sign
from fedrad_server import admission
from fedrad_server import control as control_module
from fedrad_server.admission import admit, bring_into_line, examine, invite, leaving, moved, revoke
from fedrad_server.coordinator_toml import Settings
from fedrad_server.home import Home


@dataclass(frozen=True)
class Node:
    name: str
    number: int
    public_key: bytes


@dataclass
class FakeControl:
    """Flower's server: never takes a key twice."""

    there: list[Node] = field(default_factory=list)
    ever: list[bytes] = field(default_factory=list)
    down: bool = False

    def __enter__(self):
        if self.down:
            raise FedradError("the coordinator's server is not running")
        return self

    def __exit__(self, *_):
        return None

    def nodes(self):
        return list(self.there)

    def register(self, name, public_key):
        assert public_key not in self.ever
        self.ever.append(public_key)
        self.there.append(Node(name, len(self.ever), public_key))
        return len(self.ever)

    def remove(self, number):
        self.there = [node for node in self.there if node.number != number]

    @property
    def keys(self):
        return {node.name: node.public_key.decode() for node in self.there}


@pytest.fixture
def home(tmp_path):
    made = Home.create(tmp_path / "coordinator", Settings(listen="127.0.0.1:9092", hosts=("fl.example.org",)))
    made.superlink.ready_file.touch()
    return made


@pytest.fixture
def control(monkeypatch):
    fake = FakeControl()
    monkeypatch.setattr(control_module.Control, "open", lambda files: fake)
    return fake


@pytest.fixture
def invited(home, tmp_path) -> OpenedInvitation:
    invite(home, tmp_path / "invitation.json", version="1")
    return open_invitation(read_document(tmp_path / "invitation.json", Signed, option="--invitation"))


@pytest.fixture
def let_in(home, tmp_path, invited, control):
    """Admit an applicant, as `admit` does once the words were compared."""

    def go(applicant, *, by=None):
        return admit(home, examine(home, applicant.writes(tmp_path / f"{applicant.name}.json", by or invited)))

    return go


def test_an_invitation_holds_the_coordinators_key_address_and_authority_and_no_secret(home, invited, tmp_path):
    content = invited.content

    assert (content.coordinator, content.address) == (home.public.hex, "fl.example.org:9092")
    assert content.authority == (home.directory / "keys/authority.pem").read_text()
    assert b"PRIVATE" not in (tmp_path / "invitation.json").read_bytes()


def test_an_invitation_overwrites_nothing_but_an_older_one_and_that_only_when_told(home, tmp_path, invited):
    with pytest.raises(MisuseError, match="exists already"):
        invite(home, tmp_path / "invitation.json", version="1")
    invite(home, tmp_path / "invitation.json", version="2", force=True)

    key = home.directory / "keys/coordinator.key"
    before = key.read_bytes()
    with pytest.raises(MisuseError, match="exists already"):
        invite(home, key, version="1", force=True)
    assert key.read_bytes() == before


def test_with_a_free_port_the_address_is_known_once_the_server_was_started(tmp_path):
    home = Home.create(tmp_path / "local")
    with pytest.raises(MisuseError, match="the server was never started"):
        invite(home, tmp_path / "invitation.json", version="1")
    assert not (tmp_path / "invitation.json").exists()

    write_json(home.superlink.ports_file, {"format": "fedrad-superlink-1", "public": 4711, "private": 4712})
    assert invite(home, tmp_path / "invitation.json", version="1").address == "localhost:4711"


def test_an_admitted_site_may_connect_and_is_on_the_roster(home, control, let_in):
    north = Applicant("north")
    assert let_in(north) == ""

    assert control.keys == {"north": north.pem}
    assert home.roster == {"north": north.envelope.public.hex}
    assert home.members["north"].node == north.pem


def test_adding_a_hospital_touches_no_other(home, control, let_in, tmp_path):
    north, south = Applicant("north"), Applicant("south")
    let_in(north)
    member, node = json.loads((home.directory / "roster.json").read_text())["sites"]["north"], control.there[0]
    let_in(south)

    assert json.loads((home.directory / "roster.json").read_text())["sites"]["north"] == member
    assert control.there[0] is node


@pytest.mark.parametrize("server", ["never started", "died"])
def test_without_the_server_a_site_is_admitted_all_the_same_and_registered_at_the_next_start(home, control, let_in, server):
    control.down = True
    if server == "never started":
        home.superlink.ready_file.unlink()
    north = Applicant("north")

    assert "not running" in let_in(north)
    assert list(home.roster) == ["north"]
    assert bring_into_line(home, control) == (["north"], [])
    assert control.keys == {"north": north.pem}
    assert bring_into_line(home, control) == ([], [])


def test_nodes_that_are_not_on_the_roster_are_put_out_when_the_server_starts(home, control, let_in):
    north = Applicant("north")
    let_in(north)
    control.register("stranger", b"stranger")
    control.register("north", b"a second node of this name")

    assert bring_into_line(home, control) == ([], ["north", "stranger"])
    assert control.keys == {"north": north.pem}


def test_a_revoked_site_is_off_the_roster_before_the_server_is_asked(home, control, let_in):
    let_in(Applicant("north"))
    control.down = True

    assert "not running" in revoke(home, "north")
    assert home.members == {}
    assert bring_into_line(home, control) == ([], ["north"])


def test_nobody_revokes_an_unknown_site(home):
    with pytest.raises(MisuseError, match="no site of this name"):
        revoke(home, "nowhere")


def test_a_revoked_site_comes_back_with_a_new_node_key_only(home, let_in):
    north = Applicant("north")
    let_in(north)
    revoke(home, "north")

    with pytest.raises(MisuseError, match="none comes back"):
        let_in(north)
    let_in(Applicant("north", north.envelope))
    assert list(home.roster) == ["north"]


def test_a_known_site_gets_its_next_node_key_without_words(home, control, let_in, tmp_path, invited):
    north = Applicant("north")
    let_in(north)
    renewed = Applicant("north", north.envelope)
    application = examine(home, renewed.writes(tmp_path / "renewal.json", invited))

    assert application.renewal
    admit(home, application)
    assert control.keys == {"north": renewed.pem}
    assert home.members["north"].node == renewed.pem


def test_an_old_request_never_brings_an_old_key_back(home, let_in):
    north = Applicant("north")
    let_in(north)
    let_in(Applicant("north", north.envelope))

    with pytest.raises(MisuseError, match="none comes back"):
        let_in(north)


def test_a_renewal_that_was_left_lying_never_replaces_a_newer_one(home, let_in):
    """Whoever kept it, and that key, would take the site's place without a word."""
    north = Applicant("north")
    let_in(north)
    forgotten, newer = (Applicant("north", north.envelope) for _ in range(2))
    let_in(newer)

    with pytest.raises(MisuseError, match="not newer than the one that was admitted last") as refused:
        let_in(forgotten)
    assert "fedrad-site renew" in refused.value.hint
    assert home.members["north"].node == newer.pem


@pytest.mark.parametrize("created", ["", "soon", "9999-01-01", "9999-01-01T00:00:00", "2026-02-03T04:05:06+00:00"])
def test_a_renewal_of_no_time_or_of_the_same_one_is_refused(home, let_in, created):
    north = Applicant("north", created="2026-02-03T04:05:06+00:00")
    let_in(north)
    renewed = Applicant("north", north.envelope, created=created or " ")

    with pytest.raises(MisuseError, match="not newer"):
        let_in(renewed)


def test_a_member_of_a_roster_without_times_is_renewed(home, let_in):
    north = Applicant("north")
    let_in(north)
    roster = json.loads((home.directory / "roster.json").read_text())
    del roster["sites"]["north"]["created"]
    (home.directory / "roster.json").write_text(json.dumps(roster))
    renewed = Applicant("north", north.envelope)
    let_in(renewed)

    assert (home.members["north"].node, home.members["north"].created) == (renewed.pem, renewed.created)


def test_a_site_whose_clock_was_ahead_comes_back_as_a_new_one_would(home, let_in):
    north = Applicant("north", created="2099-01-01T00:00:00+00:00")
    let_in(north)
    revoke(home, "north")

    let_in(Applicant("north", north.envelope))
    assert list(home.roster) == ["north"]


def test_a_new_node_key_for_a_known_name_needs_the_known_envelope_key(home, let_in):
    north = Applicant("north")
    let_in(north)

    with pytest.raises(MisuseError, match="with another envelope key"):
        let_in(Applicant("north"))
    assert (home.members["north"].envelope, home.members["north"].node) == (north.envelope.public.hex, north.pem)


@pytest.mark.parametrize("taken", ["both keys", "envelope key", "node key"])
def test_a_taken_key_lets_nobody_in(home, let_in, taken):
    north = Applicant("north")
    let_in(north)
    clone = {
        "both keys": Applicant("south", north.envelope, north.node),
        "envelope key": Applicant("south", north.envelope),
        "node key": Applicant("south", node=north.node),
    }[taken]

    with pytest.raises(MisuseError, match=r"another site has this envelope key|this node key was admitted before"):
        let_in(clone)
    assert list(home.roster) == ["north"]


def test_the_same_request_twice_is_no_second_site(let_in):
    north = Applicant("north")
    let_in(north)

    with pytest.raises(MisuseError, match="is admitted already, with these keys"):
        let_in(north)


def test_an_answer_to_another_coordinators_invitation_is_refused(home, let_in):
    with pytest.raises(MisuseError, match="another coordinator's invitation"):
        let_in(Applicant("north"), by=invitation(SigningKey.generate()))
    assert home.roster == {}


def test_a_request_that_was_changed_on_the_way_is_refused(home, invited, tmp_path):
    path = Applicant("north").writes(tmp_path / "request.json", invited)
    path.write_bytes(path.read_bytes().replace(b"north", b"south"))

    with pytest.raises(FormatError, match="the signature does not fit"):
        examine(home, path)


def test_an_admission_that_was_overtaken_changes_nothing(home, control, let_in, invited, tmp_path):
    first = examine(home, Applicant("north").writes(tmp_path / "first.json", invited))
    let_in(Applicant("north"))
    before = home.members

    with pytest.raises(MisuseError, match="with another envelope key"):
        admit(home, first)
    assert home.members == before


def test_a_site_that_was_revoked_meanwhile_does_not_come_back_without_words(home, let_in, invited, tmp_path):
    north = Applicant("north")
    let_in(north)
    renewal = examine(home, Applicant("north", north.envelope).writes(tmp_path / "renewal.json", invited))
    revoke(home, "north")

    with pytest.raises(MisuseError, match="meanwhile"):
        admit(home, renewal)
    assert home.members == {}


def test_nodes_are_never_put_out_while_an_admission_is_at_work(home, control, let_in, monkeypatch):
    """Flower never takes a key again: a node that was put out for a roster just read would be lost."""
    monkeypatch.setattr(admission, "patiently", lambda take: take())
    let_in(Applicant("north"))
    home.save_members({})
    with exclusive_lock(home.directory / "roster.lock", what="the roster"), pytest.raises(BusyError):
        bring_into_line(home, control)

    assert list(control.keys) == ["north"]
    assert bring_into_line(home, control) == ([], ["north"])


def test_a_site_that_was_invited_to_a_former_address_is_pointed_out(home, invited, tmp_path):
    application = examine(home, Applicant("north").writes(tmp_path / "request.json", invited))
    assert not moved(home, application)

    toml = home.directory / "coordinator.toml"
    toml.write_text(toml.read_text().replace('["fl.example.org"]', '["new.example.org"]'))
    assert moved(home, application)


def test_every_admission_and_revocation_is_in_the_audit_log(home, let_in, invited):
    north = Applicant("north")
    let_in(north)
    let_in(Applicant("north", north.envelope))
    revoke(home, "north")

    entries = read(home.directory / "audit.chain", "audit")
    assert [entry.type for entry in entries] == ["open", "init", "invite", "admit", "renew", "revoke"]
    assert entries[3].body["node"] == open_request(north.asks(invited)).node.id


# ── leaving ──


@pytest.fixture
def word(home, tmp_path):
    def write(applicant, **change):
        facts = {"site": applicant.name, "coordinator": home.public.hex, "node": applicant.member.node_key.id, "created": "now", **change}
        path = tmp_path / "leave.json"
        path.write_bytes(document(sign(Leave(**facts), applicant.envelope)))
        return path

    return write


def test_a_sites_own_word_takes_it_off_the_roster(home, let_in, word):
    north = Applicant("north")
    let_in(north)

    assert leaving(home, word(north)) == "north"


def test_nobody_else_can_say_that_a_site_leaves(home, let_in, word):
    let_in(Applicant("north"))

    with pytest.raises(FormatError, match="the signature does not fit"):
        leaving(home, word(Applicant("north")))
    with pytest.raises(MisuseError, match="no site of this name"):
        leaving(home, word(Applicant("south")))


def test_a_word_from_before_the_site_came_back_shuts_nobody_out(home, let_in, word):
    north = Applicant("north")
    let_in(north)
    old = word(north).read_bytes()
    let_in(Applicant("north", north.envelope))
    path = word(north)
    path.write_bytes(old)

    with pytest.raises(MisuseError, match="from before north was admitted anew"):
        leaving(home, path)


def test_a_word_to_another_coordinator_is_none_to_this_one(home, let_in, word):
    north = Applicant("north")
    let_in(north)

    with pytest.raises(MisuseError, match="for another coordinator"):
        leaving(home, word(north, coordinator=SigningKey.generate().public.hex))


def test_an_invitation_is_no_request_and_no_leave(home, invited, tmp_path):
    assert isinstance(invited.content, Invitation)
    for reader in (examine, leaving):
        with pytest.raises(FormatError):
            reader(home, tmp_path / "invitation.json")
