"""A site's local steps: DP-SGD whose unit is the patient.

Guarantees (privacy.md; tests under tests/privacy hold each of them):
1. A patient is in a step's batch with probability q, independently of all others (Poisson).
2. A patient adds one vector, clipped to the bound: the gradient of the mean over at most M drawn images, all of them in one micro-batch.
3. Noise is added once a step to every parameter, also to an empty batch; the divisor is a constant of the plan.
4. A patient without label, or whose gradient is not finite, adds the zero vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedrad_client.privacy.gradients import recording
from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_client.tensors import choose_device, to_unit_range
from fedrad_common.augmentation import augment, check
from fedrad_common.tasks import task

if TYPE_CHECKING:
    from fedrad_client.cohort.dataset import Dataset
    from fedrad_client.config import Resources
    from fedrad_client.privacy.noise import NoiseSource
    from fedrad_client.privacy.plan import Plan
    from fedrad_common.protocol import TrainingProtocol

_CACHED_IMAGES = 64  # at a time on a CPU: more leave its cache and cost time


@dataclass(frozen=True)
class Batch:
    """Whole patients of one step."""

    images: Tensor  # (n × views, 1, H, W) float32 in [0, 1]; an image's views follow each other
    targets: Tensor  # (n × views, n_labels); NaN is unlabelled
    weights: Tensor  # (n × views,); those of one patient add up to 1
    owner: Tensor  # (n,) ascending from 0 without gaps

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device), self.targets.to(device), self.weights.to(device), self.owner.to(device))


Losses = Callable[[Batch], Tensor]  # of each view of a batch


def train(
    dataset: Dataset, *, protocol: TrainingProtocol, plan: Plan, model: nn.Module, round: int,  # noqa: A002
    noise: NoiseSource, resources: Resources, features: Tensor | None = None,
) -> None:  # fmt: skip
    """Train `model` in place for one round's steps. All randomness comes from `noise`, none from torch's global generators.

    Args:
        dataset: the training part.
        round: from 1; places the round in the learning rate's schedule.
        features: what `model.features` made of every image of `dataset`; then only `model.from_features` is run. Without augmentation only.
    """
    check(protocol.training.augmentation)
    device = choose_device(resources.device)
    model.train().to(device)
    forward = model if features is None else cast("Callable[[Tensor], Tensor]", model.from_features)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    sampling, images = noise.fork("sampling"), noise.fork("images")
    generator = torch.Generator().manual_seed(int(noise.fork("augmentation").integers(2**62, 1)[0]))
    plain = _optimizer(model, protocol, round)
    private = protocol.privacy.unit == "patient"
    optimizer = _private_optimizer(plain, protocol, plan, noise.fork("noise")) if private else plain

    def losses(batch: Batch) -> Tensor:
        return task(protocol.task.kind).loss(forward(batch.images), batch.targets)

    size = min(resources.micro_batch, _CACHED_IMAGES) if device.type == "cpu" else resources.micro_batch
    for _ in range(protocol.privacy.steps_per_round):
        patients = np.flatnonzero(sampling.bernoulli(dataset.n_patients, plan.sampling_rate))
        rows = drawn_images(dataset.owner, patients, at_most=protocol.privacy.max_images, noise=images)
        parts = split_by_patient(dataset.owner[rows], at_most=max(1, size // _views(protocol)))
        batches = (_batch(dataset, rows[part], protocol, generator, features).to(device) for part in parts)
        optimizer.zero_grad(set_to_none=True)
        if isinstance(optimizer, PatientOptimizer):
            _private_step(optimizer, model, losses, batches, _views(protocol))
        else:
            _plain_step(model, losses, batches)
        # After the noise: what pulls to the round's start, and the decay inside SGD, are post-processing and cost nothing.
        _pull_back(model, start, protocol.training.proximal)
        plain.step()
    _forget(model)
    model.to("cpu")


def learning_rate(protocol: TrainingProtocol, round: int) -> float:  # noqa: A002
    """Constant, or half a cosine over the protocol's rounds, from the full rate in round 1 to nearly none in the last."""
    full, rounds = protocol.training.learning_rate, protocol.privacy.rounds
    if protocol.training.schedule == "constant":
        return full
    return full * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2


def drawn_images(
    owner: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], *, at_most: int, noise: NoiseSource
) -> npt.NDArray[np.int64]:
    """Row numbers of the given patients' images, ascending; of a patient with more than `at_most`, that many at random."""
    first, last = np.searchsorted(owner, patients, side="left"), np.searchsorted(owner, patients, side="right")
    kept = []
    for start, stop in zip(first.tolist(), last.tolist(), strict=True):
        rows = np.arange(start, stop)
        if len(rows) > at_most:
            rows = np.sort(rows[np.argsort(noise.integers(2**62, len(rows)))[:at_most]])
        kept.append(rows)
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def _optimizer(model: nn.Module, protocol: TrainingProtocol, round: int) -> torch.optim.Optimizer:  # noqa: A002
    training, rate = protocol.training, learning_rate(protocol, round)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=training.weight_decay)
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=training.momentum, weight_decay=training.weight_decay)


def _private_optimizer(
    optimizer: torch.optim.Optimizer, protocol: TrainingProtocol, plan: Plan, noise: NoiseSource
) -> PatientOptimizer:  # fmt: skip
    return PatientOptimizer(
        optimizer,
        noise=noise,
        noise_multiplier=plan.noise_multiplier,
        clip_norm=protocol.privacy.clip_norm,
        expected_batch=plan.expected_batch,
    )


def _private_step(optimizer: PatientOptimizer, model: nn.Module, losses: Losses, batches: Iterator[Batch], views: int) -> None:
    with recording(model) as kept:
        for batch in batches:
            optimizer.accumulate(kept.per_patient(losses(batch), weights=batch.weights, owner=batch.owner, views=views))
    optimizer.pre_step()


def _plain_step(model: nn.Module, losses: Losses, batches: Iterator[Batch]) -> None:
    """The gradient of the mean over the drawn patients, without bound or noise: for phantoms and public data."""
    n_patients = 0
    for batch in batches:
        (losses(batch) * batch.weights).sum().backward()  # type: ignore[no-untyped-call]
        n_patients += int(batch.owner[-1]) + 1
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / n_patients


def _pull_back(model: nn.Module, start: list[Tensor], proximal: float) -> None:
    """FedProx (Li et al. 2020): the gradient of proximal / 2 × the squared distance to the round's first weights."""
    if proximal:
        for parameter, origin in zip(model.parameters(), start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - origin, alpha=proximal)


def split_by_patient(owner: npt.NDArray[np.int64], *, at_most: int) -> Iterator[slice]:
    """Consecutive parts of at most `at_most` images, or of one patient where that one has more; nobody is in two parts."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.append(starts[1:], len(owner)) if len(owner) else starts
    begin = end = 0
    for stop in ends.tolist():
        if stop - begin > at_most and end > begin:
            yield slice(begin, end)
            begin = end
        end = stop
    if end > begin:
        yield slice(begin, end)


def _batch(
    dataset: Dataset, rows: npt.NDArray[np.int64], protocol: TrainingProtocol, generator: torch.Generator, features: Tensor | None
) -> Batch:
    views = _views(protocol)
    _, owner, counts = np.unique(dataset.owner[rows], return_inverse=True, return_counts=True)
    if features is None:
        images = augment(protocol.training.augmentation, to_unit_range(dataset.pixels[rows]).repeat_interleave(views, dim=0), generator)
    else:
        images = features[torch.from_numpy(rows)]
    weights = (1.0 / (counts[owner] * views)).astype(np.float32)
    return Batch(
        images=images,
        targets=torch.from_numpy(dataset.labels[rows]).repeat_interleave(views, dim=0),
        weights=torch.from_numpy(weights).repeat_interleave(views),
        owner=torch.from_numpy(owner.astype(np.int64)),
    )


def _views(protocol: TrainingProtocol) -> int:
    return 1 if protocol.training.augmentation == "none" else protocol.training.multiplicity  # equal views would add nothing


def _forget(model: nn.Module) -> None:
    """Leave nothing of the patients on the module: gradients and Opacus' attributes."""
    for parameter in model.parameters():
        parameter.grad = None
        for name in ("grad_sample", "summed_grad"):
            vars(parameter).pop(name, None)
