"""The smallest network that a patient can be seen in, trained by a site's own code under a plan that the site's own accountant made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.privacy.training import train
from fedrad_common.accounting import NUMERIC_SHARE
from fedrad_common.config import validate
from fedrad_common.packing import pack
from fedrad_common.profiles import SCALE
from fedrad_common.protocol import TrainingProtocol

DELTA = 1e-5
CLIP = 0.1  # far below what a lit pixel's gradient is, 0.5: every canary is clipped, and so of one length
RESOURCES = Resources(threads=1, device="cpu")
LEAST_NOISE = 0.5  # the policy's


@dataclass(frozen=True)
class Setting:
    """A linear network on raw pixels, from zero in each round: the attacker chooses every round's model, and reads every release.

    With zero weights a patient's gradient is (1/2 - label) × image, in clip norms a vector of length 1: for an image with one lit pixel,
    a single weight's.
    """

    protocol: TrainingProtocol
    plan: Plan
    bias: bool = False

    @property
    def steps(self) -> int:
        return self.protocol.privacy.steps

    def with_noise(self, share: float) -> Setting:
        """The same claim, with a silent share of its noise: what an audit has to find."""
        return replace(self, plan=self.plan.model_copy(update={"noise_multiplier": share * self.plan.noise_multiplier}))

    def release(self, dataset: Dataset, *, secret: bytes) -> npt.NDArray[np.float64]:
        """One round's update as the attacker reads it: (weights,) the noisy sum of the patients' vectors, in clip norms."""
        import torch
        from torch import nn

        side = self.protocol.input.height * self.protocol.input.width
        network = nn.Sequential(nn.Flatten(), nn.Linear(side, 1, bias=self.bias))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        train(dataset, protocol=self.protocol, plan=self.plan, model=network, round=1, noise=AesNoise(secret), resources=RESOURCES)
        return pack(network).astype(np.float64) * (self.plan.expected_batch / (self.protocol.training.learning_rate * CLIP))


def make_setting(
    *, epsilon: float, patients: int, rate: float, rounds: int, side: int, delta: float = DELTA, bias: bool = False
) -> Setting:  # fmt: skip
    """A claim of `epsilon` for `rounds` steps of a site that declares so many patients; of images of `side` pixels squared."""
    value: dict[str, Any] = {
        "format": "fedrad-protocol-1",
        "name": "audit",
        "task": {"kind": "classification", "labels": ["finding"]},
        "input": {"profile": "xr", "height": side, "width": side},
        "model": {"name": "audit-linear"},
        "privacy": {
            "unit": "patient", "epsilon": epsilon, "clip_norm": CLIP, "expected_batch": rate * patients, "steps_per_round": 1,
            "rounds": rounds, "max_images": 1,
        },
        "training": {"learning_rate": 1.0},
        "rounds": {"quorum": 1, "deadline_seconds": 60.0},
    }  # fmt: skip
    protocol = validate(value, TrainingProtocol, name="audit")
    plan = make_plan(
        protocol, n_parameters=side * side + bias, declared_size=patients, delta=delta, numeric_delta=NUMERIC_SHARE * delta,
        least_noise=LEAST_NOISE, validation_fraction=0.0,
    )  # fmt: skip
    return Setting(protocol, plan, bias)


def canaries(pixels: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.uint16]:
    """(n, side, side) images, black but for one lit pixel each."""
    images = np.zeros((len(pixels), side * side), dtype=np.uint16)
    images[np.arange(len(pixels)), pixels] = SCALE
    return images.reshape(-1, side, side)


def cohort_of(images: npt.NDArray[np.uint16], labels: npt.NDArray[np.int64] | None = None) -> Dataset:
    """One image a patient; all have the finding unless `labels` says otherwise."""
    n = len(images)
    truth = np.ones(n) if labels is None else labels
    return Dataset(images, truth.astype(np.float32).reshape(n, 1), np.arange(n), n)


def secret(**what: object) -> bytes:
    """Of one question and no other: fresh noise for every run, and the same for the same seed."""
    return hashlib.sha256(b"fedrad audit " + json.dumps(what, sort_keys=True).encode()).digest()
