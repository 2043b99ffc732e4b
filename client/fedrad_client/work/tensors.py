"""Stored pixels as a network sees them, and where it runs; apart from training, so that evaluation need not load Opacus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedrad_common.profiles import SCALE


def to_unit_range(pixels: npt.NDArray[np.uint16]) -> Tensor:
    """(n, H, W) stored values -> (n, 1, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(SCALE))[:, None]


def choose_device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)
