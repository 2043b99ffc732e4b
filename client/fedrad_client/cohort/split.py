"""Who validates: a keyed hash of the patient alone decides, for the site's lifetime and over all projects."""

import hashlib
import hmac
from typing import Literal

Part = Literal["training", "validation"]


def part_of(identity: bytes, *, key: bytes, fraction: float) -> Part:
    """The same patient always lands in the same part, whoever else comes or goes (privacy.md, rule 5).

    Args:
        identity: the patient's canonical identity, before the pseudonym.
        key: the site's split key, 32 bytes.
        fraction: of patients that validate and are never trained on, 0 … 1.
    """
    drawn = int.from_bytes(hmac.digest(key, identity, hashlib.sha256)[:8], "big")
    return "validation" if drawn < int(fraction * 2**64) else "training"
