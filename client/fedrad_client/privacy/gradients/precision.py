"""Float32 is float32: switches of the processes' libraries that would make less of it (privacy.md, rule 7)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

Precision = Literal["float32", "bfloat16"]


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 is float32 for the block, whatever the process was set to: no TF32, no bfloat16, no autocast.

    Nor are kernels chosen by their speed, so that the same job gives the same bytes.
    """
    switches = _precision_switches()
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, value in switches:
            setattr(place, name, value)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def network_precision(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """For the forward pass alone, inside `full_precision`: what it multiplies in, and the pass backwards after it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def _precision_switches() -> list[tuple[object, str, object]]:
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    kernels = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        return [*kernels, (cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    operations = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]
    return [*kernels, *((operation, "fp32_precision", "ieee") for operation in operations)]
