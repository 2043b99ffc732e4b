"""How a site and a coordinator come to know each other's keys: invitation, request, and six words that two people compare by phone.

Signatures alone show that whoever wrote a document holds the keys in it, not whose keys they are: somebody on the way may put in their
own. The words are a hash of both documents as each side has them; where they agree, both sides have the same ones.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import AfterValidator, StringConstraints

from fedrad_common.address import parse_address
from fedrad_common.canonical import Sha256, canonical_json, sha256_hex
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.identity import NodePublicKey, PublicKey, SigningKey, node_signature
from fedrad_common.records import Signed, SiteName

WORDS = 6  # of 2048 each: 66 bits
_BITS = 11  # of one word
_LARGEST = 256 * 1024  # bytes of a document; a chain of certificates is a few thousand


def _address(text: str) -> str:
    try:
        return str(parse_address(text, what="address"))
    except MisuseError:
        raise ValueError("must be HOST:PORT") from None


def _certificates(text: str) -> str:
    if text and not x509.load_pem_x509_certificates(text.encode()):
        raise ValueError("holds no certificate")
    return text


class Invitation(Section):
    """What a site must know of its coordinator. Signed by the key in it."""

    format: Literal["fedrad-invitation-1"] = "fedrad-invitation-1"
    coordinator: Sha256  # the Ed25519 public key that signs every order, in hex
    address: Annotated[str, AfterValidator(_address)]  # HOST:PORT for sites
    authority: Annotated[str, AfterValidator(_certificates)]  # PEM of whose certificates to believe; empty: the site's own machine's list
    created: str  # ISO 8601, UTC
    version: str


class Request(Section):
    """What a coordinator must know of a site: two public keys and a name. Nothing of patients, not even a number."""

    format: Literal["fedrad-enrolment-1"] = "fedrad-enrolment-1"
    name: SiteName
    envelope: Sha256  # the Ed25519 public key that signs its updates, in hex
    node: str  # PEM of the EC P-384 public key by which its node connects
    invitation: Signed  # as the site got it
    created: str  # ISO 8601, UTC
    versions: dict[str, str]


class SignedRequest(Section):
    """A request's exact text, signed by both keys that it names."""

    body: str
    envelope_signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
    node_signature: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){64,108}$")]


class Leave(Section):
    """A site's word that it leaves. It names the node key, which never comes back: an old word shuts out nobody who came again."""

    format: Literal["fedrad-leave-1"] = "fedrad-leave-1"
    site: SiteName
    coordinator: Sha256
    node: Sha256  # id of the node key
    created: str  # ISO 8601, UTC


@dataclass(frozen=True)
class OpenedInvitation:
    content: Invitation
    signed: Signed

    @property
    def document(self) -> bytes:
        return document(self.signed)

    @property
    def coordinator(self) -> PublicKey:
        return PublicKey.from_hex(self.content.coordinator)


@dataclass(frozen=True)
class OpenedRequest:
    """A request whose signatures fit."""

    content: Request
    signed: SignedRequest
    invitation: OpenedInvitation

    @cached_property
    def node(self) -> NodePublicKey:
        return NodePublicKey.from_pem(self.content.node)

    @property
    def document(self) -> bytes:
        return document(self.signed)

    @property
    def words(self) -> tuple[str, ...]:
        return comparison_words(self.invitation.document, self.document)


def make_request(
    name: str, invitation: OpenedInvitation, *, envelope: SigningKey, node: EllipticCurvePrivateKey, created: str, versions: dict[str, str]
) -> SignedRequest:
    request = Request(
        name=name,
        envelope=envelope.public.hex,
        node=NodePublicKey(node.public_key()).pem,
        invitation=invitation.signed,
        created=created,
        versions=versions,
    )
    body = canonical_json(request.model_dump(mode="json"))
    return SignedRequest(body=body.decode(), envelope_signature=envelope.sign(body).hex(), node_signature=node_signature(node, body).hex())


def open_invitation(signed: Signed) -> OpenedInvitation:
    """Check that the key in it signed it. Raises FormatError."""
    key = PublicKey.from_hex(signed.peek(Invitation, what="invitation").coordinator)
    return OpenedInvitation(signed.open(Invitation, key, what="invitation"), signed)


def open_request(signed: SignedRequest) -> OpenedRequest:
    """Check that both keys in it signed it, and the invitation inside. Raises FormatError."""
    body = signed.body.encode()
    request = parse_json(body, Request, name="request")
    PublicKey.from_hex(request.envelope).verify(body, bytes.fromhex(signed.envelope_signature), what="request")
    NodePublicKey.from_pem(request.node).verify(body, bytes.fromhex(signed.node_signature), what="request")
    return OpenedRequest(request, signed, open_invitation(request.invitation))


def comparison_words(invitation: bytes, request: bytes) -> tuple[str, ...]:
    """Six words of the BIP-39 list: 66 bits of SHA-256 over both documents' SHA-256, signatures included."""
    from mnemonic import Mnemonic

    words = Mnemonic("english").wordlist
    digest = hashlib.sha256(b"fedrad-words-1" + hashlib.sha256(invitation).digest() + hashlib.sha256(request).digest()).digest()
    number = int.from_bytes(digest, "big") >> (256 - _BITS * WORDS)
    return tuple(words[number >> _BITS * (WORDS - 1 - place) & 2047] for place in range(WORDS))


def same_words(said: str, words: tuple[str, ...]) -> bool:
    """Whether somebody said these very words, in any case and with anything but letters between them."""
    return tuple(re.findall(r"[a-z]+", said.lower())) == words


D = TypeVar("D", bound=Section)


def document(record: Section) -> bytes:
    """The one text of a document, without the line's end."""
    return canonical_json(record.model_dump(mode="json"))


def read_document(path: Path, kind: type[D], *, option: str) -> D:
    """A document that a person names. Mail may change the end of its one line, nothing else.

    Raises:
        MisuseError: no such file. FormatError: it is no such document, or was changed on the way.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1).strip()
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise MisuseError(f"{option}: {path.name}: {why}", hint="name the file that the other side sent") from None
    if len(content) > _LARGEST:
        raise FormatError(f"{path.name}: is too large to be what {option} wants", hint="name the file that the other side sent")
    found = parse_json(content, kind, name=path.name)
    if document(found) != content:
        raise FormatError(f"{path.name}: was written anew on the way", hint="send the file as an attachment, not as text")
    return found


def digest(record: Section) -> str:
    return sha256_hex(document(record))
