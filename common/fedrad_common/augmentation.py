"""Views of an image that show the same finding: made of that image and of its own random draws, and of nothing else.

The draws are an argument. torch's generators keep 32 bits of a seed: whoever tries them all knows the views, and then one patient more,
who moves everybody's place in the stream, changes everybody's gradient (privacy.md, rules 5 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fedrad_common.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 7  # for each view
Augmentation = Callable[["Tensor", "Tensor"], "Tensor"]


def augment(name: str, images: Tensor, draws: Tensor) -> Tensor:
    """One view of each image, (n, 1, H, W) in [0, 1] -> the same shape.

    Args:
        draws: (n, DRAWS) float32 on the CPU, independent and uniform in [-1, 1).

    Raises:
        ConfigError: no such augmentation.
    """
    check(name)
    return AUGMENTATIONS[name](images, draws)


def check(name: str) -> None:
    if name not in AUGMENTATIONS:
        raise ConfigError(f"training.augmentation: {name!r} is not known", hint=f"known: {', '.join(AUGMENTATIONS)}")


def none(images: Tensor, draws: Tensor) -> Tensor:
    return images


def xr(images: Tensor, draws: Tensor) -> Tensor:
    """Projection radiographs: small pose, mirrored half of the time, exposure and contrast."""
    moved = _moved(images, draws[:, :5], degrees=8, scale=0.08, shift=0.07, mirror=True)
    return _exposed(moved, draws[:, 5:], contrast=0.15, brightness=0.07)


def mr(images: Tensor, draws: Tensor) -> Tensor:
    """Axial slices: more rotation, mirrored half of the time, the coil's gain."""
    moved = _moved(images, draws[:, :5], degrees=15, scale=0.1, shift=0.06, mirror=True)
    return _exposed(moved, draws[:, 5:], contrast=0.15, brightness=0.05)


AUGMENTATIONS: dict[str, Augmentation] = {"none": none, "xr": xr, "mr": mr}


def _moved(images: Tensor, draws: Tensor, *, degrees: float, scale: float, shift: float, mirror: bool) -> Tensor:
    """Random rotation, size, place (`shift` in parts of the side) and mirroring; the border's value goes on outside."""
    import torch
    from torch.nn import functional

    turn, grow, across, down, side = draws.unbind(1)
    angle, size = turn * math.radians(degrees), 1 + grow * scale
    flip = torch.where(side < 0, -1.0, 1.0) if mirror else torch.ones(len(images))
    cosine, sine = size * torch.cos(angle), size * torch.sin(angle)
    rows = (torch.stack([cosine * flip, -sine, 2 * shift * across], dim=1), torch.stack([sine * flip, cosine, 2 * shift * down], dim=1))
    grid = functional.affine_grid(torch.stack(rows, dim=1).to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _exposed(images: Tensor, draws: Tensor, *, contrast: float, brightness: float) -> Tensor:
    gain, offset = (part.view(-1, 1, 1, 1).to(images.device) for part in draws.unbind(1))
    return ((images - 0.5) * (1 + gain * contrast) + 0.5 + offset * brightness).clamp(0, 1)
