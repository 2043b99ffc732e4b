"""Weights by the layers that their names go through: `body.0.lora.1.up.weight` is of `lora`, and of `body`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fedrad_common.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def is_of(weight: str, layers: Collection[str]) -> bool:
    return not set(layers).isdisjoint(weight.split("."))


def freeze_others(network: nn.Module, layers: Collection[str], *, key: str = "training.trains") -> None:
    """Only the named layers learn from now on; all do where none is named.

    Raises:
        ConfigError: one of the names is no layer of the network.
    """
    names = [name for name, _ in network.named_parameters()]
    for layer in layers:
        if not any(is_of(name, (layer,)) for name in names):
            raise ConfigError(f"{key}: {layer!r} is no layer of the network", hint=f"a part of a weight's name, such as of {names[-1]}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not layers or is_of(name, layers))
