"""What several images of one patient cost, beside the same number of patients with one: `python simulations/benchmarks/dp_images.py`.

Steps of the training itself (`privacy/training.py`), in its micro-batches with their blank images, of as many patients as Poisson sampling
draws; alternated step by step, the same number of images in both modes. Sums over all steps.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from dp_step import CPU, NETWORKS  # type: ignore[import-not-found] # beside this one
from torch import Tensor, nn

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.privacy.batches import Batch, Source, draw_images, images_at_a_time
from fedrad_client.privacy.gradients.precision import full_precision
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_client.privacy.training import _private_step
from fedrad_common import processes
from fedrad_common.tasks import task

PATIENTS = 32


def step_of(network: nn.Module, *, expected: int, images_each: int, most: int, side: int) -> Callable[[int], None]:
    """A step of so many patients."""
    random, n = np.random.default_rng(0), 2 * expected * images_each
    pixels = random.integers(0, 2**16, (n, side, side), dtype=np.uint16)
    labels = (random.random((n, 1)) < 0.5).astype(np.float32)
    source = Source(Dataset(pixels, labels, np.repeat(np.arange(2 * expected), images_each), 2 * expected), "none", 1, None)
    inner = torch.optim.SGD(network.parameters(), lr=1e-3)
    optimizer = PatientOptimizer(inner, noise=AesNoise.seeded(0), noise_multiplier=1.0, clip_norm=1.0, expected_batch=float(expected))
    at_most = images_at_a_time(256, expected_batch=float(expected), views=1, device="cpu", most_of_a_patient=most)

    def losses(batch: Batch) -> Tensor:
        return task("classification").loss(network(batch.images), batch.targets) * batch.weights

    def step(patients: int) -> None:
        draw = draw_images(source.dataset.owner, np.arange(patients), at_most=images_each, views=1, noise=AesNoise.seeded(0))
        optimizer.zero_grad(set_to_none=True)
        with full_precision(CPU):
            _private_step(optimizer, network, losses, source, draw, at_most)
        inner.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="small CNN", help="networks whose name holds this")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    options = parser.parse_args()
    processes.keep_memory()
    torch.set_num_threads(options.threads)
    for name, (make, _, size) in NETWORKS.items():
        if options.only not in name:
            continue
        for count in options.images:
            steps = {
                "several": step_of(make(), expected=PATIENTS, images_each=count, most=max(options.images), side=size[0]),
                "one": step_of(make(), expected=PATIENTS * count, images_each=1, most=1, side=size[0]),
            }
            found: dict[str, list[float]] = {mode: [] for mode in steps}
            for repeat, patients in enumerate(np.random.default_rng(1).poisson(PATIENTS, options.repeats + 2).tolist()):
                for mode, step in steps.items():
                    began = time.perf_counter()
                    step(patients if mode == "several" else patients * count)
                    found[mode] += [time.perf_counter() - began] if repeat >= 2 else []
            ms = {mode: round(1e3 * statistics.mean(each), 1) for mode, each in found.items()}
            row = {"network": name.split(",")[0], "patients": PATIENTS, "images each": count, "ms": ms}
            print(json.dumps(row | {"several ÷ one": round(ms["several"] / ms["one"], 3)}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
