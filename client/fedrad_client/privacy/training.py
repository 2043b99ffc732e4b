"""A site's local steps: DP-SGD whose unit is the patient.

Guarantees (privacy.md; tests under tests/privacy hold each of them):
1. A patient is in a step's batch with probability q, independently of all others (Poisson).
2. A patient adds one vector, clipped to the bound: the gradient of the mean over at most M drawn images. Only before the clip may that
   mean be summed up over several micro-batches.
3. Noise is added once a step to every parameter, also to an empty batch; the divisor is a constant of the plan.
4. A patient without label, or whose gradient is not finite, adds the zero vector; nobody else's gradient changes by a bit.
5. Out of memory, the same patients, images, views and noise are computed again in smaller parts; nothing is drawn or counted twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedrad_client.privacy.adam import BiasCorrectedAdam
from fedrad_client.privacy.batches import Batch, Draw, Source, Work, draw_images, images_at_a_time, in_parts
from fedrad_client.privacy.gradients.parts import Parts
from fedrad_client.privacy.gradients.precision import full_precision, network_precision
from fedrad_client.privacy.gradients.recording import Recording, recording
from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_client.work.tensors import choose_device
from fedrad_common.augmentation import check
from fedrad_common.tasks import task

if TYPE_CHECKING:
    from fedrad_client.cohort.dataset import Dataset
    from fedrad_client.config import Resources
    from fedrad_client.privacy.noise import NoiseSource
    from fedrad_client.privacy.plan import Plan
    from fedrad_common.protocol import TrainingProtocol

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
    source = Source(dataset, protocol.training.augmentation, views_of(protocol), features)
    plain = _optimizer(model, protocol, plan, round)
    private = protocol.privacy.unit == "patient"
    optimizer = _private_optimizer(plain, protocol, plan, noise.fork("noise")) if private else plain

    def losses(batch: Batch) -> Tensor:
        batch = batch.to(device)
        with network_precision(device, protocol.training.precision):
            outputs = forward(batch.images)
        return task(protocol.task.kind).loss(outputs.float(), batch.targets) * batch.weights

    size = images_at_a_time(
        resources.micro_batch, expected_batch=plan.expected_batch, views=source.views, device=device.type,
        most_of_a_patient=protocol.privacy.max_images,
    )  # fmt: skip
    with full_precision(device):
        for _ in range(protocol.privacy.steps_per_round):
            patients = np.flatnonzero(sampling.bernoulli(dataset.n_patients, plan.sampling_rate))
            draw = draw_images(dataset.owner, patients, at_most=protocol.privacy.max_images, views=source.views, noise=images)
            optimizer.zero_grad(set_to_none=True)
            if isinstance(optimizer, PatientOptimizer):
                size = _private_step(optimizer, model, losses, source, draw, size)
            else:
                size = _plain_step(model, losses, source, draw, size)
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


def _optimizer(model: nn.Module, protocol: TrainingProtocol, plan: Plan, round: int) -> torch.optim.Optimizer:  # noqa: A002
    training, rate = protocol.training, learning_rate(protocol, round)
    if training.optimizer == "adam-bc":
        spread = plan.noise_multiplier * protocol.privacy.clip_norm / plan.expected_batch
        return BiasCorrectedAdam(model.parameters(), lr=rate, noise_variance=spread**2, weight_decay=training.weight_decay)
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
        clipping=protocol.privacy.clipping,
    )


def _private_step(optimizer: PatientOptimizer, model: nn.Module, losses: Losses, source: Source, draw: Draw, size: int) -> int:
    """Returns how many images fitted into memory."""
    with recording(model) as kept:
        size = in_parts(source, draw, adding(optimizer, kept, losses), at_most=size, filled=True)
    optimizer.pre_step()
    return size


def adding(optimizer: PatientOptimizer, kept: Recording, losses: Losses) -> Work:
    """Work that clips whole patients and adds them to the step's sums."""

    def work(batches: Iterator[Batch]) -> None:
        with kept.forgetting():
            first, more = next(batches), next(batches, None)
            if more is None:
                optimizer.accumulate(kept.parts(losses(first), owner=first.owner, views=first.views))
                return
            # One patient with more images than fit at a time, whose gradients are formed to be added up before the clip.
            total: dict[Tensor, Tensor] = {}
            for batch in itertools.chain((first, more), batches):
                for parameter, rows in kept.per_patient(losses(batch), owner=batch.owner, views=batch.views).items():
                    rows = rows[: batch.n_patients]  # without the blank ones: by selection
                    total[parameter] = total[parameter] + rows if parameter in total else rows
        optimizer.accumulate(Parts.of_rows(total))

    return work


def _plain_step(model: nn.Module, losses: Losses, source: Source, draw: Draw, size: int) -> int:
    """The gradient of the mean over the drawn patients, without bound or noise: for phantoms and public data."""
    parameters = list(model.parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]

    def work(batches: Iterator[Batch]) -> None:
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in batches:
            each = torch.autograd.grad(losses(batch).sum(), parameters, allow_unused=True)
            total = [known if new is None else known + new for known, new in zip(total, each, strict=True)]
        for known, new in zip(sums, total, strict=True):
            known.add_(new)

    size = in_parts(source, draw, work, at_most=size, filled=False)
    n_patients = max(1, len(np.unique(draw.owner)))
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total.div_(n_patients)
    return size


def _pull_back(model: nn.Module, start: list[Tensor], proximal: float) -> None:
    """FedProx (Li et al. 2020): the gradient of proximal / 2 × the squared distance to the round's first weights."""
    if proximal:
        for parameter, origin in zip(model.parameters(), start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - origin, alpha=proximal)


def views_of(protocol: TrainingProtocol) -> int:
    return 1 if protocol.training.augmentation == "none" else protocol.training.multiplicity  # equal views would add nothing


def _forget(model: nn.Module) -> None:
    """Leave nothing of the patients on the module: gradients and Opacus' attributes."""
    for parameter in model.parameters():
        parameter.grad = None
        for name in ("grad_sample", "summed_grad"):
            vars(parameter).pop(name, None)
