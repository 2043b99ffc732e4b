"""DenseNet-121 (Huang et al. 2017) with group normalisation: every image for itself, no buffer, nothing in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_common.models.resnet import standardized

BLOCKS = (6, 12, 24, 16)  # dense layers of the 121 layers' four blocks


class DenseLayer(nn.Module):
    """Normalise, 1 × 1 to four times the growth, normalise, 3 × 3 to the growth."""

    def __init__(self, channels: int, *, growth: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, 4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        made: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(functional.relu(self.norm1(maps))))))
        return torch.cat([maps, made], dim=1)


class Transition(nn.Module):
    """Half the channels, half the map."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(maps))), 2)


class DenseNet121(nn.Module):
    """(n, 1, H, W) in [0, 1] to (n, n_outputs) logits; 7 million weights at the usual growth. Sides from 32 pixels on.

    Args:
        growth: channels that each dense layer adds; a multiple of `groups`.
        groups: of every group normalisation.
    """

    def __init__(self, n_outputs: int, height: int, width: int, *, growth: int = 32, groups: int = 16) -> None:
        super().__init__()
        if growth < 2 or groups < 1 or growth % groups or min(height, width) < 32:
            raise ValueError(f"growth {growth}, groups {groups}, sides {height} × {width}: expected groups dividing growth, sides ≥ 32")
        channels = 2 * growth
        self.stem = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.GroupNorm(groups, channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        body = list[nn.Module]()
        for number, layers in enumerate(BLOCKS):
            for _ in range(layers):
                body.append(DenseLayer(channels, growth=growth, groups=groups))
                channels += growth
            if number < len(BLOCKS) - 1:
                body.append(Transition(channels, groups=groups))
                channels //= 2
        self.body = nn.Sequential(*body)
        self.norm = nn.GroupNorm(groups, channels)
        self.head = nn.Linear(channels, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(functional.relu(self.stem_norm(self.stem(standardized(images)))))
        maps = functional.relu(self.norm(self.body(maps)))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits
