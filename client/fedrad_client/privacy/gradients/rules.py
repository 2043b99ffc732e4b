"""Of each kind of layer: how the gradients of its weights follow, image by image, from what went in and what came back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_client.privacy.gradients.parts import Part, Products, Rows, sum_by_owner

# Measured on a CPU, 32 images. As products, never multiplied out: few columns a patient, and the more weights, the more columns still pay.
_PRODUCTS = ((8, 2**14), (32, 2**17))  # columns at most, weights at least
# Unfolded patches, an image at a time: on maps of less than so many pixels, and with more than so many outputs on up to twice as many.
_SMALL_MAP, _MANY_OUTPUTS = 64, 64


@dataclass(frozen=True)
class Owners:
    """Whose the maps of a pass are."""

    image: Tensor  # (n,) int64, ascending from 0 without gaps: the patient of each image
    views: int  # of each image, which follow each other

    @property
    def map(self) -> Tensor:
        """(n × views,)."""
        return self.image.repeat_interleave(self.views)

    @property
    def n_patients(self) -> int:
        return int(self.image[-1]) + 1

    @property
    def most_maps(self) -> int:
        """Of one patient."""
        return int(torch.bincount(self.image).max()) * self.views


def parts_of(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """Of the layer's own weights.

    Args:
        activation: (n_maps, …) what went in. backprop: (n_maps, …) the gradient at what came out.
    """
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
        return _convolution(layer, activation, backprop, owners)
    if type(layer) is nn.Linear and activation.dim() == 2:
        return _linear(layer, activation, backprop, owners)
    if type(layer) is nn.GroupNorm and layer.affine:
        gradients = _group_norm(layer, activation, backprop)
    else:
        gradients = _opacus_rule(layer, activation, backprop)
    return {parameter: Rows(sum_by_owner(each, owners.map)) for parameter, each in gradients.items()}


def _linear(layer: nn.Linear, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    made: dict[Tensor, Part] = {layer.weight: Products(backprop[:, :, None], activation[:, :, None], owners.map, layer.weight.shape)}
    if layer.bias is not None:
        made[layer.bias] = Rows(sum_by_owner(backprop, owners.map))
    return made


def _convolution(layer: nn.Conv2d, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    pixels, weights = backprop.shape[2] * backprop.shape[3], layer.weight.numel()
    if any(pixels * owners.most_maps <= columns and weights >= least for columns, least in _PRODUCTS):
        part: Part = Products(backprop.flatten(2), _patches(layer, activation), owners.map, layer.weight.shape)
    elif _is_pointwise(layer) or pixels < _SMALL_MAP or (pixels <= 2 * _SMALL_MAP and layer.out_channels > _MANY_OUTPUTS):
        sides = (_side_by_side(maps, owners.views) for maps in (backprop.flatten(2), _patches(layer, activation)))
        left, right = sides
        each = torch.bmm(left, right.transpose(1, 2)).reshape(-1, *layer.weight.shape)
        part = Rows(sum_by_owner(each, owners.image))
    else:
        part = Rows(sum_by_owner(_as_groups(layer, activation, backprop, owners.views), owners.image))
    made = {layer.weight: part}
    if layer.bias is not None:
        made[layer.bias] = Rows(sum_by_owner(backprop.sum(dim=(2, 3)), owners.map))
    return made


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.padding == (0, 0)


def _patches(layer: nn.Conv2d, activation: Tensor) -> Tensor:
    """(n, C, H, W) -> (n, inputs of one output pixel, output pixels)."""
    if _is_pointwise(layer):
        down, right = layer.stride
        return activation[:, :, ::down, ::right].flatten(2)
    return functional.unfold(activation, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]


def _as_groups(layer: nn.Conv2d, activation: Tensor, backprop: Tensor, views: int) -> Tensor:
    """(n, *shape): the images as groups of one convolution over their views, nearly at the price of plain training's weight gradient."""
    n = len(activation) // views
    weight: Tensor = torch.ops.aten.convolution_backward(
        _fold(backprop, views), _fold(activation, views), layer.weight.repeat(n, 1, 1, 1), None,
        layer.stride, layer.padding, layer.dilation, False, [0, 0], n, [False, True, False],
    )[1]  # fmt: skip
    return weight.reshape(n, *layer.weight.shape)


def _side_by_side(maps: Tensor, views: int) -> Tensor:
    """(n × views, C, P) -> (n, C, views × P)."""
    return maps if views == 1 else maps.reshape(-1, views, *maps.shape[1:]).transpose(1, 2).flatten(2)


def _fold(maps: Tensor, views: int) -> Tensor:
    """(n × views, C, H, W) -> (views, n × C, H, W)."""
    n, (channels, height, width) = len(maps) // views, maps.shape[1:]
    return maps.reshape(n, views, channels, height, width).transpose(0, 1).reshape(views, n * channels, height, width)


def _group_norm(layer: nn.GroupNorm, activation: Tensor, backprop: Tensor) -> dict[Tensor, Tensor]:
    """(n, C) each. The images as channels of one image: torch's own kernel then keeps them apart."""
    n, channels = activation.shape[:2]
    pixels, groups = activation[0, 0].numel(), layer.num_groups
    activation, backprop = activation.contiguous(), backprop.contiguous()
    _, mean, scale = torch.ops.aten.native_group_norm(activation, None, None, n, channels, pixels, groups, layer.eps)
    _, weight, bias = torch.ops.aten.native_group_norm_backward(
        backprop.view(1, n * channels, pixels), activation.view(1, n * channels, pixels), mean.view(1, -1), scale.view(1, -1),
        layer.weight.repeat(n), 1, n * channels, pixels, n * groups, [False, True, True],
    )  # fmt: skip
    return {layer.weight: weight.view(n, channels), layer.bias: bias.view(n, channels)}


def _opacus_rule(layer: nn.Module, activation: Tensor, backprop: Tensor) -> dict[Tensor, Tensor]:
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if sampler is None or getattr(layer, "padding_mode", "zeros") != "zeros":  # Opacus 1.6 pads with zeros whatever the layer does
        if not hasattr(layer, "ft_compute_sample_grad"):
            prepare_layer(layer)
        sampler = ft_compute_per_sample_gradient
    gradients: dict[Tensor, Tensor] = sampler(layer, [activation], backprop)
    return gradients
