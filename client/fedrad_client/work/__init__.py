"""What a site computes for one order: train or evaluate, inline or in a child process without keys, ledger or secrets around it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrad_client.config import Resources
from fedrad_client.privacy.plan import Plan
from fedrad_common.canonical import canonical_json
from fedrad_common.config import validate
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Kind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedrad_client.cohort.dataset import Dataset
    from fedrad_client.cohort.split import Part

# Exit status of the child -> what may be said about it. No text of the child's is ever read.
EXIT_CODES = {3: "input", 4: "memory", 5: "error"}
# What the child may know of our environment: nothing that could hold a secret.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV")
_CACHED_FEATURES = 1 << 26  # numbers of as many images as the plan expects, 256 MiB


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
    seeded: bool = False  # reproducible noise, for simulations, whose reports are marked


Work = Callable[[Job, Vector], Vector]


def run_inline(job: Job, model: Vector) -> Vector:
    """Compute here. The data set stays in memory for the next round.

    Returns:
        "train": the difference to `model`, float32, of its length; "evaluate": (n_labels × 2 × 32,) float32 counts.
    """
    return _compute(job, model, keep=True)


def run_child(job: Job, model: Vector) -> Vector:
    """Compute in a child with a scrubbed environment: the job over its stdin, vectors through a private folder that is removed.

    Raises:
        FedradError: the child failed or died; with one code of `EXIT_CODES`, or its signal, and nothing of its words.
    """
    with tempfile.TemporaryDirectory(prefix="fedrad-work-") as name:  # made with mode 0700
        folder = Path(name)
        (folder / "model.f32").write_bytes(model.astype("<f4", copy=False).tobytes())
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedrad_client.work", str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(job.resources),
            close_fds=True, cwd=folder,
        )  # fmt: skip
        try:
            child.communicate(to_json(job))
        finally:  # whoever stops the parent stops the child
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode != 0:
            raise _failed(EXIT_CODES.get(child.returncode, "died" if child.returncode < 0 else "error"))
        try:
            return np.fromfile(folder / "answer.f32", dtype="<f4")
        except FileNotFoundError:
            raise _failed("error") from None


def _failed(code: str) -> FedradError:
    hint = {"input": "check protocol, plan and cohort with `fedrad-site preview`", "memory": "lower resources.micro_batch"}
    return FedradError(f"work failed in the child: {code}", hint=hint.get(code, "the site's other orders are not affected"))


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
        seeded=value["seeded"],
    )


def _environment(resources: Resources) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if resources.threads:
        kept |= {"OMP_NUM_THREADS": str(resources.threads), "MKL_NUM_THREADS": str(resources.threads)}
    return kept


def _use_threads(threads: int) -> None:
    import torch

    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _compute(job: Job, model: Vector, *, keep: bool) -> Vector:
    if job.protocol.task.kind == "echo":
        from fedrad_common.tasks import echo

        return echo.update(model, job.round)
    from fedrad_client.cohort.withdrawal import withdrawn
    from fedrad_client.privacy.noise import AesNoise
    from fedrad_common.packing import pack, unpack

    _use_threads(job.resources.threads)
    part: Part = "training" if job.kind == "train" else "validation"
    gone = withdrawn(job.cohort)
    dataset = _dataset(job.cohort, job.generation, part, job.protocol.task.labels, gone)
    noise, network = AesNoise(job.secret), _network(_picture(job.protocol))
    unpack(network, model)
    kept = keep and (part == "validation" or job.protocol.training.augmentation == "none") and _fits(job, network)
    features = _features(job.cohort, job.generation, part, _picture(job.protocol), gone) if kept else None
    if job.kind == "train":
        if (job.protocol.privacy.unit == "patient") != (job.plan.noise_multiplier > 0):
            raise MisuseError(f"plan: noise {job.plan.noise_multiplier} for a protocol with unit {job.protocol.privacy.unit!r}")
        from fedrad_client.privacy.training import train

        train(
            dataset,
            protocol=job.protocol,
            plan=job.plan,
            model=network,
            round=job.round,
            noise=noise,
            resources=job.resources,
            features=features,
        )
        return pack(network) - model
    from fedrad_client.privacy.release import histogram, release
    from fedrad_client.work.scoring import patient_scores
    from fedrad_common.tasks import task

    if (job.plan.evaluation_noise > 0) != (job.plan.evaluation == "noised") or job.plan.evaluation == "none":
        raise MisuseError(f"plan: evaluation is {job.plan.evaluation!r} with noise {job.plan.evaluation_noise}")
    score = task(job.protocol.task.kind).score
    counts = histogram(*patient_scores(dataset, network, score=score, resources=job.resources, features=features))
    return release(counts, standard_deviation=job.plan.evaluation_noise, seeded=noise.fork("evaluation") if job.seeded else None)


def _fits(job: Job, network: nn.Module) -> bool:
    """Whether features may be kept: by what is public, never by the count, for it may change a last bit."""
    from fedrad_client.work.scoring import n_features

    images = job.plan.declared_size * job.protocol.privacy.max_images
    return images * n_features(network, height=job.protocol.input.height, width=job.protocol.input.width) <= _CACHED_FEATURES


@functools.lru_cache(maxsize=256)
def _dataset(cohort: Path, generation: int, part: Part, labels: tuple[str, ...], gone: frozenset[str] = frozenset()) -> Dataset:
    from fedrad_client.cohort.dataset import load_dataset
    from fedrad_client.cohort.store import open_cohort

    return load_dataset(open_cohort(cohort, generation), part=part, labels=labels, withdrawn=gone)


def _picture(protocol: TrainingProtocol) -> bytes:
    """The sections that a network and its fixed features depend on: a key for what is kept in memory."""
    value = protocol.model_dump(mode="json", include={"task", "input", "model"})
    return canonical_json(value)


def _network(picture: bytes) -> nn.Module:
    from fedrad_common.models import build
    from fedrad_common.protocol import Model
    from fedrad_common.tasks import task

    value = json.loads(picture)
    n_outputs = task(value["task"]["kind"]).n_outputs(value["task"]["labels"])
    model = validate(value["model"], Model, name="job")
    return build(model, n_outputs=n_outputs, height=value["input"]["height"], width=value["input"]["width"])


@functools.lru_cache(maxsize=64)
def _features(cohort: Path, generation: int, part: Part, picture: bytes, gone: frozenset[str]) -> Tensor | None:
    """What a network's fixed front makes of every image, once; None without one, or without images."""
    from fedrad_client.work.scoring import features_of, fixed_front

    pixels = _dataset(cohort, generation, part, tuple(json.loads(picture)["task"]["labels"]), gone).pixels
    front = fixed_front(_network(picture))
    return None if front is None or len(pixels) == 0 else features_of(pixels, front)


def main(folder: Path) -> int:
    """The child: one job from stdin, the vector from and to `folder`; says nothing, ends with a code."""
    try:
        job = from_json(sys.stdin.buffer.read())
        model = np.fromfile(folder / "model.f32", dtype="<f4")
        vector = _compute(job, model, keep=False)
        beside = folder / "answer.tmp"
        beside.write_bytes(vector.astype("<f4", copy=False).tobytes())
        beside.replace(folder / "answer.f32")
    except FedradError:
        return 3
    except MemoryError:
        return 4
    except Exception as error:  # whatever it says may quote a patient: only the code leaves
        with contextlib.suppress(ImportError):
            import torch

            if isinstance(error, torch.OutOfMemoryError):
                return 4
        return 5
    return 0
