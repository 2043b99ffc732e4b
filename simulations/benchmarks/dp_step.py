"""What a private step costs beside a plain one of the same network: `python simulations/benchmarks/dp_step.py [--threads 1]`.

Modes are alternated step by step in one process; medians. The plain step is stock torch's forward, backward and SGD, the better of NCHW
and channels_last. Hooks: Opacus' GradSampleModule with its own optimizer. Noise is drawn in both private modes, each from its own source.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional

from fedrad_client.privacy.batches import Batch
from fedrad_client.privacy.gradients.precision import Precision, full_precision, network_precision
from fedrad_client.privacy.gradients.recording import recording
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_client.privacy.training import adding
from fedrad_common import processes
from fedrad_common.models import build
from fedrad_common.models.unet import UNet
from fedrad_common.protocol import Model

CPU = torch.device("cpu")
Step = Callable[[], None]


def cnn() -> nn.Module:
    """The usual small network of DP papers, with group normalisation."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 8 * 8, 1))


def registered(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: build(Model(name=name, options=options), n_outputs=1, height=64, width=64)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {  # batch, size of an image
    "small CNN, 64 px, B 64": (cnn, 64, (64, 64)),
    "ResNet-18-GN, 64 px, B 32": (registered("resnet18"), 32, (64, 64)),
    "DenseNet-121-GN, 64 px, B 32": (registered("densenet121"), 32, (64, 64)),
    "U-Net-GN, 64 px, B 16": (registered("unet"), 16, (64, 64)),
    "U-Net-GN in 3-D, 32³ voxels, B 4": (lambda: UNet(1, 32, 32, depth=32), 4, (32, 32, 32)),
    "pneumonia's resnet, 64 px, B 64": (registered("resnet"), 64, (64, 64)),
}


def plain(network: nn.Module, images: Tensor, targets: Tensor, *, channels_last: bool) -> Step:
    if channels_last:
        layout = torch.channels_last if images.dim() == 4 else torch.channels_last_3d
        network = network.to(memory_format=layout)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.binary_cross_entropy_with_logits(network(images), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def ours(network: nn.Module, images: Tensor, targets: Tensor, *, each: int, precision: Precision = "float32") -> Step:
    """A step of whole patients, one image each, `each` images at a time."""
    inner = torch.optim.SGD(network.parameters(), lr=1e-3)
    n = len(images)
    optimizer = PatientOptimizer(inner, noise=AesNoise.seeded(0), noise_multiplier=1.0, clip_norm=1.0, expected_batch=float(n))
    parts = [
        Batch(images[at : at + each], targets[at : at + each], torch.ones(each), torch.arange(each), each, 1) for at in range(0, n, each)
    ]

    def losses(batch: Batch) -> Tensor:
        with network_precision(CPU, precision):
            outputs = network(batch.images)
        return functional.binary_cross_entropy_with_logits(outputs.float(), batch.targets, reduction="none").sum(1) * batch.weights

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with full_precision(CPU), recording(network) as kept:
            work = adding(optimizer, kept, losses)
            for part in parts:
                work(iter([part]))
        optimizer.pre_step()
        inner.step()

    return step


def hooks(network: nn.Module, images: Tensor, targets: Tensor) -> Step:
    wrapped = GradSampleModule(network)
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1e-3), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(images)
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.binary_cross_entropy_with_logits(wrapped(images), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def pictures(batch: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(batch, 1, *size) at random, and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand((batch, 1, *size), generator=generator), (torch.rand((batch, 1), generator=generator) < 0.5).float()


def measure(
    make: Callable[[], nn.Module], batch: int, size: tuple[int, ...], *, repeats: int, each: int, with_hooks: bool
) -> dict[str, list[float]]:
    """Seconds a step, by mode."""
    images, targets = pictures(batch, size)
    steps = {
        "plain": plain(make(), images, targets, channels_last=False),
        "plain, channels_last": plain(make(), images, targets, channels_last=True),
        "ours": ours(make(), images, targets, each=min(each, batch)),
        "ours, bfloat16": ours(make(), images, targets, each=min(each, batch), precision="bfloat16"),
    }
    if with_hooks:
        steps["hooks"] = hooks(make(), images, targets)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-2, repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            found[name] += [time.perf_counter() - began] if repeat >= 0 else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--each", type=int, default=64, help="images at a time, ours")
    parser.add_argument("--only", help="networks whose name holds this")
    parser.add_argument("--no-hooks", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    processes.keep_memory()  # as in a site's training child
    torch.set_num_threads(options.threads)
    np.random.seed(0)
    rows = []
    for name, (make, batch, size) in NETWORKS.items():
        if options.only and options.only not in name:
            continue
        times = measure(make, batch, size, repeats=options.repeats, each=options.each, with_hooks=not options.no_hooks)
        middle = {mode: statistics.median(each) for mode, each in times.items()}
        best = min(middle["plain"], middle["plain, channels_last"])
        rows.append(
            {"network": name, "threads": options.threads, "ms": {mode: round(1e3 * each, 1) for mode, each in middle.items()}}
            | {"ours ÷ plain": round(middle["ours"] / best, 2)}
            | (
                {"hooks ÷ plain": round(middle["hooks"] / best, 2), "hooks ÷ ours": round(middle["hooks"] / middle["ours"], 2)}
                if "hooks" in middle
                else {}
            )
        )
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    print(f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
