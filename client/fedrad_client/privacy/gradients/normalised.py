"""Group normalisation whose pass backwards keeps the images apart: torch's own kernel, shown the images as channels of one image.

The gradients of scale and shift then come out image by image, with the gradient at the input and at its price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedrad_client.privacy.gradients.parts import Owners, Part, Rows, sum_by_owner


@dataclass(frozen=True)
class Normalised:
    """What one use of a layer gave, (n_maps, channels) each."""

    layer: nn.GroupNorm
    weight: Tensor
    bias: Tensor

    def parts(self, owners: Owners) -> dict[Tensor, Part]:
        each = ((self.layer.weight, self.weight), (self.layer.bias, self.bias))
        return {parameter: Rows(sum_by_owner(rows, owners.map), parameter.shape) for parameter, rows in each}


def normalise_apart(maps: Tensor, layer: nn.GroupNorm, into: list[Normalised]) -> Tensor:
    """What `layer` makes of (n, C, …) maps; on the way back, its weights' gradients go to `into`, and nowhere else."""
    maps = maps.float() if maps.dtype == torch.bfloat16 else maps  # mean and spread in no less
    return cast("Tensor", _Apart.apply(maps, layer, into))  # type: ignore[no-untyped-call]


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, layer: nn.GroupNorm, into: list[Normalised]) -> Tensor:
        maps = maps.contiguous()
        (n, channels), pixels = maps.shape[:2], maps[0, 0].numel()
        made, mean, scale = torch.ops.aten.native_group_norm(
            maps, layer.weight, layer.bias, n, channels, pixels, layer.num_groups, layer.eps
        )
        ctx.save_for_backward(maps, mean, scale)
        ctx.layer, ctx.into = layer, into
        return cast("Tensor", made)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (maps, mean, scale), layer = ctx.saved_tensors, ctx.layer
        (n, channels), pixels = maps.shape[:2], maps[0, 0].numel()
        back, weight, bias = torch.ops.aten.native_group_norm_backward(
            gradient.contiguous().view(1, n * channels, pixels), maps.view(1, n * channels, pixels), mean.view(1, -1), scale.view(1, -1),
            layer.weight.repeat(n), 1, n * channels, pixels, n * layer.num_groups, [True, True, True],
        )  # fmt: skip
        ctx.into.append(Normalised(layer, weight.view(n, channels), bias.view(n, channels)))
        return back.view_as(maps), None, None
