"""Networks of which a part learns. The rest are constants outside of parameters: nothing of it is packed, clipped, noised or sent."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fedrad_common.protocol import Model

_HEAD = "head"  # what a network calls its last layer


def partial(network: nn.Module, model: Model) -> nn.Module:
    """`network` with the weights that it has, of which only what `model.trains` says are parameters.

    Raises:
        ValueError: it has no last layer of that name, or a layer that cannot be told from its inner layers.
    """
    if not list(getattr(network, _HEAD, nn.Module()).parameters()):
        raise ValueError(f"it has no layer {_HEAD!r}")
    if model.trains == "head":
        return HeadOnly(network)
    assert model.rank is not None
    return _with_detours(network, model, rank=model.rank)


class Fixed(nn.Module):
    """A layer, or a whole network, whose weights are constants. Gradients pass through it, and nobody moves it but its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._held = (layer.eval().requires_grad_(False),)  # in a tuple, where torch does not look for parameters

    def forward(self, maps: Tensor) -> Tensor:
        (layer,) = self._held
        if maps.dtype == torch.bfloat16:  # of an autocast, which rounds what it multiplies by itself: the constants stay what they are
            maps = maps.float()
        known = next(layer.parameters(), maps)
        if (known.device, known.dtype) != (maps.device, maps.dtype):
            layer.to(maps.device, maps.dtype)
        return cast("Tensor", layer(maps))


class HeadOnly(nn.Module):
    """A fixed network and its last layer, which learns. What comes before it is computed once an image where nothing is augmented."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        head = cast("nn.Module", getattr(network, _HEAD))
        setattr(network, _HEAD, nn.Identity())
        self.front = Fixed(network)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.from_features(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return cast("Tensor", self.front(images))

    def from_features(self, features: Tensor) -> Tensor:
        return cast("Tensor", self.head(features))


class Detour(nn.Module):
    """A fixed layer, and beside it two ordinary ones through `rank` channels, whose sum is zero at first (LoRA, Hu et al. 2022)."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, *, rank: int, trains_down: bool, name: str) -> None:
        super().__init__()
        self.layer = Fixed(layer)
        self.up: nn.Module
        if isinstance(layer, nn.Linear):
            down: nn.Conv2d | nn.Linear = nn.Linear(layer.in_features, rank, bias=False)
            up: nn.Conv2d | nn.Linear = nn.Linear(rank, layer.out_features, bias=False)
        else:
            padding = cast("tuple[int, int]", layer.padding)
            down = nn.Conv2d(
                layer.in_channels,
                rank,
                cast("tuple[int, int]", layer.kernel_size),
                cast("tuple[int, int]", layer.stride),
                padding,
                bias=False,
            )
            up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        with torch.no_grad():
            down.weight.copy_(_drawn(down.weight.shape, name=name))
        nn.init.zeros_(up.weight)
        self.down: nn.Module = down if trains_down else Fixed(down)
        self.up = up

    def forward(self, maps: Tensor) -> Tensor:
        return cast("Tensor", self.layer(maps) + self.up(self.down(maps)))


def _drawn(shape: torch.Size, *, name: str) -> Tensor:
    """Uniform around 0, of spread 1 / √inputs, from `name` alone: the same bits with every version of torch and on every processor.

    What stays at a site is compared with no other site's, so what torch's own generator makes of a seed is not enough.
    """
    words = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * shape.numel()), dtype="<u4")
    unit = (words + 0.5) / 2.0**31 - 1  # in (-1, 1), exact in float64
    return torch.from_numpy((unit * math.sqrt(3 / shape[1:].numel())).astype(np.float32)).view(shape)


def _with_detours(network: nn.Module, model: Model, *, rank: int) -> nn.Module:
    made = itertools.count()
    head = set(cast("nn.Module", getattr(network, _HEAD)).modules())
    for parent in [module for module in network.modules() if module not in head]:
        for name, layer in list(parent.named_children()):
            own = list(layer.parameters(recurse=False))
            if not own or layer in head:
                continue
            if len(own) != len(list(layer.parameters())):
                raise ValueError(f"layer {name} has weights beside inner layers")
            fixed: nn.Module = Fixed(layer)
            if _takes_detour(layer):
                drawn = f"fedrad-detour-1 {model.seed} {next(made)}"
                fixed = Detour(layer, rank=rank, trains_down=model.trains == "lora", name=drawn)
            setattr(parent, name, fixed)
    if any(True for _ in network.parameters(recurse=False)):
        raise ValueError("it has weights beside inner layers")
    return network


def _takes_detour(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1) and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)
