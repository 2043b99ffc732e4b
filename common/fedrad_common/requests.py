"""What a node puts on each of its requests, so that nobody can replay or change one: who, when, once, and the body's hash, signed.

Flower's node authentication signs a timestamp alone. A copy of its headers, made where TLS ends, would carry any other body for
minutes. These headers are checked by the coordinator's guard before it reads a byte of the body.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA384

from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import FormatError

SITE, TIME, NONCE, DIGEST, SIGNATURE = "x-fedrad-site", "x-fedrad-time", "x-fedrad-nonce", "x-fedrad-digest", "x-fedrad-signature"
REASON = "x-fedrad-reason"  # of an answer: one word, where the remedy is the site's
WINDOW = 120.0  # seconds by which a request's time may differ from the coordinator's clock
_LONGEST = 512  # characters of a header


@dataclass(frozen=True)
class Claim:
    """What the headers say. Nothing of it counts before `verify`."""

    site: str
    milliseconds: int  # since 1970, by the node's clock
    nonce: str
    digest: str  # SHA-256 of the body
    signature: bytes  # ECDSA over `message`, by the node's key

    def message(self, method: str, path: str) -> bytes:
        fields = ("fedrad-request-1", method, path, self.site, str(self.milliseconds), self.nonce, self.digest)
        return "\n".join(fields).encode()

    def verify(self, key: EllipticCurvePublicKey, method: str, path: str) -> None:
        """Raises FormatError when the signature is not this key's over this very request."""
        try:
            key.verify(self.signature, self.message(method, path), ECDSA(SHA384()))
        except InvalidSignature:
            raise FormatError("request: the signature does not fit") from None


def sign_request(
    key: EllipticCurvePrivateKey, *, site: str, method: str, path: str, body: bytes, now: float | None = None
) -> dict[str, str]:
    """The headers of one request; a retry is signed anew.

    Args:
        path: of the URL, without host and query.
        now: seconds since 1970; the clock's by default.
    """
    milliseconds = round(1000 * (time.time() if now is None else now))
    claim = Claim(site, milliseconds, secrets.token_hex(16), sha256_hex(body), b"")
    signature = key.sign(claim.message(method, path), ECDSA(SHA384()))
    return {SITE: site, TIME: str(milliseconds), NONCE: claim.nonce, DIGEST: claim.digest, SIGNATURE: signature.hex()}


def read_claim(headers: Mapping[str, str]) -> Claim:
    """Raises FormatError when a header is missing or is not what it must be. Names are in lower case."""
    found = [headers.get(name, "") for name in (SITE, TIME, NONCE, DIGEST, SIGNATURE)]
    site, milliseconds, nonce, digest, signature = found
    hexadecimal = len(nonce) == 32 and len(digest) == 64 and set(nonce + digest + signature) <= set("0123456789abcdef")
    if not all(0 < len(text) <= _LONGEST for text in found) or not hexadecimal or len(signature) % 2:
        raise FormatError("request: is not signed as a node of fedrad signs")
    if not (milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) <= 16):
        raise FormatError("request: its time is no number")
    return Claim(site, int(milliseconds), nonce, digest, bytes.fromhex(signature))
