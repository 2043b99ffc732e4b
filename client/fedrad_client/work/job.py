"""What a site is to compute for one order, as a value, and its way to another process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client.config import Resources
from fedrad_client.privacy.plan import Plan
from fedrad_common.canonical import canonical_json
from fedrad_common.config import validate
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Kind


@dataclass(frozen=True)
class Job:
    """One order's work, whole: the same job on the same machine gives the same bytes (noised evaluation apart, unless seeded)."""

    protocol: TrainingProtocol
    kind: Kind
    round: int  # from 1
    plan: Plan
    secret: bytes  # 32; the key of all randomness, derived for this one question
    cohort: Path
    generation: int
    resources: Resources
    home: Path | None = None  # of the site, for the public weights that it keeps; a child sees nothing else of it
    seeded: bool = False  # reproducible noise, for simulations, whose reports are marked


Work = Callable[[Job, Vector], Vector]


def to_json(job: Job) -> bytes:
    return canonical_json(
        {
            "protocol": job.protocol.model_dump(mode="json"),
            "kind": job.kind,
            "round": job.round,
            "plan": job.plan.model_dump(mode="json"),
            "secret": job.secret.hex(),
            "cohort": str(job.cohort.resolve()),
            "generation": job.generation,
            "resources": job.resources.model_dump(mode="json"),
            "home": None if job.home is None else str(job.home.resolve()),
            "seeded": job.seeded,
        }
    )


def from_json(content: bytes) -> Job:
    value: dict[str, Any] = json.loads(content)
    return Job(
        protocol=validate(value["protocol"], TrainingProtocol, name="job"),
        kind=value["kind"],
        round=value["round"],
        plan=validate(value["plan"], Plan, name="job"),
        secret=bytes.fromhex(value["secret"]),
        cohort=Path(value["cohort"]),
        generation=value["generation"],
        resources=validate(value["resources"], Resources, name="job"),
        home=None if value["home"] is None else Path(value["home"]),
        seeded=value["seeded"],
    )
