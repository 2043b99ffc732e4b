"""Gradients of a convolution's weights, image by image: plain, strided, dilated, grouped, transposed; in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fedrad_client.privacy.gradients.forms import Sizes, as_products
from fedrad_client.privacy.gradients.parts import Order, Owners, Part, Products, Rows, batched_product, sum_by_owner, widened
from fedrad_client.privacy.gradients.patches import patches
from fedrad_common.models.resnet import StandardizedConv2d

# Measured on a CPU: from so many output pixels on, images as groups of one convolution beat patches, 1.2 to 2.8 times.
_LARGE_MAP = 60
_CACHED = {"cpu": 1 << 19}  # numbers of patches that are made at a time, 2 MiB
_BOUNDED = 1 << 26  # elsewhere, 256 MiB


def convolution(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """(n, C, *size) and (n, D, *size) -> of weight and bias."""
    assert isinstance(layer, _ConvNd)
    part = _products(layer, activation, backprop, owners) if _pays(layer, activation, backprop, owners) else None
    if part is None:
        large = activation.device.type == "cpu" and _pixels(_small_side(layer, activation, backprop)) >= _LARGE_MAP and _foldable(layer)
        part = _folded(layer, activation, backprop, owners) if large else _formed(layer, activation, backprop, owners)
    made: dict[Tensor, Part] = {layer.weight: part}
    if layer.bias is not None:
        made[layer.bias] = Rows(sum_by_owner(backprop.flatten(2).sum(2), owners.map), layer.bias.shape)
    return made


def standardized_convolution(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """The kernel that is used is c r, for c = weight - mean and r = 1 / √(Σ c² + tiny), of each output channel: the chain rule back to
    the weight is the same linear map for every patient."""
    assert isinstance(layer, StandardizedConv2d)
    made = convolution(layer, activation, backprop, owners)
    used = made[layer.weight].rows().flatten(2)  # (n_patients, outputs, inputs)
    centred, scale = (part.flatten(1) for part in layer.centred_and_scale())
    own = scale * used - centred * scale**3 * (used * centred).sum(2, keepdim=True)
    made[layer.weight] = Rows((own - own.mean(2, keepdim=True)).flatten(1), layer.weight.shape)
    return made


def _small_side(layer: _ConvNd, activation: Tensor, backprop: Tensor) -> Tensor:
    """The maps whose every pixel meets a patch of the other ones: outputs, and of a transposed convolution inputs."""
    return activation if isinstance(layer, _ConvTransposeNd) else backprop


def _pixels(maps: Tensor) -> int:
    return math.prod(maps.shape[2:])


def _pays(layer: _ConvNd, activation: Tensor, backprop: Tensor, owners: Owners) -> bool:
    if layer.groups > 1 or isinstance(layer, StandardizedConv2d):
        return False
    columns = _small_side(layer, activation, backprop)
    sizes = Sizes(columns.shape[1], layer.weight[0].numel(), _pixels(columns), owners.views)
    return as_products(sizes, device=activation.device.type)


def _products(layer: _ConvNd, activation: Tensor, backprop: Tensor, owners: Owners) -> Part:
    left = widened(_small_side(layer, activation, backprop).flatten(2).transpose(1, 2))
    right, order = _patches(layer, activation, backprop, dtype=torch.float64), _order(layer)
    if order is not None and left.shape[0] * left.shape[1] < left.shape[2]:  # fewer numbers than the weights': turned round here already
        right = right.view(*right.shape[:2], -1, layer.weight.shape[1]).transpose(2, 3).flatten(2)
        order = None
    return Products(left, right, owners.map, layer.weight.shape, order)


def _formed(layer: _ConvNd, activation: Tensor, backprop: Tensor, owners: Owners) -> Part:
    """As many images at a time as leave their patches in the cache."""
    n, groups = len(activation) // owners.views, layer.groups
    small, inner = _small_side(layer, activation, backprop), layer.weight[0].numel()
    each = activation.new_empty((n, groups, small.shape[1] // groups, inner))
    for images in _at_a_time(n, owners.views * _pixels(small) * groups * inner, device=activation.device.type):
        maps = slice(images.start * owners.views, images.stop * owners.views)
        left, right = small[maps].flatten(2), _patches(layer, activation[maps], backprop[maps])
        if owners.views > 1:
            left = left.view(-1, owners.views, *left.shape[1:]).transpose(1, 2).flatten(2)
            right = right.reshape(-1, owners.views * right.shape[1], right.shape[2])
        batched_product(_left_by_group(left, groups), _right_by_group(layer, right), out=each[images].view(-1, *each.shape[2:]))
    return Rows(sum_by_owner(each.flatten(1), owners.image), layer.weight.shape, _order(layer))


def _left_by_group(left: Tensor, groups: int) -> Tensor:
    """(m, D, T) -> (m × groups, D / groups, T)."""
    return left if groups == 1 else left.reshape(-1, left.shape[1] // groups, left.shape[2])


def _right_by_group(layer: _ConvNd, right: Tensor) -> Tensor:
    """(m, T, K × C) -> (m × groups, T, K × C / groups)."""
    if layer.groups == 1:
        return right
    images, columns, _ = right.shape
    kernel = math.prod(layer.kernel_size)
    by_group = right.view(images, columns, kernel, layer.groups, -1).permute(0, 3, 1, 2, 4)
    return by_group.reshape(images * layer.groups, columns, -1)


def _at_a_time(n: int, numbers: int, *, device: str) -> Iterator[slice]:
    """Parts of one size: kernels, and last bits with them, may depend on it."""
    most = max(1, min(n, _CACHED.get(device, _BOUNDED) // max(1, numbers)))
    step = next(size for size in range(most, 0, -1) if n % size == 0)
    for start in range(0, n, step):
        yield slice(start, start + step)


def _patches(layer: _ConvNd, activation: Tensor, backprop: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """(m, T, K × C): for each pixel of the small side, what it meets."""
    if isinstance(layer, _ConvTransposeNd):
        padding = [amount for amount in reversed(_amounts(layer)) for _ in range(2)]
        seen = backprop
    else:
        padding, seen = list(layer._reversed_padding_repeated_twice), activation
    if math.prod(layer.kernel_size) == 1 and not any(padding):
        seen = seen[(slice(None), slice(None), *(slice(None, None, step) for step in layer.stride))].flatten(2).transpose(1, 2)
        return seen if dtype is None else widened(seen)
    made = patches(
        seen, kernel=layer.kernel_size, stride=layer.stride, dilation=layer.dilation, padding=padding, mode=layer.padding_mode, dtype=dtype
    )
    # Of a transposed convolution with room left at its end, more pixels than the small side has.
    return made if not isinstance(layer, _ConvTransposeNd) else _of_small_side(layer, made, activation, backprop)


def _amounts(layer: _ConvNd) -> tuple[int, ...]:
    assert not isinstance(layer.padding, str)
    return tuple(layer.padding)


def _of_small_side(layer: _ConvNd, made: Tensor, activation: Tensor, backprop: Tensor) -> Tensor:
    outputs = [
        (backprop.shape[2 + axis] + 2 * pad - layer.dilation[axis] * (layer.kernel_size[axis] - 1) - 1) // layer.stride[axis] + 1
        for axis, pad in enumerate(_amounts(layer))
    ]
    grid = made.view(len(made), *outputs, made.shape[2])
    return grid[(slice(None), *(slice(side) for side in activation.shape[2:]))].reshape(len(made), -1, made.shape[2])


def _order(layer: _ConvNd) -> Order | None:
    """Patches have the kernel's pixels outermost, weights the channels."""
    kernel = math.prod(layer.kernel_size)
    if kernel == 1 or layer.weight.shape[1] == 1:
        return None
    return Order((layer.weight.shape[0], kernel, layer.weight.shape[1]), (0, 2, 1))


def _foldable(layer: _ConvNd) -> bool:
    plain = not isinstance(layer, _ConvTransposeNd) and isinstance(layer.padding, tuple) and layer.padding_mode == "zeros"
    return plain and layer.groups == 1 and math.prod(layer.kernel_size) > 1


def _folded(layer: _ConvNd, activation: Tensor, backprop: Tensor, owners: Owners) -> Part:
    """The images as groups of one convolution over their views, nearly at the price of plain training's weight gradient."""
    n, views = len(activation) // owners.views, owners.views
    shaped = layer.weight.new_empty((n * layer.weight.shape[0], *layer.weight.shape[1:]))  # only its size is looked at
    weight: Tensor = torch.ops.aten.convolution_backward(
        _fold(backprop, views), _fold(activation, views), shaped, None,
        layer.stride, layer.padding, layer.dilation, False, [0] * len(layer.stride), n, [False, True, False],
    )[1]  # fmt: skip
    return Rows(sum_by_owner(weight.reshape(n, -1), owners.image), layer.weight.shape)


def _fold(maps: Tensor, views: int) -> Tensor:
    """(n × views, C, *size) -> (views, n × C, *size)."""
    n, (channels, *size) = len(maps) // views, maps.shape[1:]
    return maps.reshape(n, views, channels, *size).transpose(0, 1).reshape(views, n * channels, *size)
