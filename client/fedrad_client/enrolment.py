"""A site's half of enrolment: its request, the six words that a person reads out, new node keys, and the way out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fedrad_client import audit
from fedrad_client.approval import withdraw_approval
from fedrad_client.node.key import PRIVATE, node_key, renew_node_key
from fedrad_client.site import LEFT, PAUSED, Home, open_site
from fedrad_common import __version__
from fedrad_common.chain import utc_now
from fedrad_common.config import parse_json
from fedrad_common.enrolment import (
    Invitation,
    Leave,
    OpenedInvitation,
    OpenedRequest,
    SignedRequest,
    digest,
    document,
    make_request,
    open_invitation,
    open_request,
    read_document,
)
from fedrad_common.errors import FedradError, FormatError, MisuseError
from fedrad_common.files import write_atomic
from fedrad_common.identity import NodePublicKey, PublicKey, SigningKey
from fedrad_common.records import Signed, sign

FOLDER = "enrolment"
INVITATION, REQUEST, LEAVE = f"{FOLDER}/invitation.json", f"{FOLDER}/request.json", f"{FOLDER}/leave.json"
_COORDINATOR, _AUTHORITY, _ENVELOPE = "keys/coordinator.pub", "keys/authority.pem", "keys/envelope.key"


@dataclass(frozen=True)
class Enrolment:
    """What a person sends, and reads out."""

    request: OpenedRequest
    path: Path  # of the request

    @property
    def words(self) -> tuple[str, ...]:
        return self.request.words


def read_invitation(path: Path) -> OpenedInvitation:
    """Raises MisuseError: no such file. FormatError: it is no invitation, or was changed on the way."""
    return open_invitation(read_document(path, Signed, option="--invitation"))


def joining(name: str, invitation: OpenedInvitation) -> Callable[[Path], None]:
    """What `create_site` does besides, for a site of that name: the node key, the coordinator's keys, the request."""

    def enrol(home: Path) -> None:
        (home / FOLDER).mkdir(mode=0o700)
        _keep(home, invitation)
        _write_request(home, name, invitation)

    return enrol


def current(home: Home) -> Enrolment:
    """The request as it stands; made anew where a key changed since.

    After the recovery of a lost ledger, with another node key, too: the old one is retired with the old identity. A new node key, for that
    or because the old one is lost, is entered in the audit log.

    Raises:
        MisuseError: this site was made without an invitation. FormatError: a file of it is damaged.
    """
    name, invitation = home.config.site.name, _invitation(home)
    path, lost = home.path / REQUEST, not (home.path / PRIVATE).exists()
    former = open_request(parse_json(path.read_bytes(), SignedRequest, name=REQUEST)) if path.exists() else None
    retired = former is not None and former.content.envelope != home.envelope_key.public.hex
    if former is not None:
        keys = (home.envelope_key.public.hex, NodePublicKey(node_key(home.path).public_key()).pem)
        same = (former.content.envelope, former.content.node) == keys and former.content.name == name
        if same and former.invitation.document == invitation.document:
            return Enrolment(former, path)
    if retired:
        renew_node_key(home.path)
    made = Enrolment(_write_request(home.path, name, invitation), path)
    if lost or retired:
        _note_renewal(home, made)
    return made


def renew(home: Home, invitation: OpenedInvitation | None = None) -> Enrolment:
    """A new node key, vouched for by the envelope key that the coordinator knows. With an invitation: its authority and address, too.

    A site that has left comes back this way, to any coordinator: its ledger stays the one that it has.

    Raises:
        MisuseError: it is another coordinator's invitation, or there is none. FormatError: the invitation that is kept was changed.
    """
    known = _known_coordinator(home)
    if invitation is not None and known is None and not home.left:
        raise MisuseError(
            f"{_COORDINATOR}: is missing, and so is {INVITATION}: nothing here says whose site this is",
            hint="restore either from the backup; instead of a site made with --local, make a new one: fedrad-site init --invitation FILE",
        )
    if invitation is not None and known is not None and known.hex != invitation.content.coordinator and not home.left:
        raise MisuseError(
            "--invitation: is another coordinator's", hint="a site has one coordinator: first leave it with fedrad-site leave"
        )
    if invitation is None:
        if home.left:
            raise MisuseError("missing option '--invitation'", hint="this site has left: ask a coordinator for an invitation")
        invitation = _invitation(home)
    else:
        _keep(home.path, invitation)
    # Killed after this line: the request is of the old key, and `current` makes it anew.
    renew_node_key(home.path)
    made = Enrolment(_write_request(home.path, home.config.site.name, invitation), home.path / REQUEST)
    _note_renewal(home, made)
    (home.path / LEFT).unlink(missing_ok=True)
    return made


def connecting_key(home: Path) -> EllipticCurvePrivateKey:
    """The key by which this site's node connects. Where it is enrolled, none is made here: the coordinator would not know it.

    Raises:
        MisuseError: an enrolled site's key is missing. FormatError: it is no such key.
    """
    enrolled = (home / INVITATION).exists() or (home / REQUEST).exists()
    if enrolled and not (home / PRIVATE).exists():
        raise MisuseError(
            f"{PRIVATE}: is missing", hint="restore it from the backup, or have a new one admitted: fedrad-site renew, and send its request"
        )
    return node_key(home)


def _note_renewal(home: Home, made: Enrolment) -> None:
    audit.note(home.path, "renew", request=digest(made.request.signed), node=made.request.node.id)


def leave(home: Home) -> Path:
    """Take this site out: it answers nothing more, no approval stands, and a signed word tells the coordinator so.

    A failure on the way leaves it paused; run it again. Ledger, audit log and keys stay.

    Raises:
        BusyError: an answer is being made right now.
    """
    key = _known_coordinator(home)
    if key is None:
        raise MisuseError("keys/coordinator.pub: is missing: this site has no coordinator to leave", hint="fedrad-site pause is enough")
    write_atomic(home.path / PAUSED, b"")
    with open_site(home.path) as site:
        for approval in home.approvals:
            withdraw_approval(site, approval)
    node = NodePublicKey(node_key(home.path).public_key()).id
    word = Leave(site=home.config.site.name, coordinator=key.hex, node=node, created=_now())
    signed = sign(word, home.envelope_key)
    (home.path / FOLDER).mkdir(mode=0o700, exist_ok=True)
    write_atomic(home.path / LEAVE, document(signed) + b"\n")
    audit.note(home.path, "leave", request=digest(signed), coordinator=key.hex)
    write_atomic(home.path / LEFT, b"")
    return home.path / LEAVE


def _invitation(home: Home) -> OpenedInvitation:
    path = home.path / INVITATION
    if not path.exists():
        raise MisuseError(
            "enrolment/invitation.json: is missing: this site was made with --local", hint="to enrol: fedrad-site init --invitation FILE"
        )
    found, known = _kept(path), _coordinator_file(home)
    if known is None:
        raise FedradError(
            f"{_COORDINATOR}: is missing or damaged", hint="restore it, or ask for a newer invitation: fedrad-site renew --invitation FILE"
        )
    if known != found.coordinator:
        raise FedradError(f"{INVITATION}: is not of {_COORDINATOR}", hint="restore both from the same backup")
    return found


def _kept(path: Path) -> OpenedInvitation:
    return open_invitation(parse_json(path.read_bytes(), Signed, name=INVITATION))


def _coordinator_file(home: Home) -> PublicKey | None:
    try:
        return home.coordinator
    except FormatError:
        return None


def _known_coordinator(home: Home) -> PublicKey | None:
    """Whose site this is. Where the key's file is lost or damaged, the invitation that is kept still names it, and is signed with it."""
    path = home.path / INVITATION
    return _coordinator_file(home) or (_kept(path).coordinator if path.exists() else None)


def _keep(home: Path, invitation: OpenedInvitation) -> None:
    content: Invitation = invitation.content
    write_atomic(home / _COORDINATOR, PublicKey.from_hex(content.coordinator).hex.encode() + b"\n")
    if content.authority:
        write_atomic(home / _AUTHORITY, content.authority.encode(), mode=0o644)
    write_atomic(home / INVITATION, invitation.document + b"\n")


def _write_request(home: Path, name: str, invitation: OpenedInvitation) -> OpenedRequest:
    signed = make_request(
        name,
        invitation,
        envelope=SigningKey.load(home / _ENVELOPE),
        node=node_key(home),
        created=_now(),
        versions={"fedrad": __version__},
    )
    write_atomic(home / REQUEST, document(signed) + b"\n")
    return open_request(signed)


def _now() -> str:
    return utc_now().isoformat(timespec="milliseconds")  # of two requests, the coordinator takes the newer one
