"""Train or evaluate for one order, here. What is read of a cohort stays in memory, by generation and by who withdrew."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedrad_common.canonical import canonical_json
from fedrad_common.config import validate
from fedrad_common.errors import MisuseError
from fedrad_common.weights import kept_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedrad_client.cohort.dataset import Dataset
    from fedrad_client.cohort.split import Part
    from fedrad_client.privacy.noise import AesNoise
    from fedrad_client.work.job import Job
    from fedrad_common.packing import Vector
    from fedrad_common.protocol import TrainingProtocol

_CACHED_FEATURES = 1 << 26  # numbers of as many images as the plan expects, 256 MiB


def run_inline(job: Job, model: Vector) -> Vector:
    """Compute here. The data set stays in memory for the next round.

    Returns:
        "train": the difference to `model`, float32, of its length; "evaluate": (n_labels × 2 × 32,) float32 counts.
    """
    if job.protocol.task.kind == "echo":
        from fedrad_common.tasks import echo

        return echo.update(model, job.round)
    from fedrad_client.cohort.withdrawal import withdrawn
    from fedrad_client.privacy.noise import AesNoise
    from fedrad_common.packing import unpack

    _use_threads(job.resources.threads)
    part: Part = "training" if job.kind == "train" else "validation"
    gone = withdrawn(job.cohort)
    dataset = _dataset(job.cohort, job.generation, part, job.protocol.task.labels, gone)
    noise, network = AesNoise(job.secret), _network(_picture(job))
    if job.kind == "train" and job.round == 1:
        _check_initial(job.protocol, network, model)
    unpack(network, model)
    kept = (part == "validation" or job.protocol.training.augmentation == "none") and _fits(job, network)
    features = _features(job.cohort, job.generation, part, _picture(job), gone) if kept else None
    compute = _train if job.kind == "train" else _evaluate
    return compute(job, dataset, network, features=features, noise=noise)


def _check_initial(protocol: TrainingProtocol, network: nn.Module, model: Vector) -> None:
    """Weights that a protocol calls random must be those of its seed: others may have learned from patients whom nobody counted.

    Raises:
        MisuseError: they are others, by more than rounding and another version of torch would make of them.
    """
    from fedrad_common.packing import pack

    if protocol.model.initial.kind == "random" and not np.allclose(pack(network), model, rtol=1e-3, atol=1e-4):
        raise MisuseError("model: not the first weights that the protocol's seed gives", hint="ask the coordinator where they come from")


def _train(job: Job, dataset: Dataset, network: nn.Module, *, features: Tensor | None, noise: AesNoise) -> Vector:
    from fedrad_client.privacy.training import train
    from fedrad_common.packing import pack

    if (job.protocol.privacy.unit == "patient") != (job.plan.noise_multiplier > 0):
        raise MisuseError(f"plan: noise {job.plan.noise_multiplier} for a protocol with unit {job.protocol.privacy.unit!r}")
    before = pack(network)
    train(
        dataset, protocol=job.protocol, plan=job.plan, model=network, round=job.round,
        noise=noise, resources=job.resources, features=features,
    )  # fmt: skip
    return pack(network) - before


def _evaluate(job: Job, dataset: Dataset, network: nn.Module, *, features: Tensor | None, noise: AesNoise) -> Vector:
    from fedrad_client.privacy.release import histogram, release
    from fedrad_client.work.scoring import patient_scores
    from fedrad_common.tasks import task

    if (job.plan.evaluation_noise > 0) != (job.plan.evaluation == "noised") or job.plan.evaluation == "none":
        raise MisuseError(f"plan: evaluation is {job.plan.evaluation!r} with noise {job.plan.evaluation_noise}")
    score = task(job.protocol.task.kind).score
    counts = histogram(*patient_scores(dataset, network, score=score, resources=job.resources, features=features))
    return release(counts, standard_deviation=job.plan.evaluation_noise, seeded=noise.fork("evaluation") if job.seeded else None)


def _use_threads(threads: int) -> None:
    import torch

    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


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


def _picture(job: Job) -> bytes:
    """What a network and its fixed features depend on: a key for what is kept in memory."""
    value = job.protocol.model_dump(mode="json", include={"task", "input", "model"})
    model = job.protocol.model
    held = job.home if model.trains != "all" and model.initial.kind == "public" else None
    return canonical_json(value | {"weights": held and str(kept_file(held, model.initial))})


def _network(picture: bytes) -> nn.Module:
    from fedrad_common.models import build
    from fedrad_common.protocol import Model
    from fedrad_common.tasks import task

    value = json.loads(picture)
    n_outputs = task(value["task"]["kind"]).n_outputs(value["task"]["labels"])
    model = validate(value["model"], Model, name="job")
    sizes = {"n_outputs": n_outputs, "height": value["input"]["height"], "width": value["input"]["width"]}
    return build(model, **sizes, backbone=_backbone(picture, **sizes) if value["weights"] else None)


@functools.lru_cache(maxsize=2)
def _backbone(picture: bytes, **sizes: int) -> Vector:
    """The public weights that stay as they are, from this site's own file, whose hash must be the one that was approved."""
    from fedrad_common.protocol import Model
    from fedrad_common.weights import backbone

    value = json.loads(picture)
    return backbone(validate(value["model"], Model, name="job"), Path(value["weights"]), **sizes)


@functools.lru_cache(maxsize=64)
def _features(cohort: Path, generation: int, part: Part, picture: bytes, gone: frozenset[str]) -> Tensor | None:
    """What a network's fixed front makes of every image, once; None without one, or without images."""
    from fedrad_client.work.scoring import features_of, fixed_front

    pixels = _dataset(cohort, generation, part, tuple(json.loads(picture)["task"]["labels"]), gone).pixels
    front = fixed_front(_network(picture))
    return None if front is None or len(pixels) == 0 else features_of(pixels, front)


def forget() -> None:
    """Drop what is kept of any cohort."""
    _dataset.cache_clear()
    _features.cache_clear()
    _backbone.cache_clear()
