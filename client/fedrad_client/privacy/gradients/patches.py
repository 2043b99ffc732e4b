"""What each output pixel of a convolution saw, as rows of one matrix: copied in long runs from maps whose channels lie side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def patches(
    maps: Tensor, *, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Sequence[int], mode: str = "zeros",
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """(n, C, *size) -> (n, output pixels, kernel's pixels × C), the kernel's pixels outermost; about four times as fast as `unfold`.

    Args:
        padding: two numbers for each side, the last dimension first, as for `functional.pad`.
        dtype: of the result, where not of the maps.
    """
    dims, channels = len(kernel), maps.shape[1]
    if mode != "zeros" and any(padding):
        maps, padding = functional.pad(maps, tuple(padding), mode=mode), [0] * len(padding)
    size = [maps.shape[2 + axis] + padding[-2 * axis - 2] + padding[-2 * axis - 1] for axis in range(dims)]
    inner = tuple(
        slice(padding[-2 * axis - 2], padding[-2 * axis - 2] + maps.shape[2 + axis]) for axis in range(dims)
    )  # of the padded maps, what is no padding
    padded = maps.new_zeros((len(maps), *size, channels), dtype=dtype or maps.dtype)
    padded[(slice(None), *inner)] = maps.movedim(1, -1)
    outputs = [(size[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1 for axis in range(dims)]
    image, *steps, channel = padded.stride()
    seen = padded.as_strided(
        (len(maps), *outputs, *kernel, channels),
        (image, *(step * each for step, each in zip(steps, stride, strict=True)),
         *(step * each for step, each in zip(steps, dilation, strict=True)), channel),
    )  # fmt: skip
    return seen.reshape(len(maps), math.prod(outputs), math.prod(kernel) * channels)
