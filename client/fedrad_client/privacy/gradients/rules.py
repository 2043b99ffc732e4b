"""Of each kind of layer: how the gradients of its weights follow, image by image, from what went in and what came back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_client.privacy.gradients.convolutions import convolution, standardized_convolution
from fedrad_client.privacy.gradients.forms import Sizes, as_products
from fedrad_client.privacy.gradients.parts import Owners, Part, Products, Rows, batched_product, sum_by_owner, widened
from fedrad_common.models.resnet import StandardizedConv2d

Gradients = dict[Tensor, Tensor]  # (n, *shape) by parameter, an image or map each


def parts_of(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """Of the layer's own weights.

    Args:
        activation: (n_maps, …) what went in. backprop: (n_maps, …) the gradient at what came out.
    """
    if rule := _RULES.get(type(layer)):
        return rule(layer, activation, backprop, owners)
    return _by_owner(_opacus_rule(layer, activation, backprop), owners)


def is_covered(layer: nn.Module) -> bool:
    """Has a rule here; others' gradients come from Opacus' samplers, which form them all."""
    return type(layer) in _RULES


def uncovered(network: nn.Module) -> list[str]:
    """Its layers with weights that have no rule here, by name and kind."""
    with_weights = ((name, layer) for name, layer in network.named_modules() if list(layer.parameters(recurse=False)))
    return [f"{name or '(root)'} ({type(layer).__name__})" for name, layer in with_weights if not is_covered(layer)]


def _by_owner(gradients: Gradients, owners: Owners) -> dict[Tensor, Part]:
    return {parameter: Rows(sum_by_owner(each.flatten(1), owners.map), parameter.shape) for parameter, each in gradients.items()}


def _linear(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """(n, …, p) and (n, …, d): whatever lies between, as an attention's tokens, are columns."""
    assert isinstance(layer, nn.Linear)
    left, right = (part.reshape(len(part), -1, part.shape[-1]) for part in (backprop, activation))
    sizes = Sizes(layer.out_features, layer.in_features, left.shape[1], owners.views)
    if as_products(sizes, device=left.device.type):
        weight: Part = Products(widened(left), widened(right), owners.map, layer.weight.shape)
    else:
        weight = Rows(sum_by_owner(batched_product(left.transpose(1, 2), right).flatten(1), owners.map), layer.weight.shape)
    made = {layer.weight: weight}
    if layer.bias is not None:
        made[layer.bias] = Rows(sum_by_owner(left.sum(1), owners.map), layer.bias.shape)
    return made


def _layer_norm(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    assert isinstance(layer, nn.LayerNorm)
    inner = len(layer.normalized_shape)
    normal = functional.layer_norm(activation, layer.normalized_shape, eps=layer.eps)
    scale, shift = (part.reshape(len(part), -1, *part.shape[part.dim() - inner :]).sum(1) for part in (normal * backprop, backprop))
    return _of_both(layer, scale, shift, owners)


def _instance_norm(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    assert isinstance(layer, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d)
    normal = functional.instance_norm(activation, eps=layer.eps)
    scale, shift = ((part.flatten(2).sum(2)) for part in (normal * backprop, backprop))
    return _of_both(layer, scale, shift, owners)


def _of_both(layer: nn.Module, scale: Tensor, shift: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """(n, *shape) each; a layer may have no shift."""
    made = {"weight": scale, "bias": shift}
    return _by_owner({parameter: made[name] for name, parameter in layer.named_parameters(recurse=False)}, owners)


def _group_norm(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
    """(n, C) each. The images as channels of one image: torch's own kernel then keeps them apart."""
    assert isinstance(layer, nn.GroupNorm)
    n, channels = activation.shape[:2]
    pixels, groups = activation[0, 0].numel(), layer.num_groups
    activation, backprop = activation.contiguous(), backprop.contiguous()
    _, mean, scale = torch.ops.aten.native_group_norm(activation, None, None, n, channels, pixels, groups, layer.eps)
    _, weight, bias = torch.ops.aten.native_group_norm_backward(
        backprop.view(1, n * channels, pixels), activation.view(1, n * channels, pixels), mean.view(1, -1), scale.view(1, -1),
        layer.weight.repeat(n), 1, n * channels, pixels, n * groups, [False, True, True],
    )  # fmt: skip
    return _of_both(layer, weight.view(n, channels), bias.view(n, channels), owners)


def _opacus_rule(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if sampler is None or getattr(layer, "padding_mode", "zeros") != "zeros":  # Opacus 1.6 pads with zeros whatever the layer does
        if not hasattr(layer, "ft_compute_sample_grad"):
            prepare_layer(layer)
        sampler = ft_compute_per_sample_gradient
    gradients: dict[Tensor, Tensor] = sampler(layer, [activation], backprop)
    return gradients


_RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor, Owners], dict[Tensor, Part]]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), convolution),
    StandardizedConv2d: standardized_convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm),
}
