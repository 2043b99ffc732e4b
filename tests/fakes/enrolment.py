"""Sites that ask to be admitted, without a site: keys and documents only."""

import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key

from fedrad_common.enrolment import Invitation, OpenedInvitation, SignedRequest, document, make_request, open_invitation
from fedrad_common.identity import NodePublicKey, SigningKey
from fedrad_common.records import sign
from fedrad_server.home import Member

CREATED = "2026-02-03T04:05:06+00:00"


_LATER = itertools.count()


def later() -> str:
    """Than any request before."""
    return (datetime.fromisoformat(CREATED) + timedelta(seconds=next(_LATER))).isoformat()


def node_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP384R1())


@dataclass
class Applicant:
    """A hospital as its request shows it."""

    name: str
    envelope: SigningKey = field(default_factory=SigningKey.generate)
    node: EllipticCurvePrivateKey = field(default_factory=node_key)
    created: str = field(default_factory=later)

    def asks(self, invitation: OpenedInvitation, *, created: str = "") -> SignedRequest:
        return make_request(
            self.name, invitation, envelope=self.envelope, node=self.node, created=created or self.created, versions={"fedrad": "1"}
        )

    def writes(self, path: Path, invitation: OpenedInvitation) -> Path:
        path.write_bytes(document(self.asks(invitation)) + b"\n")
        return path

    @property
    def pem(self) -> str:
        return NodePublicKey(self.node.public_key()).pem

    @property
    def member(self) -> Member:
        return Member(envelope=self.envelope.public.hex, node=self.pem, admitted="2026-02-03")


def member() -> Member:
    """Of a roster, where it does not matter which."""
    return Applicant("any").member


def invitation(key: SigningKey, *, address: str = "fl.example.org:9092", authority: str = "") -> OpenedInvitation:
    content = Invitation(coordinator=key.public.hex, address=address, authority=authority, created=CREATED, version="1")
    return open_invitation(sign(content, key))
