"""A small residual network on fixed wavelet features: what noise costs most, early filters, is not learned at all.

The front end is an order-2 scattering transform of Morlet wavelets (Bruna and Mallat 2013): the same constants at every site, computed
from no data, so that it adds nothing to the privacy cost (Tramèr and Boneh 2021: private training needs better features).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_common.models.resnet import Block, standardized


@functools.lru_cache(maxsize=16)
def morlet_bank(scale: int, orientations: int, size: int, device: str) -> Tensor:
    """(2 × orientations, 1, size, size) float32: real parts of the wavelets, then imaginary ones; each of mean zero."""
    sigma, frequency, slant = 0.8 * 2**scale, 0.75 * math.pi / 2**scale, 4.0 / orientations
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    real: list[Tensor] = []
    imaginary: list[Tensor] = []
    for index in range(orientations):
        angle = math.pi * index / orientations
        along = math.cos(angle) * columns + math.sin(angle) * rows
        across = -math.sin(angle) * columns + math.cos(angle) * rows
        envelope = torch.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
        for parts, wave in ((real, torch.cos(frequency * along)), (imaginary, torch.sin(frequency * along))):
            parts.append(envelope * wave - (envelope * wave).sum() / envelope.sum() * envelope)
    return torch.stack(real + imaginary).unsqueeze(1).float().to(device)


class Scattering(nn.Module):
    """(n, 1, H, W) to (n, 1 + 2L + L², H / 4, W / 4) with L orientations and two scales. Nothing here is trained or kept."""

    def __init__(self, orientations: int) -> None:
        super().__init__()
        self.orientations = orientations
        self.channels = 1 + 2 * orientations + orientations**2

    def forward(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        device = str(images.device)
        fine, coarse = morlet_bank(0, self.orientations, 7, device), morlet_bank(1, self.orientations, 11, device)
        scaled = standardized(images)
        first = _modulus(scaled, fine, stride=1)
        second = _modulus(scaled, coarse, stride=2)
        both = _modulus(first.reshape(-1, 1, height, width), coarse, stride=2).reshape(n, -1, height // 2, width // 2)
        pooled = [functional.avg_pool2d(scaled, 4), functional.avg_pool2d(first, 4)]
        pooled += [functional.avg_pool2d(second, 2), functional.avg_pool2d(both, 2)]
        # Each order to zero mean and unit variance, image by image.
        return torch.cat([functional.group_norm(part, 1) for part in pooled], dim=1)


def _modulus(maps: Tensor, bank: Tensor, *, stride: int) -> Tensor:
    pad = bank.shape[-1] // 2
    real, imaginary = functional.conv2d(functional.pad(maps, (pad, pad, pad, pad), mode="reflect"), bank, stride=stride).chunk(2, dim=1)
    return torch.sqrt(real * real + imaginary * imaginary + 1e-12)


class ScatterResNet(nn.Module):
    """Scattering, 1 × 1 stem, `blocks` residual blocks of `channels`, linear head from zero.

    Args:
        channels: a multiple of `groups`.
        orientations: of the wavelets; the stem sees 1 + 2L + L² channels.
        head: "flat" sees every place of the map (small, centred images); "mean" averages over it.
    """

    def __init__(
        self, n_outputs: int, height: int, width: int, *,
        channels: int = 36, blocks: int = 1, groups: int = 4, orientations: int = 8, head: str = "flat",
    ) -> None:  # fmt: skip
        super().__init__()
        if min(channels, blocks, groups, orientations) < 1 or channels % groups:
            raise ValueError(f"channels {channels}, blocks {blocks}, groups {groups}: expected ≥ 1, groups dividing channels")
        if height % 4 or width % 4 or min(height, width) < 16:
            raise ValueError(f"input {height} × {width}: expected multiples of 4 from 16")
        if head not in ("flat", "mean"):
            raise ValueError(f"head {head!r}: expected flat or mean")
        self.scattering = Scattering(orientations)
        self.stem = nn.Conv2d(self.scattering.channels, channels, 1, bias=False)
        self.body = nn.Sequential(*[Block(channels, channels, stride=1, groups=groups, convolution=nn.Conv2d) for _ in range(blocks)])
        self.norm = nn.GroupNorm(groups, channels)
        self.flat = head == "flat"
        self.head = nn.Linear(channels * (height // 4) * (width // 4) if self.flat else channels, n_outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.from_features(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The fixed part: of one image alone, and of no weight, so that training without augmentation computes it once an image."""
        maps: Tensor = self.scattering(images)
        return maps

    def from_features(self, features: Tensor) -> Tensor:
        maps = functional.relu(self.norm(self.body(self.stem(features))))
        logits: Tensor = self.head(maps.flatten(1) if self.flat else maps.mean((2, 3)))
        return logits
