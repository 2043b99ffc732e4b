"""Public first weights: a safetensors file, taken only if its hash, names and shapes are those of the network that a protocol names.

safetensors is a header of names, types, shapes and offsets, then numbers: nothing in it is ever executed.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrad_common.canonical import Sha256
from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.files import atomic_stream, sha256_file
from fedrad_common.models import build
from fedrad_common.packing import Vector, pack, unpack, vector_hash
from fedrad_common.tasks import task

if TYPE_CHECKING:
    from torch import nn

    from fedrad_common.protocol import TrainingProtocol

MOST_BYTES = 1 << 30  # of a file
_TYPES = ("F16", "F32", "F64")
_SAME_NETWORK = "the weights must be of the very network that the protocol names, saved under its own names"


def public_vector(protocol: TrainingProtocol, path: Path, *, fresh: str = "") -> Vector:
    """The packed first weights, (n_parameters,) float32: those of the file, and the seed's where they are `fresh`.

    Args:
        fresh: layers that keep the seed's weights, by the beginning of their names, such as "head"; the file may hold them or not.

    Raises:
        ConfigError: the file is damaged, or of another network; the first difference is named.
        MisuseError: it is no plain file.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    network = _network(protocol)
    wanted = {weight: parameter for weight, parameter in network.named_parameters() if not _is_of(weight, fresh)}
    if fresh and len(wanted) == len(list(network.parameters())):
        raise ConfigError(f"model.initial.fresh: {fresh!r} is no layer of {protocol.model.name}", hint="such as: head")
    _check_plain(path)
    try:
        with safe_open(path, framework="numpy") as file:  # reads the header alone
            _compare(file, wanted, fresh, network=protocol.model.name, name=path.name)
            for weight, parameter in wanted.items():
                with np.errstate(over="ignore"):
                    numbers = file.get_tensor(weight).astype("<f4")
                if not np.isfinite(numbers).all():
                    raise ConfigError(
                        f"{path.name}: weight {weight}: holds a number that is not finite in float32", hint="take another file"
                    )
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(numbers))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path.name}: is no safetensors file, or is damaged ({type(error).__name__})", hint="fetch it again") from None
    return pack(network)


def _compare(file: Any, wanted: dict[str, nn.Parameter], fresh: str, *, network: str, name: str) -> None:
    found = set(file.keys())
    if missing := sorted(set(wanted) - found):
        raise ConfigError(f"{name}: weight {missing[0]} is missing, {len(missing)} in all", hint=_SAME_NETWORK)
    if more := sorted(weight for weight in found - set(wanted) if not _is_of(weight, fresh)):
        raise ConfigError(f"{name}: weight {more[0]} is none of {network}'s, {len(more)} in all", hint=_SAME_NETWORK)
    for weight, parameter in wanted.items():
        told = file.get_slice(weight)
        shape, kind = tuple(told.get_shape()), told.get_dtype()
        if shape != tuple(parameter.shape):
            raise ConfigError(f"{name}: weight {weight}: shape {shape}, expected {tuple(parameter.shape)}", hint=_SAME_NETWORK)
        if kind not in _TYPES:
            raise ConfigError(f"{name}: weight {weight}: type {kind}, expected one of {', '.join(_TYPES)}", hint="save it as float32")


def check_public(protocol: TrainingProtocol, path: Path) -> Vector:
    """`public_vector`, of a file that must be the one that the protocol names.

    Raises:
        ConfigError: the protocol names no public weights, or this file does not give the model whose hash it names.
        MisuseError: it is another file.
    """
    initial = protocol.model.initial
    if initial.kind != "public":
        raise ConfigError(f"model.initial.kind is {initial.kind!r}: its first weights come from no file", hint="leave the file out")
    if (found := file_hash(path)) != initial.weights:
        raise MisuseError(
            f"{path.name}: its SHA-256 begins with {found[:16]}, not with {str(initial.weights)[:16]}: another file, or a changed one",
            hint="fetch it again from where model.initial.source says",
        )
    vector = public_vector(protocol, path, fresh=initial.fresh)
    if vector_hash(vector) != initial.model:
        raise ConfigError(
            "model.initial.model: is not the hash of what this file and the seed give",
            hint="write the section anew: fedrad-coordinator weights",
        )
    return vector


def file_hash(path: Path) -> Sha256:
    """Raises MisuseError: it is no plain file of a size that may be read."""
    _check_plain(path)
    return sha256_file(path)


def write_weights(protocol: TrainingProtocol, vector: Vector, path: Path, *, lineage: dict[str, str]) -> None:
    """The vector as a safetensors file under the network's own names, written whole or not at all.

    Args:
        lineage: goes into its header, for whoever finds it.
    """
    from safetensors.numpy import save

    network = _network(protocol)
    unpack(network, vector)
    tensors = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    with atomic_stream(path) as stream:
        stream.write(save(tensors, metadata=lineage))


def _network(protocol: TrainingProtocol) -> nn.Module:
    if protocol.task.kind == "echo":
        raise ConfigError("task.kind is 'echo', which has no network", hint="name a task that learns something")
    n_outputs = task(protocol.task.kind).n_outputs(protocol.task.labels)
    return build(protocol.model, n_outputs=n_outputs, height=protocol.input.height, width=protocol.input.width)


def _is_of(weight: str, layer: str) -> bool:
    return bool(layer) and (weight == layer or weight.startswith(f"{layer}."))


def _check_plain(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise MisuseError(f"{path.name}: {error.strerror}", hint="name a safetensors file") from None
    if not stat.S_ISREG(found.st_mode) or not 8 < found.st_size <= MOST_BYTES:  # a pipe would block for ever
        raise MisuseError(f"{path.name}: is no plain file of 9 bytes to {MOST_BYTES >> 20} MiB", hint="name a safetensors file")
