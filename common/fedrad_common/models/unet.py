"""U-Net (Ronneberger et al. 2015; Çiçek et al. 2016 in three dimensions) with group normalisation: no buffer, nothing in place."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_common.models.resnet import standardized

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class DoubleConvolution(nn.Module):
    """Twice convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, dims: int) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[dims]
        self.conv1 = convolution(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(maps))))))


class UNet(nn.Module):
    """(n, 1, *size) in [0, 1] to (n, n_outputs) logits: the smooth maximum over each output's map, so that a small finding counts.

    Args:
        channels: of the first level, twice as many on each one below; a multiple of `groups`.
        levels: how often the map is halved; sides are multiples of 2 ** levels.
        groups: of every group normalisation.
        depth: of a volume; 0 for an image.
    """

    def __init__(
        self, n_outputs: int, height: int, width: int, *, channels: int = 16, levels: int = 3, groups: int = 8, depth: int = 0
    ) -> None:
        super().__init__()
        size = (depth, height, width) if depth else (height, width)
        if min(channels, levels, groups) < 1 or channels % groups or depth < 0:
            raise ValueError(
                f"channels {channels}, levels {levels}, groups {groups}, depth {depth}: expected ≥ 1, groups dividing channels"
            )
        if any(side % 2**levels for side in size):
            raise ValueError(f"sides {' × '.join(map(str, size))}: expected multiples of {2**levels} for {levels} levels")
        dims, wide = len(size), [channels * 2**level for level in range(levels + 1)]
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)
        steps = list(itertools.pairwise([1, *wide]))
        self.down = nn.ModuleList(DoubleConvolution(inputs, outputs, groups=groups, dims=dims) for inputs, outputs in steps)
        self.up = nn.ModuleList(_TRANSPOSED[dims](below, here, 2, stride=2) for here, below in steps[1:])
        self.merge = nn.ModuleList(DoubleConvolution(2 * here, here, groups=groups, dims=dims) for here in wide[:-1])
        self.head = _CONVOLUTIONS[dims](channels, n_outputs, 1)

    def maps(self, images: Tensor) -> Tensor:
        """(n, 1, *size) -> (n, n_outputs, *size) logits of each pixel."""
        seen, skipped = standardized(images), list[Tensor]()
        for level, down in enumerate(self.down):
            seen = down(seen if level == 0 else self.pool(seen))
            skipped.append(seen)
        skipped.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            seen = merge(torch.cat([skipped.pop(), up(seen)], dim=1))
        logits: Tensor = self.head(seen)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images).flatten(2)
        return torch.logsumexp(maps, dim=2) - math.log(maps.shape[2])
