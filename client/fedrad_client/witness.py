"""What others hold of this site: its own signed answers, receipts, heads on paper. One honest witness finds a restored or cloned ledger.

A witness is checked against ledger and audit log alone; nobody's word is taken for it. Only the site's own key can have signed an
envelope, so that no coordinator can make one up.
"""

from dataclasses import dataclass
from pathlib import Path

from fedrad_client.privacy.ledger import Ledger
from fedrad_client.site import LEDGER, Site
from fedrad_common.config import parse_json
from fedrad_common.errors import ChainError, FormatError, MisuseError
from fedrad_common.records import Envelope, Receipt, RoundManifest, Signed

_HINT = "the ledger is an older copy, or the site was cloned: stop, put the newest copy back, or fedrad-site ledger recover --assume-spent"


@dataclass(frozen=True)
class Seen:
    """One answer that somebody outside holds."""

    run: str
    round: int
    sequence: int
    head: str  # of the ledger when the answer was sealed


def seen_by_coordinator(site: Site, witness: Signed | None) -> Seen | None:
    """The answer in a coordinator's hand that this ledger does not know; None where all is well, or where it proves nothing."""
    if witness is None:
        return None
    try:
        envelope = witness.open(Envelope, site.key.public, what="witness")
    except FormatError:
        return None  # of an earlier identity, or made up: no proof of anything
    seen = Seen(envelope.run, envelope.round, envelope.sequence, envelope.ledger)
    return None if knows(site.ledger, seen) else seen


def knows(ledger: Ledger, seen: Seen) -> bool:
    """Whether the ledger was at that head, having reserved that very answer."""
    entry = next((entry for entry in ledger.chain.entries if entry.hash == seen.head), None)
    reserved = (seen.run, seen.round, seen.sequence)
    return entry is not None and entry.type == "answer" and tuple(entry.body[key] for key in ("run", "round", "sequence")) == reserved


def check_head(ledger: Ledger, head: str, *, lost: Path) -> str:
    """Compare with a head that somebody wrote down. Says what it proved.

    Args:
        lost: folder of ledgers that a person set aside.

    Raises:
        ChainError: it was never this ledger's.
    """
    head = head.strip().lower()
    if ledger.knows(head):
        return "the head that was given is in the ledger"
    if _set_aside(lost, head):
        return "the head that was given is of a ledger that was set aside"
    raise ChainError("ledger.chain: never had the head that was given", hint=_HINT)


def check_file(site: Site, path: Path, *, lost: Path) -> str:
    """Compare with one signed record: an envelope of this site, a coordinator's receipt, or a round's manifest. Says what it proved.

    Args:
        lost: folder of ledgers that a person set aside.

    Raises:
        MisuseError: no such file, or no record that speaks of this site. FormatError: its signature does not fit.
        ChainError: it names an answer that this site's records do not know.
    """
    if not path.is_file():
        raise MisuseError(f"{path.name}: no such file", hint="name a receipt, an envelope or a manifest.json of the coordinator's")
    signed = parse_json(path.read_bytes(), Signed, name=path.name)
    kind = _format(signed, path.name)
    if kind == "fedrad-envelope-2":
        if _set_aside(lost, signed.peek(Envelope, what=path.name).ledger):  # signed with an earlier identity's key
            return f"{path.name}: is of a ledger that was set aside"
        envelope = signed.open(Envelope, site.key.public, what=path.name)
        return _known(site.ledger, Seen(envelope.run, envelope.round, envelope.sequence, envelope.ledger), path.name, lost=lost)
    if site.coordinator is None:
        raise MisuseError(
            f"{path.name}: signed by a coordinator, and this site has no keys/coordinator.pub", hint="put its public key there"
        )
    if kind == "fedrad-receipt-1":
        receipt = signed.open(Receipt, site.coordinator, what=path.name)
        if receipt.site != site.name:
            raise MisuseError(f"{path.name}: is another site's receipt", hint="ask the coordinator for this site's")
        return _known(site.ledger, Seen(receipt.run, receipt.round, receipt.sequence, receipt.ledger), path.name, lost=lost)
    manifest = signed.open(RoundManifest, site.coordinator, what=path.name)
    payload = manifest.updates.get(site.name)
    if payload is None:
        raise MisuseError(f"{path.name}: names no update of this site", hint="take the manifest of a round that this site was in")
    if not any(entry.type == "release" and entry.body["payload"] == payload for entry in site.audit.entries):
        raise ChainError(f"{path.name}: names an update of round {manifest.round} that this site's audit log does not know", hint=_HINT)
    return f"{path.name}: round {manifest.round}, the update in the manifest is in the audit log"


def _known(ledger: Ledger, seen: Seen, name: str, *, lost: Path) -> str:
    if _set_aside(lost, seen.head):
        return f"{name}: answer {seen.sequence} is of a ledger that was set aside"
    if not knows(ledger, seen):
        raise ChainError(f"{name}: names answer {seen.sequence}, which this ledger does not know", hint=_HINT)
    return f"{name}: answer {seen.sequence} is in the ledger"


def _set_aside(lost: Path, head: str) -> bool:
    """Whether a ledger that a person replaced had that head; it may be damaged, and is not opened."""
    return bool(head) and any(f" {head} ".encode() in path.read_bytes() for path in lost.glob(f"*/{LEDGER}"))


def _format(signed: Signed, name: str) -> str:
    import json

    known = ("fedrad-envelope-2", "fedrad-receipt-1", "fedrad-manifest-2")
    try:
        found = json.loads(signed.body)["format"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found not in known:
        raise MisuseError(f"{name}: is no witness: format {found!r}", hint=f"expected one of {', '.join(known)}")
    return str(found)
