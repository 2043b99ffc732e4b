"""One gradient a patient: the gradient of the mean over that patient's images, never formed for anybody else's.

Layers' inputs are kept by forward hooks; one backward pass yields the gradients at the layers' outputs and nothing more (the aggregated
weight gradients, which plain training needs and this does not, are never computed); input and output gradient of a layer give its weights'
gradient image by image. Layers without a rule here take Opacus' rule, or its functorch fallback.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrad_common.errors import ConfigError

Gradients = dict[Tensor, Tensor]  # by parameter, which is told by its identity

# Measured on a CPU: a large weight over a small map is faster as a product of unfolded patches, all else as grouped convolution.
_SMALL_MAP, _MANY_WEIGHTS = 64, 16_384  # pixels of the output, numbers


@dataclass(frozen=True)
class Call:
    """One use of a layer in the forward pass."""

    layer: nn.Module
    input: Tensor
    output: Tensor
    version: int  # of the output: torch counts its changes in place


class Recording:
    """The forward pass of one micro-batch, from which `per_patient` makes gradients. Use through `recording`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            self.calls.append(Call(layer, inputs[0].detach(), output, output._version))

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """What is left of a pass that failed holds its memory, and belongs to no later one's losses."""
        try:
            yield
        finally:
            self.calls = []

    def per_patient(self, losses: Tensor, *, owner: Tensor, views: int = 1) -> Gradients:
        """Gradients of each patient's sum of losses.

        Args:
            losses: (n × views,) of each image's views, which follow each other, weighted; still attached to the forward pass.
            owner: (n,) int64, ascending from 0 without gaps: which patient an image belongs to.

        Returns:
            for every parameter (n_patients, *its shape), float32; all NaN for whom a layer's input or output gradient is not finite.
        """
        calls, self.calls = self.calls, []
        if any(call.output._version != call.version for call in calls):
            raise ConfigError("model: a layer's output is changed in place", hint="no in-place activation or addition: relu(x), x + y")
        backprops = torch.autograd.grad(losses.sum(), [call.output for call in calls], allow_unused=True)
        used = [(call, backprop) for call, backprop in zip(calls, backprops, strict=True) if backprop is not None]
        n_patients = int(owner[-1]) + 1
        summed: Gradients = {}
        with torch.no_grad():
            finite = _finite(used, len(losses))
            clean = bool(finite.all())
            for call, backprop in used:
                inputs = (call.input, backprop) if clean else (_selected(call.input, finite), _selected(backprop, finite))
                for parameter, each in _per_image(call.layer, *inputs, views).items():
                    patient = _sum_by_owner(each, owner, n_patients)
                    summed[parameter] = summed[parameter] + patient if parameter in summed else patient
            if not clean:
                spoilt = owner[~finite.reshape(-1, views).all(1)]
                for rows in summed.values():
                    rows[spoilt] = math.nan
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
        for layer in module.modules():
            vars(layer).pop("ft_compute_sample_grad", None)  # functorch's, where Opacus had to take it


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 is float32 for the block, whatever the process was set to: no TF32, no bfloat16, no autocast (privacy.md, rule 7).

    Nor are kernels chosen by their speed, so that the same job gives the same bytes.
    """
    switches = _precision_switches()
    before = [getattr(place, name) for place, name, _ in switches]
    try:
        for place, name, value in switches:
            setattr(place, name, value)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (place, name, _), value in zip(switches, before, strict=True):
            setattr(place, name, value)


def _precision_switches() -> list[tuple[object, str, object]]:
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    kernels = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        return [*kernels, (cuda.matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    operations = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]
    return [*kernels, *((operation, "fp32_precision", "ieee") for operation in operations)]


def _finite(used: list[tuple[Call, Tensor]], n: int) -> Tensor:
    """(n,) is all finite that the layers saw of an image, forwards and backwards? A sum that overflows counts as infinite."""
    sums = [part.flatten(1).sum(1) for call, backprop in used for part in (call.input, backprop)]
    return torch.isfinite(torch.stack(sums)).all(0) if sums else torch.ones(n, dtype=torch.bool)


def _selected(part: Tensor, finite: Tensor) -> Tensor:
    """Zeros for images that are not finite, so that nobody's sums ever meet a NaN: 0 × NaN is NaN."""
    return torch.where(finite.view(-1, *[1] * (part.dim() - 1)), part, torch.zeros_like(part))


def _per_image(layer: nn.Module, activation: Tensor, backprop: Tensor, views: int) -> Gradients:
    """Gradients of the layer's own weights, (n images, *shape), summed over each image's views."""
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple):
        return _convolution(layer, activation, backprop, views)
    if type(layer) is nn.GroupNorm:
        normalised = functional.group_norm(activation, layer.num_groups, eps=layer.eps)
        gradients: Gradients = {layer.weight: (normalised * backprop).flatten(2).sum(2), layer.bias: backprop.flatten(2).sum(2)}
    elif type(layer) is nn.Linear and activation.dim() == 2:
        gradients = {layer.weight: torch.bmm(backprop[:, :, None], activation[:, None, :])}
        if layer.bias is not None:
            gradients[layer.bias] = backprop
    else:
        gradients = _opacus_rule(layer, activation, backprop)
    if views == 1:
        return gradients
    return {parameter: each.reshape(-1, views, *each.shape[1:]).sum(1) for parameter, each in gradients.items()}


def _convolution(layer: nn.Conv2d, activation: Tensor, backprop: Tensor, views: int) -> Gradients:
    n, pixels = len(activation) // views, backprop.shape[2] * backprop.shape[3]
    pointwise = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
    if pointwise or (pixels <= _SMALL_MAP and layer.weight.numel() >= _MANY_WEIGHTS):
        patches = activation.flatten(2)
        if not pointwise:
            patches = functional.unfold(activation, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        weight = torch.bmm(_side_by_side(backprop.flatten(2), views), _side_by_side(patches, views).transpose(1, 2))
    else:  # the images as groups of one convolution over their views: nearly at the price of plain training's weight gradient
        weight = torch.ops.aten.convolution_backward(
            _fold(backprop, views), _fold(activation, views), layer.weight.repeat(n, 1, 1, 1), None,
            layer.stride, layer.padding, layer.dilation, False, [0, 0], n, [False, True, False],
        )[1]  # fmt: skip
    gradients: Gradients = {layer.weight: weight.reshape(n, *layer.weight.shape)}
    if layer.bias is not None:
        gradients[layer.bias] = backprop.sum(dim=(2, 3)).reshape(n, views, -1).sum(1)
    return gradients


def _side_by_side(maps: Tensor, views: int) -> Tensor:
    """(n × views, C, P) -> (n, C, views × P)."""
    return maps if views == 1 else maps.reshape(-1, views, *maps.shape[1:]).transpose(1, 2).flatten(2)


def _fold(maps: Tensor, views: int) -> Tensor:
    """(n × views, C, H, W) -> (views, n × C, H, W)."""
    n, (channels, height, width) = len(maps) // views, maps.shape[1:]
    return maps.reshape(n, views, channels, height, width).transpose(0, 1).reshape(views, n * channels, height, width)


def _opacus_rule(layer: nn.Module, activation: Tensor, backprop: Tensor) -> Gradients:
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer))
    if sampler is None or getattr(layer, "padding_mode", "zeros") != "zeros":  # Opacus 1.6 pads with zeros whatever the layer does
        if not hasattr(layer, "ft_compute_sample_grad"):
            prepare_layer(layer)
        sampler = ft_compute_per_sample_gradient
    gradients: Gradients = sampler(layer, [activation], backprop)
    return gradients


def _sum_by_owner(each: Tensor, owner: Tensor, n_patients: int) -> Tensor:
    if len(each) == n_patients:  # ascending owners, and none without an image: one image each
        return each
    return torch.zeros((n_patients, *each.shape[1:]), dtype=each.dtype, device=each.device).index_add_(0, owner, each)
