"""Keys of the site's pseudonyms: one for each project and purpose, so that two projects cannot be joined; one split key for all of them."""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.errors import FormatError

SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class PseudonymKeys:
    """One key a purpose, derived from the site's secret; kept for the site's lifetime, because a new one renames and moves everybody.

    The cohort's are those without a project. A project (a DICOM export for another use) has its own names, UIDs and date shifts. Who
    validates is decided by one key whatever the project (privacy.md, rule 5), and who is one person by one table.
    """

    patient: bytes = field(repr=False)
    uid: bytes = field(repr=False)
    date: bytes = field(repr=False)
    split: bytes = field(repr=False)
    merge: bytes = field(repr=False)
    id: str  # names secret and project without saying anything about them

    @classmethod
    def from_secret(cls, secret: bytes, *, project: str | None = None) -> "PseudonymKeys":
        """Raises FormatError when `secret` is not 32 bytes."""
        if len(secret) != SECRET_BYTES:
            raise FormatError(f"pseudonym key: {len(secret)} bytes, expected {SECRET_BYTES}", hint="restore it from the backup")
        own = {purpose: _derive(secret, purpose, project) for purpose in ("patient", "uid", "date", "id")}
        return cls(
            patient=own["patient"],
            uid=own["uid"],
            date=own["date"],
            split=_derive(secret, "split", None),
            merge=_derive(secret, "merge", None),
            id=sha256_hex(own["id"])[:16],
        )


def _derive(secret: bytes, purpose: str, project: str | None) -> bytes:
    # A project's name stands in JSON, so that no name can imitate another purpose.
    info = f"fedrad/1/{purpose}".encode() if project is None else b"fedrad/1/project/" + canonical_json([project, purpose])
    return HKDF(hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def mac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.digest(key, message, hashlib.sha256)
