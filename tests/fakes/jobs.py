"""One small job for a site's work, with a real network or as an echo."""

from pathlib import Path

from fedrad_client.config import Resources
from fedrad_client.privacy.plan import Plan
from fedrad_client.work import Job
from fedrad_common.protocol import TrainingProtocol, parse_protocol, replace_settings


def network_protocol(content: bytes, **settings: object) -> TrainingProtocol:
    small = {"task.kind": "classification", "model.name": "resnet", "model.options": {"channels": 8, "stages": 1}}
    return replace_settings(parse_protocol(content), small | settings)


def job_on(cohort: Path, protocol: TrainingProtocol) -> Job:
    plan = Plan(
        protocol=protocol.hash, n_parameters=1, declared_size=50, sampling_rate=0.3, expected_batch=15.0, noise_multiplier=1.0, delta=1e-4,
        epsilon=8.0, evaluation="exact", evaluation_noise=0.0,
    )  # fmt: skip
    return Job(
        protocol=protocol, kind="train", round=1, plan=plan, secret=bytes(range(32)), cohort=cohort, generation=1,
        resources=Resources(threads=1, device="cpu"), seeded=True,
    )  # fmt: skip
