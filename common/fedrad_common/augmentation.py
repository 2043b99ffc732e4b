"""Views of an image that show the same finding: one random draw for each image, nothing from any other image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fedrad_common.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Augmentation = Callable[["Tensor", "torch.Generator"], "Tensor"]


def augment(name: str, images: Tensor, generator: torch.Generator) -> Tensor:
    """One random view of each image, (n, 1, H, W) in [0, 1] -> the same shape; randomness from `generator` (on the CPU) alone.

    Raises:
        ConfigError: no such augmentation.
    """
    check(name)
    return AUGMENTATIONS[name](images, generator)


def check(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise ConfigError(f"training.augmentation: {name!r} is not known", hint=f"known: {', '.join(AUGMENTATIONS)}")


def none(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def xr(images: Tensor, generator: torch.Generator) -> Tensor:
    """Projection radiographs: small pose, mirrored half of the time, exposure and contrast."""
    moved = _moved(images, generator, degrees=8, scale=0.08, shift=0.07, mirror=True)
    return _exposed(moved, generator, contrast=0.15, brightness=0.07)


def mr(images: Tensor, generator: torch.Generator) -> Tensor:
    """Axial slices: more rotation, mirrored half of the time, the coil's gain."""
    moved = _moved(images, generator, degrees=15, scale=0.1, shift=0.06, mirror=True)
    return _exposed(moved, generator, contrast=0.15, brightness=0.05)


AUGMENTATIONS: dict[str, Augmentation] = {"none": none, "xr": xr, "mr": mr}


def _moved(images: Tensor, generator: torch.Generator, *, degrees: float, scale: float, shift: float, mirror: bool) -> Tensor:
    """Random rotation, size, place (`shift` in parts of the side) and mirroring; the border's value goes on outside."""
    import torch
    from torch.nn import functional

    n = len(images)
    angle = _uniform(n, generator) * math.radians(degrees)
    size = 1 + _uniform(n, generator) * scale
    across, down = _uniform(n, generator) * 2 * shift, _uniform(n, generator) * 2 * shift
    flip = torch.where(_uniform(n, generator) < 0, -1.0, 1.0) if mirror else torch.ones(n)
    cosine, sine = size * torch.cos(angle), size * torch.sin(angle)
    rows = (torch.stack([cosine * flip, -sine, across], dim=1), torch.stack([sine * flip, cosine, down], dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1).to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _exposed(images: Tensor, generator: torch.Generator, *, contrast: float, brightness: float) -> Tensor:
    gain = (1 + _uniform(len(images), generator) * contrast).view(-1, 1, 1, 1).to(images.device)
    offset = (_uniform(len(images), generator) * brightness).view(-1, 1, 1, 1).to(images.device)
    return ((images - 0.5) * gain + 0.5 + offset).clamp(0, 1)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    import torch

    return torch.rand(n, generator=generator) * 2 - 1
