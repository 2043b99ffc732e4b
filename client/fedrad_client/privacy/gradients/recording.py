"""One gradient a patient: the gradient of the mean over that patient's images, never formed for anybody else's.

Layers' inputs are kept by forward hooks; one backward pass yields the gradients at the layers' outputs and nothing more (the aggregated
weight gradients, which plain training needs and this does not, are never computed); input and output gradient of a layer give its weights'
gradient image by image (`rules`), or at least its norm and its share of the sum (`parts`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedrad_client.privacy.batches import out_of_memory
from fedrad_client.privacy.gradients.normalised import Normalised, normalise_apart
from fedrad_client.privacy.gradients.parts import Owners, Part, Parts, joined
from fedrad_client.privacy.gradients.pooled import pooled, pools_fast
from fedrad_client.privacy.gradients.rules import is_covered, parts_of
from fedrad_common.errors import ConfigError

_LAYERS_WANTED = "put its weights into layers of linear, convolution or normalisation, each called with one tensor"


@dataclass(frozen=True)
class Call:
    """One use of a layer in the forward pass."""

    name: str  # of the layer
    layer: nn.Module
    input: Tensor
    output: Tensor
    version: int  # of the output: torch counts its changes in place


class Recording:
    """The forward pass of one micro-batch, from which `parts` makes gradients. Use through `recording`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.normalised: list[Normalised] = []  # of the pass backwards

    def keep(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not (isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor)):
            raise ConfigError(
                f"model: layer {name} ({type(layer).__name__}): takes or gives something else than one tensor", hint=_LAYERS_WANTED
            )
        if torch.is_grad_enabled():
            self.calls.append(Call(name, layer, inputs[0].detach(), output, output._version))

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """What is left of a pass that failed holds its memory, and belongs to no later one's losses."""
        try:
            yield
        finally:
            self.calls, self.normalised = [], []

    def parts(self, losses: Tensor, *, owner: Tensor, views: int = 1) -> Parts:
        """Of each patient's gradient of the sum of its losses.

        Args:
            losses: (n × views,) of each image's views, which follow each other, weighted; still attached to the forward pass.
            owner: (n,) int64, ascending from 0 without gaps: which patient an image belongs to.
        """
        calls, self.calls = self.calls, []
        for call in calls:
            if call.output._version != call.version:
                raise ConfigError(
                    f"model: layer {call.name}: its output is changed in place", hint="no in-place activation or addition: relu(x), x + y"
                )
        backprops = torch.autograd.grad(losses.sum(), [call.output for call in calls], allow_unused=True)
        used = [(call, _at_least_float32(backprop)) for call, backprop in zip(calls, backprops, strict=True) if backprop is not None]
        normalised, self.normalised = self.normalised, []
        del calls, backprops
        gathered = _Gathered(Owners(owner, views))
        with torch.no_grad():
            while normalised:
                gathered.add(normalised.pop().parts(gathered.owners))
            while used:  # from the last layer to the first, each let go of as soon as it is done with
                call, backprop = used.pop()
                gathered.add_of(call, backprop)
            return gathered.whole()

    def per_patient(self, losses: Tensor, *, owner: Tensor, views: int = 1) -> dict[Tensor, Tensor]:
        """The gradients themselves, (n_patients, *shape) by parameter; all NaN for whom one is not finite. Arguments as for `parts`."""
        parts = self.parts(losses, owner=owner, views=views)
        with torch.no_grad():
            return parts.rows()


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
            if type(layer) is nn.GroupNorm and layer.affine:
                layer.forward = _keeping_apart(name or "(root)", layer, kept)  # type: ignore[method-assign, assignment]
            elif own:
                handles.append(layer.register_forward_hook(functools.partial(kept.keep, name or "(root)")))
            elif pools_fast(layer):
                layer.forward = functools.partial(pooled, layer=layer)
        yield kept
    finally:
        for handle in handles:
            handle.remove()
        for layer in module.modules():
            vars(layer).pop("ft_compute_sample_grad", None)  # functorch's, where Opacus had to take it
            if type(layer) is nn.GroupNorm or pools_fast(layer):
                vars(layer).pop("forward", None)


def _keeping_apart(name: str, layer: nn.GroupNorm, kept: Recording) -> Callable[[Tensor], Tensor]:
    def forward(maps: Tensor) -> Tensor:
        if torch.is_grad_enabled() and maps.requires_grad:
            return normalise_apart(maps, layer, kept.normalised)
        made = nn.GroupNorm.forward(layer, maps)
        kept.keep(name, layer, (maps,), made)
        return made

    return forward


@dataclass
class _Gathered:
    """Parts as they come, from the last layer to the first."""

    owners: Owners
    parts: dict[Tensor, list[Part]] = field(default_factory=dict)
    spoilt: Tensor | None = None  # (n_patients,)

    def add(self, made: dict[Tensor, Part]) -> None:
        for parameter, part in made.items():
            self.parts.setdefault(parameter, []).append(part)

    def add_of(self, call: Call, backprop: Tensor) -> None:
        """Of one layer. A number that is not finite leaves its mark in the gradients; then images that have one are taken out first."""
        activation = _at_least_float32(call.input)
        made = self._made(call, activation, backprop)
        if not all(bool(torch.isfinite(part.squares).all()) for part in made.values()):
            finite = _finite(activation) & _finite(backprop)
            made = self._made(call, _selected(activation, finite), _selected(backprop, finite))
            spoilt = torch.zeros(self.owners.n_patients, dtype=torch.bool, device=finite.device)
            spoilt[self.owners.map[~finite]] = True
            self.spoilt = spoilt if self.spoilt is None else self.spoilt | spoilt
        self.add(made)

    def _made(self, call: Call, activation: Tensor, backprop: Tensor) -> dict[Tensor, Part]:
        try:
            return parts_of(call.layer, activation, backprop, self.owners)
        except Exception as error:
            if is_covered(call.layer) or out_of_memory(error):
                raise
            raise ConfigError(
                f"model: layer {call.name} ({type(call.layer).__name__}): no rule for one image's gradient ({type(error).__name__})",
                hint=_LAYERS_WANTED,
            ) from None

    def whole(self) -> Parts:
        return Parts({parameter: joined(parts) for parameter, parts in self.parts.items()}, self.owners.n_patients, self.spoilt)


def _at_least_float32(part: Tensor) -> Tensor:
    """What a pass in bfloat16 left behind: gradients are formed, measured and added in no less than float32."""
    return part.float() if part.dtype == torch.bfloat16 else part


def _finite(part: Tensor) -> Tensor:
    """(n,) is all finite that is known of an image? A sum that overflows counts as infinite."""
    return torch.isfinite(part.flatten(1).sum(1))


def _selected(part: Tensor, finite: Tensor) -> Tensor:
    """Zeros for images that are not finite, so that nobody's sums ever meet a NaN: 0 × NaN is NaN."""
    return torch.where(finite.view(-1, *[1] * (part.dim() - 1)), part, torch.zeros_like(part))
