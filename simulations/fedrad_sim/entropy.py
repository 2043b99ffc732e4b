"""Reproducible randomness for simulated sites: the same seed and site name give the same bytes. A real site never uses this."""

from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrad_client.work import Job, run_inline
from fedrad_common.canonical import canonical_json
from fedrad_common.packing import Vector


def seeded_entropy(seed: int, site: str) -> Callable[[int], bytes]:
    """Stands in for `os.urandom`. Every call gives the same bytes, so that a resumed simulation goes on as if never stopped.

    What is derived from them differs all the same: `answer` mixes in run, round, kind, model and cohort generation.
    """
    info = b"fedrad-simulated-entropy-1" + canonical_json(site)

    def draw(n_bytes: int) -> bytes:
        return HKDF(algorithm=SHA256(), length=n_bytes, salt=None, info=info).derive(canonical_json(seed))

    return draw


def run_seeded(job: Job, model: Vector) -> Vector:
    """A site's work in this process, with evaluation noise from the same seed; a site itself never asks for that."""
    return run_inline(replace(job, seeded=True), model)
