"""Are the site's keys there, whole, and nobody else's to read? Looking makes and changes nothing."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from fedrad_client.audit import PENDING
from fedrad_client.doctor.faults import Finding, fault, fine, skipped
from fedrad_client.doctor.subject import Subject
from fedrad_client.node.key import read_node_key
from fedrad_client.site import Home
from fedrad_common.errors import FedradError
from fedrad_common.identity import PublicKey, SigningKey

_FOLDERS = ("keys", "node", "enrolment", "approved", "outbox", PENDING, "lost", "inbox", "review")  # of the home, besides the cohort
_OTHERS = 0o077  # mode bits of anybody but the owner


def keys(subject: Subject) -> Iterator[Finding]:
    """Every key of the site: its own, mode 0600, and those by which it knows the coordinator."""
    found = [finding for name, read in _wanted(subject).items() for finding in _one(subject.home, name, read)]
    yield from found
    if not found:
        yield fine("there, whole, and readable by this account only")


def owners(subject: Subject) -> Iterator[Finding]:
    """Does every file belong to the account that the folder belongs to? A command that was once run as root leaves others."""
    mine = subject.home.stat().st_uid
    foreign = sorted(name for name, path in _of_the_site(subject) if path.lstat().st_uid != mine)
    if foreign:
        yield fault("foreign-files", n=len(foreign), name=foreign[0])
    else:
        yield fine("all files belong to one account")


def identity(subject: Subject) -> Iterator[Finding]:
    """Is the ledger the one of this site's envelope key?"""
    if isinstance(subject.ledger, FedradError):
        yield skipped("the ledger cannot be read")
        return
    try:
        same = subject.ledger[0].body.get("identity") == Home(subject.home).envelope_key.public.id
    except FedradError:
        yield skipped("the envelope key cannot be read")
        return
    yield fine("ledger and envelope key belong together") if same else fault("ledger-foreign")


def _of_the_site(subject: Subject) -> Iterator[tuple[str, Path]]:
    """What lies in the home, and all that lies below the folders that fedrad makes: nobody's export is looked into, or named."""
    yield from ((path.name, path) for path in subject.home.iterdir())
    folders = {name: subject.home / name for name in _FOLDERS}
    folders["cohort"] = Home(subject.home).cohort if subject.settings else subject.home / "cohort"
    for name, folder in folders.items():
        for place, inner, files in os.walk(folder):
            for path in (Path(place, one) for one in (*inner, *files)):
                yield f"{name}/{path.relative_to(folder).as_posix()}", path


def _wanted(subject: Subject) -> dict[str, Callable[[Path], object]]:
    """Files, and what reads each of them."""
    own: dict[str, Callable[[Path], object]] = {
        "keys/envelope.key": SigningKey.load,
        "keys/pseudonym.key": lambda _: Home(subject.home).pseudonym_secret,
    }
    if not subject.address:
        return own
    own |= {"keys/node.key": read_node_key, "keys/coordinator.pub": PublicKey.load}
    if subject.settings and (authority := subject.settings.coordinator.authority):
        own[authority] = lambda path: ssl.create_default_context(cafile=path)
    return own


def _one(home: Path, name: str, read: Callable[[Path], object]) -> Iterator[Finding]:
    path = home / name
    if not path.is_file():
        yield fault("key-missing", name=name)
        return
    mode = path.stat().st_mode & 0o777
    if path.suffix == ".key" and mode & _OTHERS:
        yield fault("key-readable", name=name, mode=f"{mode:04o}")
    try:
        read(path)
    except (FedradError, ValueError, OSError):
        yield fault("key-damaged", name=name)
