"""One gradient a patient: the gradient of the mean over that patient's images, never formed for anybody else's.

Layers' inputs are kept by forward hooks; one backward pass yields the gradients at the layers' outputs and nothing more (the aggregated
weight gradients, which plain training needs and this does not, are never computed); input and output gradient of a layer give its weights'
gradient image by image. Layers without a rule here take Opacus' rule, or its functorch fallback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from fedrad_common.errors import ConfigError
from torch import Tensor, nn
from torch.nn import functional

Gradients = dict[nn.Parameter, Tensor]
_FEW_PIXELS = 400  # of an output map: below, one product of unfolded patches is faster than one convolution group an image


@dataclass(frozen=True)
class Call:
    """One use of a layer in the forward pass."""

    layer: nn.Module
    input: Tensor
    output: Tensor
    version: int


class Recording:
    """The forward pass of one micro-batch, from which `per_patient` makes gradients. Use through `recording`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.calls.append(Call(layer, inputs[0].detach(), output, output._version))

    def per_patient(self, losses: Tensor, *, weights: Tensor, owner: Tensor, n_patients: int) -> Gradients:
        """Gradients of each patient's weighted sum of losses.

        Args:
            losses: (n,) of each image, still attached to the forward pass.
            weights: (n,) of each image; those of one patient add up to 1.
            owner: (n,) int64, ascending, which of the `n_patients` patients an image belongs to.

        Returns:
            for every parameter (n_patients, *its shape), float32.
        """
        calls, self.calls = self.calls, []
        if any(call.output._version != call.version for call in calls):
            raise ConfigError("model: a layer's output is changed in place", hint="no in-place activation or addition: relu(x), x + y")
        outputs = [call.output for call in calls]
        backprops = torch.autograd.grad((losses * weights).sum(), outputs, allow_unused=True)
        summed: Gradients = {}
        with torch.no_grad():
            for call, backprop in zip(calls, backprops, strict=True):
                if backprop is None:
                    continue
                for parameter, each in _per_image(call.layer, call.input, backprop).items():
                    patient = _sum_by_owner(each, owner, n_patients)
                    summed[parameter] = summed[parameter] + patient if parameter in summed else patient
        return summed


@contextlib.contextmanager
def recording(module: nn.Module) -> Iterator[Recording]:
    """Hooks on every layer with weights for the block; the module is as before afterwards.

    Raises:
        ConfigError: a layer's own weights cannot be told from its inner layers'.
    """
    kept = Recording()
    handles = []
    try:
        for name, layer in module.named_modules():
            own = list(layer.parameters(recurse=False))
            if own and len(own) != len(list(layer.parameters())):
                raise ConfigError(
                    f"model: layer {name or '(root)'} has weights beside inner layers", hint="put them into a layer of their own"
                )
            if own:
                handles.append(layer.register_forward_hook(kept.keep))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _per_image(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    rule = RULES.get(type(layer))
    if rule is not None:
        return rule(layer, activation, backprop)
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if sampler is None:
        prepare_layer(layer)
        sampler = ft_compute_per_sample_gradient
    gradients: Gradients = sampler(layer, [activation], backprop)
    return gradients


def _convolution(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    assert isinstance(layer, nn.Conv2d)
    n, pixels = len(activation), backprop.shape[2] * backprop.shape[3]
    pointwise = layer.kernel_size == (1, 1) and layer.padding in ((0, 0), "valid")
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    if not plain:
        return _opacus_rule(layer, activation, backprop)
    if pointwise or pixels < _FEW_PIXELS:
        rows, columns = layer.stride
        patches = (
            activation[:, :, ::rows, ::columns].flatten(2)
            if pointwise
            else functional.unfold(activation, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        )
        weight = torch.bmm(backprop.flatten(2), patches.transpose(1, 2)).view(n, *layer.weight.shape)
    else:  # the batch as groups: one convolution returns every image's own weight gradient
        weight = torch.ops.aten.convolution_backward(
            backprop.reshape(1, -1, *backprop.shape[2:]), activation.reshape(1, -1, *activation.shape[2:]),
            layer.weight.repeat(n, 1, 1, 1), None, layer.stride, layer.padding, layer.dilation, False, [0, 0], n, [False, True, False],
        )[1].view(n, *layer.weight.shape)  # fmt: skip
    gradients: Gradients = {layer.weight: weight}
    if layer.bias is not None:
        gradients[layer.bias] = backprop.sum(dim=(2, 3))
    return gradients


def _opacus_rule(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    from opacus.grad_sample import GradSampleModule

    gradients: Gradients = GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [activation], backprop)
    return gradients


def _linear(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    assert isinstance(layer, nn.Linear)
    inner, outer = activation.flatten(1, -2) if activation.dim() > 2 else activation[:, None], backprop
    outer = backprop.flatten(1, -2) if backprop.dim() > 2 else backprop[:, None]
    gradients: Gradients = {layer.weight: torch.bmm(outer.transpose(1, 2), inner)}
    if layer.bias is not None:
        gradients[layer.bias] = outer.sum(dim=1)
    return gradients


def _group_norm(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    assert isinstance(layer, nn.GroupNorm)
    normalised = functional.group_norm(activation, layer.num_groups, eps=layer.eps)
    return {layer.weight: (normalised * backprop).flatten(2).sum(2), layer.bias: backprop.flatten(2).sum(2)}


RULES: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Gradients]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
}


def _sum_by_owner(each: Tensor, owner: Tensor, n_patients: int) -> Tensor:
    if len(each) == n_patients:  # ascending owners, and none without an image: one image each
        return each
    return torch.zeros((n_patients, *each.shape[1:]), dtype=each.dtype, device=each.device).index_add_(0, owner, each)
