"""A small residual network with group normalisation: no buffer, nothing in place, every image for itself, at home from 28 to 256 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class StandardizedConv2d(nn.Conv2d):
    """Convolution with weights of zero mean and unit variance for each output channel (Qiao et al. 2019; De et al. 2022 for DP-SGD)."""

    def centred_and_scale(self) -> tuple[Tensor, Tensor]:
        """What is multiplied to the kernel that is used: (outputs, inputs, height, width) and (outputs, 1, 1, 1)."""
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return centred, torch.rsqrt(centred.square().mean(dim=(1, 2, 3), keepdim=True) * self.weight[0].numel() + 1e-8)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        centred, scale = self.centred_and_scale()
        return functional.conv2d(input, centred * scale, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Block(nn.Module):
    """x + two convolutions, each after normalisation and ReLU (He et al. 2016, pre-activation); halves the map where `stride` is 2."""

    def __init__(self, channels: int, outputs: int, *, stride: int, groups: int, convolution: type[nn.Conv2d]) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = convolution(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or channels != outputs
        self.shortcut = convolution(channels, outputs, 1, bias=False) if changes else None
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        active = functional.relu(self.norm1(maps))
        residual: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        if self.shortcut is None:
            return maps + residual
        pooled = active if self.stride == 1 else functional.avg_pool2d(active, self.stride, ceil_mode=True)
        shortened: Tensor = self.shortcut(pooled)
        return shortened + residual


class ResNet(nn.Module):
    """Stem, `stages` of `blocks` residual blocks (each stage twice as wide, half as large), linear head.

    Each image is first brought to its own mean and spread; the head sees the mean and the greatest value of every map, because a small
    finding drowns in a mean.

    Args:
        channels: of the first stage; a multiple of `groups`.
        groups: of every group normalisation.
        stem_stride: 0 chooses 1 below 40 pixels, 2 below 160, else 4; a stem with a stride is followed by a max-pool from 56 pixels on.
        weight_standardization: see `StandardizedConv2d`.
    """

    def __init__(
        self, n_outputs: int, height: int, width: int, *,
        channels: int = 16, blocks: int = 1, stages: int = 3, groups: int = 8, stem_stride: int = 0, weight_standardization: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(channels, blocks, stages, groups) < 1 or channels % groups:
            raise ValueError(
                f"channels {channels}, blocks {blocks}, stages {stages}, groups {groups}: expected ≥ 1, groups dividing channels"
            )
        convolution = StandardizedConv2d if weight_standardization else nn.Conv2d
        side = min(height, width)
        stride = stem_stride or (1 if side < 40 else 2 if side < 160 else 4)
        kernel = 3 if stride == 1 else 5 if stride == 2 else 7
        self.stem = convolution(1, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.stem_norm = nn.GroupNorm(groups, channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if stride > 1 and side >= 56 else nn.Identity()
        body: list[nn.Module] = []
        previous = channels
        for stage in range(stages):
            for block in range(blocks):
                wide = channels * 2**stage
                halve = 2 if stage > 0 and block == 0 else 1
                body.append(Block(previous, wide, stride=halve, groups=groups, convolution=convolution))
                previous = wide
        self.body = nn.Sequential(*body)
        self.norm = nn.GroupNorm(groups, previous)
        self.head = nn.Linear(2 * previous, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(functional.relu(self.stem_norm(self.stem(standardized(images)))))
        maps = functional.relu(self.norm(self.body(maps)))
        logits: Tensor = self.head(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))
        return logits


def standardized(images: Tensor) -> Tensor:
    """(n, 1, *size), each image by its own mean and spread; the constant keeps a blank image finite."""
    own = tuple(range(1, images.dim()))
    centred = images - images.mean(own, keepdim=True)
    return centred / (centred.square().mean(own, keepdim=True).sqrt() + 0.05)
