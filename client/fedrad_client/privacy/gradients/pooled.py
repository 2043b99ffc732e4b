"""Max-pooling on a processor: torch's own kernel, shown maps whose channels lie side by side, which it takes many at a time. The same
numbers, and of equal ones the same is the largest, in a third of the time."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pools_fast(layer: nn.Module) -> bool:
    return type(layer) in (nn.MaxPool2d, nn.MaxPool3d) and not cast("nn.MaxPool2d", layer).return_indices


def pooled(input: Tensor, layer: nn.MaxPool2d | nn.MaxPool3d) -> Tensor:  # noqa: A002 - torch's name
    """What `layer` makes of (n, C, …) maps."""
    if input.device.type != "cpu" or input.dim() != (4 if type(layer) is nn.MaxPool2d else 5):
        return cast("Tensor", type(layer).forward(layer, input))  # type: ignore[arg-type]
    return cast("Tensor", _MaxPool.apply(input, layer))  # type: ignore[no-untyped-call]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, layer: nn.MaxPool2d | nn.MaxPool3d) -> Tensor:
        ctx.settings = tuple(
            [each] * (maps.dim() - 2) if isinstance(each, int) else list(each)
            for each in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )
        forward, _ = _kernels(maps)
        made, indices = forward(maps.contiguous(memory_format=_LAYOUTS[maps.dim()]), *ctx.settings, layer.ceil_mode)
        ctx.ceil = layer.ceil_mode
        ctx.save_for_backward(maps, indices.contiguous())
        return cast("Tensor", made.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        maps, indices = ctx.saved_tensors
        _, backward = _kernels(maps)
        return backward(gradient.contiguous(), maps, *ctx.settings, ctx.ceil, indices), None


def _kernels(maps: Tensor) -> tuple[Any, Any]:
    aten = torch.ops.aten
    if maps.dim() == 4:
        return aten.max_pool2d_with_indices, aten.max_pool2d_with_indices_backward
    return aten.max_pool3d_with_indices, aten.max_pool3d_with_indices_backward
