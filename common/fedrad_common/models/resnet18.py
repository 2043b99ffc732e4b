"""ResNet-18 (He et al. 2016) with group normalisation for batch normalisation: every image for itself, no buffer, nothing in place."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from fedrad_common.models.resnet import StandardizedConv2d, standardized


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; halves the map where `stride` is 2."""

    def __init__(self, channels: int, outputs: int, *, stride: int, groups: int, convolution: type[nn.Conv2d]) -> None:
        super().__init__()
        self.conv1 = convolution(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(convolution(channels, outputs, 1, stride=stride, bias=False), nn.GroupNorm(groups, outputs))

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(maps)))))
        return functional.relu(residual + (maps if self.shortcut is None else self.shortcut(maps)))


class ResNet18(nn.Module):
    """(n, 1, H, W) in [0, 1] to (n, n_outputs) logits; 11.2 million weights at the usual width. Sides from 32 pixels on.

    Args:
        channels: of the first stage; a multiple of `groups`.
        groups: of every group normalisation.
        weight_standardization: see `StandardizedConv2d`.
    """

    def __init__(
        self, n_outputs: int, height: int, width: int, *, channels: int = 64, groups: int = 16, weight_standardization: bool = False
    ) -> None:
        super().__init__()
        if channels < 1 or groups < 1 or channels % groups or min(height, width) < 32:
            raise ValueError(
                f"channels {channels}, groups {groups}, sides {height} × {width}: expected groups dividing channels, sides ≥ 32"
            )
        convolution = StandardizedConv2d if weight_standardization else nn.Conv2d
        self.stem = convolution(1, channels, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.GroupNorm(groups, channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        body, previous = list[nn.Module](), channels
        for stage in range(4):
            for block in range(2):
                outputs = channels * 2**stage
                stride = 2 if stage > 0 and block == 0 else 1
                body.append(BasicBlock(previous, outputs, stride=stride, groups=groups, convolution=convolution))
                previous = outputs
        self.body = nn.Sequential(*body)
        self.head = nn.Linear(previous, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.relu(self.stem_norm(self.stem(standardized(images))))
        maps = self.body(self.pool(maps))
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits
