"""One value, one byte string: canonical JSON and its SHA-256, so that both sides hash and sign the same bytes."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, shortest float repr; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
