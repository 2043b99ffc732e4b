"""A small data set, a plan and a protocol for local steps, and what a round of them does to a network."""

import numpy as np
import pytest
import torch
from torch import nn

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan
from fedrad_client.privacy.training import train
from fedrad_common.packing import pack
from fedrad_common.protocol import TrainingProtocol, parse_protocol, replace_settings

SIDE = 16
RATE = 0.1  # of learning
TEXT = b"""
format = "fedrad-protocol-1"
name = "tiny"
[task]
kind = "classification"
labels = ["lesion", "other"]
[input]
profile = "xr"
height = 16
width = 16
[model]
name = "resnet"
[privacy]
unit = "patient"
epsilon = 8.0
expected_batch = 5.0
steps_per_round = 1
rounds = 4
[training]
learning_rate = 0.1
[rounds]
quorum = 1
deadline_seconds = 5.0
"""


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other cost such small networks more than they bring, and may change the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def protocol(**settings: object) -> TrainingProtocol:
    """`privacy__rounds=2` sets `privacy.rounds`."""
    return replace_settings(parse_protocol(TEXT), {name.replace("__", "."): value for name, value in settings.items()})


def plan(*, sigma: float = 0.0, rate: float = 1.0, batch: float = 5.0) -> Plan:
    return Plan(
        n_parameters=1, protocol="0" * 64, declared_size=50, sampling_rate=rate, expected_batch=batch, noise_multiplier=sigma, delta=1e-5,
        epsilon=8.0, evaluation="none", evaluation_noise=0.0,
    )  # fmt: skip


def dataset(counts: tuple[int, ...] = (1, 4, 2, 1, 3), *, seed: int = 0) -> Dataset:
    """As many random images of each patient as `counts` says."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(counts)), counts)
    labels = (rng.random((len(owner), 2)) < 0.5).astype(np.float32)
    return Dataset(rng.integers(0, 65536, (len(owner), SIDE, SIDE)).astype(np.uint16), labels, owner, len(counts))


def patients_of(data: Dataset, chosen: list[int]) -> Dataset:
    """The same cohort, had only these patients ever come."""
    rows = np.flatnonzero(np.isin(data.owner, chosen))
    return Dataset(data.pixels[rows], data.labels[rows], np.searchsorted(chosen, data.owner[rows]), len(chosen))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))


def difference(
    data: Dataset, network: nn.Module | None = None, *, key: int = 0, micro_batch: int = 8, number: int = 1,
    setup: TrainingProtocol | None = None, constants: Plan | None = None,
) -> np.ndarray:  # fmt: skip
    network = network or linear()
    before = pack(network)
    train(
        data, protocol=setup or protocol(), plan=constants or plan(), model=network, round=number, noise=AesNoise.seeded(key),
        resources=Resources(threads=1, device="cpu", micro_batch=micro_batch),
    )  # fmt: skip
    return pack(network) - before
