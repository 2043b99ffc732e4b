"""A site that answers within milliseconds, for benchmarks that kill it: no images, no network, and a plan written by hand.

What lies on the disk, and every step of `answer`, is a real site's. Neither torch nor Flower is imported: it is forked hundreds of times.
"""

from pathlib import Path

import numpy as np

from fedrad_client.cohort.store import CURRENT, MANIFEST, Manifest, folder_name
from fedrad_client.config import SiteConfig
from fedrad_client.grants import Approval, write_approval
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Home, create_site
from fedrad_client.site_toml import render
from fedrad_client.work import Job
from fedrad_common.config import parse_toml
from fedrad_common.files import write_atomic, write_json
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.profiles import profile
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Asked, Kind, Order
from fedrad_sim.one_site import asked

PROTOCOL = b"""
format = "fedrad-protocol-1"
name = "killed"
task = { kind = "echo", labels = ["lesion"] }
input = { profile = "xr", height = 8, width = 8 }
model = { name = "echo", options = { length = 64 } }
privacy = { unit = "patient", epsilon = 0.5, expected_batch = 5.0, steps_per_round = 2, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 1, deadline_seconds = 60.0 }
evaluation = { rounds = [2], epsilon = 1.0 }
"""
HASH = parse_protocol(PROTOCOL).hash
STEPS = 2  # a round
MODEL = np.zeros(64, np.float32)

Question = tuple[str, int, Kind]  # run, round


def make_site(path: Path, coordinator: SigningKey) -> Home:
    """A site that has approved the protocol."""
    text = render(name=path.name, epsilon=8.0, delta=1e-3, validation_fraction=0.2)
    text = text.replace('tasks = ["classification"]', 'tasks = ["echo"]')
    home = create_site(path, parse_toml(text.encode(), SiteConfig, name="site.toml"), toml=text, coordinator=coordinator.public)
    plan = Plan(
        protocol=HASH, n_parameters=MODEL.size, declared_size=60, sampling_rate=5 / 60, expected_batch=5.0, noise_multiplier=2.0,
        delta=1e-3, epsilon=0.5, evaluation="noised", evaluation_noise=4.0,
    )  # fmt: skip
    (path / "approved" / HASH).mkdir()
    write_atomic(path / "approved" / HASH / "protocol.toml", PROTOCOL)
    write_json(path / "approved" / HASH / "plan.json", plan.model_dump(mode="json"))
    write_approval(path / "approved" / HASH, Approval(runs=1_000_000, since=0))  # more than the ceiling holds
    manifest = Manifest(
        generation=1, profile="xr", profile_hash=profile("xr").hash, height=8, width=8, key="benchmark", validation_fraction=0.2,
        labels=("lesion",), n_files=1, n_images=1, n_patients=1, files={},
    )  # fmt: skip
    (home.cohort / folder_name(1)).mkdir(parents=True)
    write_json(home.cohort / folder_name(1) / MANIFEST, manifest.model_dump(mode="json"))
    write_atomic(home.cohort / CURRENT, f"{folder_name(1)}\n".encode())
    return home


def questions(runs: int) -> list[Question]:
    rounds: tuple[tuple[int, Kind], ...] = ((1, "train"), (2, "train"), (2, "evaluate"))
    return [(f"run-{run:08d}", number, kind) for run in range(runs) for number, kind in rounds]


def order(question: Question, coordinator: SigningKey, home: Path) -> Asked:
    run, number, kind = question
    order = Order(run=run, epoch=1, round=number, kind=kind, protocol=HASH, model=vector_hash(MODEL), length=MODEL.size)
    return asked(order, MODEL, coordinator, home)


def work(job: Job, model: Vector) -> Vector:
    """A few milliseconds, so that a death may strike here too; as random as the reservation is."""
    noise = np.random.default_rng(list(job.secret))
    for _ in range(20):
        drawn = noise.normal(size=10_000)
    return drawn[: 64 if job.kind == "evaluate" else model.size].astype(np.float32)
