"""Which sites take part: what their requests show, a person's yes, and Flower's nodes brought into line with the roster."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fedrad_common.chain import utc_now
from fedrad_common.enrolment import Invitation, Leave, OpenedRequest, SignedRequest, digest, document, open_request, read_document
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.files import lock_file, write_atomic
from fedrad_common.identity import PublicKey
from fedrad_common.records import Signed, sign
from fedrad_server.audit import record
from fedrad_server.authority import authority_text
from fedrad_server.home import Home, Member
from fedrad_server.liveness import patiently

_LOCK = "roster.lock"


class Node(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def public_key(self) -> bytes: ...


class Nodes(Protocol):
    """What is asked of Flower's server: `fedrad_server.control.Control`."""

    def nodes(self) -> Sequence[Node]: ...

    def register(self, name: str, public_key: bytes) -> int: ...

    def remove(self, number: int) -> None: ...


@dataclass(frozen=True)
class Application:
    """A request that may be admitted, if a person says so; a known site's own word is enough for its next node key."""

    request: OpenedRequest
    renewal: bool

    @property
    def name(self) -> str:
        return self.request.content.name


def invite(home: Home, out: Path, *, version: str, force: bool = False) -> Invitation:
    """Write a signed invitation for any number of sites.

    Raises:
        MisuseError: the address is not known yet, or something else than an older invitation is in the way.
    """
    if out.exists() and not (force and _is_invitation(out)):
        raise MisuseError(f"--out: {out.name}: exists already", hint="name another file; --force replaces an invitation and nothing else")
    invitation = Invitation(
        coordinator=home.public.hex,
        address=seen_address(home),
        authority=authority_text(home.directory),
        created=utc_now().isoformat(timespec="seconds"),
        version=version,
    )
    signed = sign(invitation, home.key)
    try:
        write_atomic(out, document(signed) + b"\n", mode=0o644)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise MisuseError(f"--out: {out}: cannot be written ({type(error).__name__})", hint="name a file that you may write") from None
    record(home.directory, "invite", invitation=digest(signed))
    return invitation


def seen_address(home: Home) -> str:
    """Where sites find the server. Raises MisuseError when nobody knows: any free port, and never started."""
    settings, known = home.settings, home.superlink.ports
    port = settings.listen_port or (known.public if known else 0)
    if not settings.address and not port:
        raise MisuseError(
            "coordinator.toml: listen: port 0 is any free one, and the server was never started",
            hint='start the server once, or set address = "HOST:PORT" there',
        )
    return settings.seen_as(port)


def moved(home: Home, application: Application) -> bool:
    """Whether the site was invited to an address that is no longer the server's."""
    try:
        return application.request.invitation.content.address != seen_address(home)
    except MisuseError:  # nobody knows it at the moment
        return False


def examine(home: Home, path: Path) -> Application:
    """Check a site's request in every way that needs no person. Changes nothing.

    Raises:
        FormatError: it was changed on the way, or a signature does not fit.
        MisuseError: it answers another coordinator, or its name or a key is taken.
    """
    return _judged(home, open_request(read_document(path, SignedRequest, option="REQUEST")))


def _judged(home: Home, request: OpenedRequest) -> Application:
    content, roster = request.content, home.admissions
    if request.invitation.content.coordinator != home.public.hex:
        raise MisuseError(
            f"{content.name}: answers another coordinator's invitation", hint="send the site yours: fedrad-coordinator invite"
        )
    known = roster.sites.get(content.name)
    if known is not None and known.envelope != content.envelope:
        raise MisuseError(
            f"{content.name}: is admitted already, with another envelope key",
            hint="if that site itself has new keys (a lost ledger): revoke it first; if it is another one: it needs another name",
        )
    if known is not None and known.node == content.node:
        raise MisuseError(f"{content.name}: is admitted already, with these keys", hint="nothing is left to do")
    if content.envelope in {member.envelope for name, member in roster.sites.items() if name != content.name}:
        raise MisuseError(f"{content.name}: another site has this envelope key", hint="a site was cloned: each needs its own `init`")
    if request.node.id in roster.retired or content.node in {member.node for member in roster.sites.values()}:
        raise MisuseError(
            f"{content.name}: this node key was admitted before, and none comes back",
            hint="the request is an old one, or the site was revoked: ask it for `fedrad-site renew`",
        )
    if known is not None and not _newer(content.created, known.created):
        raise MisuseError(
            f"{content.name}: this request is not newer than the one that was admitted last",
            hint="ask the site for `fedrad-site renew` and the new request; if its clock was ahead then: revoke it first, compare words",
        )
    return Application(request, renewal=known is not None)


def _newer(created: str, former: str) -> bool:
    """Whether a request was made after another, both by one site's clock; a signature for a key that was never admitted stays good."""
    try:
        return not former or datetime.fromisoformat(created) > datetime.fromisoformat(former)
    except (ValueError, TypeError):  # no time, or one without a zone
        return False


def admit(home: Home, application: Application) -> str:
    """Put the site on the roster, and its node into Flower's, where the server runs. A person has said yes.

    Returns what stands in the way of the second half, which is made up for when the server starts; empty when nothing does.

    Raises:
        MisuseError: the name or a key was taken meanwhile, or the site was revoked. BusyError: another admission is at work.
    """
    content = application.request.content
    with _locked(home):
        if _judged(home, application.request).renewal != application.renewal:
            raise MisuseError(
                f"{application.name}: was admitted or revoked meanwhile", hint="look at `fedrad-coordinator sites` and try again"
            )
        members = home.members
        former = members.get(application.name)
        today = utc_now().date().isoformat()
        admitted = former.admitted if former else today
        member = Member(envelope=content.envelope, node=content.node, admitted=admitted, created=content.created)
        keys = {"envelope": content.envelope, "node": application.request.node.id, "request": digest(application.request.signed)}
        record(home.directory, "renew" if application.renewal else "admit", site=application.name, **keys)
        home.save_members({**members, application.name: member})
        return _tell_server(home)


def revoke(home: Home, name: str) -> str:
    """Take a site off the roster, which the guard reads at the next request; then out of Flower's nodes. Returns what `admit` does.

    Raises:
        MisuseError: no such site.
    """
    with _locked(home):
        members = home.members
        if name not in members:
            raise MisuseError(f"{name}: no site of this name is admitted", hint="`fedrad-coordinator sites` lists them")
        record(home.directory, "revoke", site=name, envelope=members[name].envelope, node=members[name].node_key.id)
        home.save_members({other: member for other, member in members.items() if other != name})
        return _tell_server(home)


def leaving(home: Home, path: Path) -> str:
    """The name of the site that says in this file that it leaves.

    Raises:
        FormatError: it was not signed by that site. MisuseError: it is for another coordinator, or of a site that is not here (any more).
    """
    signed = read_document(path, Signed, option="--leave")
    site = signed.peek(Leave, what=path.name).site
    member = home.members.get(site)
    if member is None:
        raise MisuseError(f"{site}: no site of this name is admitted", hint="`fedrad-coordinator sites` lists them")
    leave = signed.open(Leave, PublicKey.from_hex(member.envelope), what=path.name)
    if leave.coordinator != home.public.hex or leave.node != member.node_key.id:
        raise MisuseError(f"{path.name}: is for another coordinator, or from before {site} was admitted anew", hint="ask the site by phone")
    return site


def bring_into_line(home: Home, nodes: Nodes) -> tuple[list[str], list[str]]:
    """Make Flower's nodes those of the roster, which is the truth: (names registered, names unregistered).

    No admission is at work meanwhile: a node that was put out by mistake could never be let in again with its key.

    Raises:
        BusyError: an admission takes long. FedradError: the server is away or says no. Doing it again is harmless.
    """
    with _locked(home):
        return _align(home, nodes)


def _align(home: Home, nodes: Nodes) -> tuple[list[str], list[str]]:
    wanted = {name: member.node.encode() for name, member in home.members.items()}
    there: set[str] = set()
    foreign = []
    for node in nodes.nodes():
        if wanted.get(node.name) == node.public_key:
            there.add(node.name)
        else:
            nodes.remove(node.number)
            foreign.append(node.name)
    missing = [name for name in wanted if name not in there]
    for name in missing:
        nodes.register(name, wanted[name])
    return missing, sorted(foreign)


def _tell_server(home: Home) -> str:
    files = home.superlink
    if not files.ready_file.exists():
        return "the server is not running"
    from fedrad_server.control import Control

    try:
        with Control.open(files) as control:
            _align(home, control)
    except FedradError as error:  # the roster is written: nothing is lost, and the guard goes by it
        return str(error)
    return ""


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    descriptor = patiently(lambda: lock_file(home.directory / _LOCK, what="the roster"))
    try:
        yield
    finally:
        os.close(descriptor)


def _is_invitation(path: Path) -> bool:
    try:
        read_document(path, Signed, option="--out").peek(Invitation, what=path.name)
    except FedradError:
        return False
    return True
