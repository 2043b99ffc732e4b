"""Public first weights: a safetensors file, taken only if its hash, names and shapes are those of the network that a protocol names.

safetensors is a header of names, types, shapes and offsets, then numbers: nothing in it is ever executed.
"""

from __future__ import annotations

import functools
import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from fedrad_common.canonical import Sha256
from fedrad_common.errors import ConfigError, FedradError, MisuseError
from fedrad_common.files import atomic_stream, make_folder, sha256_file
from fedrad_common.models import build, outline, whole_of
from fedrad_common.packing import Vector, pack, unpack, vector_hash
from fedrad_common.protocol import Lineage
from fedrad_common.tasks import task

if TYPE_CHECKING:
    from torch import nn

    from fedrad_common.protocol import Model, TrainingProtocol

FOLDER = "weights"  # of a site's or a coordinator's home
MOST_BYTES = 1 << 30  # of a file
_TYPES = ("F16", "F32", "F64")
_COPIED = 1 << 20  # bytes at a time
_SHOWN = 80  # characters of a name that a file tells
_SAME_NETWORK = "the weights must be of the very network that the protocol names, saved under its own names"


def public_vector(protocol: TrainingProtocol, path: Path, *, fresh: str = "") -> Vector:
    """Packed weights of the whole network, (n_weights,) float32: those of the file, and the seed's where they are `fresh`.

    Args:
        fresh: layers that keep the seed's weights, by the beginning of their names, such as "head"; the file may hold them or not.

    Raises:
        ConfigError: the file is damaged, or of another network; the first difference is named.
        MisuseError: it is no plain file.
    """
    return _read(path, protocol.model, fresh=fresh, **_sizes(protocol))


def first_vector(protocol: TrainingProtocol, whole: Vector) -> Vector:
    """Of a whole network's public weights, those that a run starts from and sends: all, or what its protocol trains, as the seed has it."""
    if protocol.model.trains == "all":
        return whole
    named = protocol.model.model_copy(update={"initial": Lineage.model_construct(kind="public")})
    return pack(build(named, **_sizes(protocol), backbone=whole))


def _read(path: Path, model: Model, *, fresh: str, n_outputs: int, height: int, width: int) -> Vector:
    import torch
    from safetensors import SafetensorError, safe_open

    network = build(whole_of(model), n_outputs=n_outputs, height=height, width=width)
    wanted = {weight: parameter for weight, parameter in network.named_parameters() if not _is_of(weight, fresh)}
    if fresh and len(wanted) == len(list(network.parameters())):
        raise ConfigError(f"model.initial.fresh: {fresh!r} is no layer of {model.name}", hint="such as: head")
    _check_plain(path)
    try:
        with safe_open(path, framework="numpy") as file:  # reads the header alone
            _refuse_released(file.metadata() or {}, name=path.name)
            _compare(file, wanted, fresh, network=model.name, name=path.name)
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


def _refuse_released(header: dict[str, str], *, name: str) -> None:
    """What a run released learned from patients. Stops an honest mistake only: anybody may write another header."""
    if "run" in header:
        raise ConfigError(
            f"{name}: was released by the run {_shown(header['run'])}: it is not public",
            hint='start from that run with model.initial.kind = "run", at the coordinator that has it: sites then know its lineage',
        )


def _shown(name: str) -> str:
    """A name from a file of anybody's, for a terminal: nothing in it may move the cursor."""
    return repr(name[:_SHOWN])[: _SHOWN + 2]


def _compare(file: Any, wanted: dict[str, nn.Parameter], fresh: str, *, network: str, name: str) -> None:
    found = set(file.keys())
    if missing := sorted(set(wanted) - found):
        raise ConfigError(f"{name}: weight {missing[0]} is missing, {len(missing)} in all", hint=_SAME_NETWORK)
    if more := sorted(weight for weight in found - set(wanted) if not _is_of(weight, fresh)):
        raise ConfigError(f"{name}: weight {_shown(more[0])} is none of {network}'s, {len(more)} in all", hint=_SAME_NETWORK)
    for weight, parameter in wanted.items():
        told = file.get_slice(weight)
        shape, kind = tuple(told.get_shape()), told.get_dtype()
        if shape != tuple(parameter.shape):
            raise ConfigError(f"{name}: weight {weight}: shape {shape}, expected {tuple(parameter.shape)}", hint=_SAME_NETWORK)
        if kind not in _TYPES:
            raise ConfigError(f"{name}: weight {weight}: type {kind}, expected one of {', '.join(_TYPES)}", hint="save it as float32")


def check_public(protocol: TrainingProtocol, path: Path) -> Vector:
    """The first weights, `first_vector` of a file that must be the one that the protocol names.

    Raises:
        ConfigError: the protocol names no public weights, or this file does not give the model whose hash it names.
        MisuseError: it is another file.
    """
    vector = first_vector(protocol, backbone(protocol.model, path, **_sizes(protocol)))
    if vector_hash(vector) != protocol.model.initial.model:
        raise ConfigError(
            "model.initial.model: is not the hash of what this file and the seed give",
            hint="write the section anew: fedrad-coordinator weights",
        )
    return vector


def backbone(model: Model, path: Path, *, n_outputs: int, height: int, width: int) -> Vector:
    """`public_vector` of a file that must be the one that `model` names. Raises as `check_public`."""
    initial = model.initial
    if initial.kind != "public":
        raise ConfigError(f"model.initial.kind is {initial.kind!r}: its first weights come from no file", hint="leave the file out")
    _check_hash(path, initial)
    return _read(path, model, fresh=initial.fresh, n_outputs=n_outputs, height=height, width=width)


def _check_hash(path: Path, initial: Lineage) -> None:
    if (found := file_hash(path)) != initial.weights:
        raise MisuseError(
            f"{path.name}: its SHA-256 begins with {found[:16]}, not with {str(initial.weights)[:16]}: another file, or a changed one",
            hint="fetch it again from where model.initial.source says",
        )


def check_stays(model: Model) -> None:
    """Raises ConfigError: what is not trained would be drawn by each site's own torch, which no hash names and nobody compares."""
    if model.trains != "all" and model.initial.kind == "random":
        raise ConfigError(
            f"model.initial.kind is 'random': with model.trains {model.trains!r} what stays would be as each machine draws it",
            hint="name public weights (fedrad-coordinator weights), or train all of the network",
        )


def kept_file(home: Path, initial: Lineage) -> Path:
    """Where a site or a coordinator keeps the public weights that a protocol names; it may not be there."""
    return home / FOLDER / f"{initial.weights}.safetensors"


def keeps(home: Path, initial: Lineage) -> bool:
    """Whether the kept file is there, can be read, and is still the one that the protocol names. Read again only once it was touched."""
    path = kept_file(home, initial)
    try:
        found = path.stat()
        return _known_hash(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)) == initial.weights
    except (FedradError, OSError):
        return False


@functools.lru_cache(maxsize=16)
def _known_hash(path: Path, state: tuple[int, ...]) -> Sha256:
    """By path and state, so that a file that was touched is read again."""
    return file_hash(path)


def keep_file(home: Path, file: Path, initial: Lineage) -> None:
    """Copy it to where `kept_file` finds it. Raises MisuseError: it is another file than `initial` names, or changes meanwhile."""
    kept = kept_file(home, initial)
    _check_hash(file, initial)
    make_folder(kept.parent)
    with atomic_stream(kept) as stream, file.open("rb") as content:
        copied = hashlib.sha256()
        for part in iter(lambda: content.read(_COPIED), b""):
            copied.update(part)
            stream.write(part)
        if copied.hexdigest() != initial.weights:
            raise MisuseError(f"{file.name}: changed while it was read", hint="try again when nobody writes to it")


def file_hash(path: Path) -> Sha256:
    """Raises MisuseError: it is no plain file of a size that may be read, or not for this account."""
    _check_plain(path)
    try:
        return sha256_file(path)
    except OSError as error:
        raise MisuseError(f"{path.name}: cannot be read ({type(error).__name__})", hint="let this account read it") from None


def write_weights(protocol: TrainingProtocol, vector: Vector, path: Path, *, lineage: dict[str, str]) -> None:
    """The vector as a safetensors file under the network's own names, written whole or not at all: what was trained, where that is a part.

    Args:
        lineage: goes into its header, for whoever finds it.
    """
    from safetensors.numpy import save

    network = outline(protocol.model, **_sizes(protocol))
    unpack(network, vector)
    tensors = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    with atomic_stream(path) as stream:
        stream.write(save(tensors, metadata=lineage))


class Sizes(TypedDict):
    n_outputs: int
    height: int
    width: int


def _sizes(protocol: TrainingProtocol) -> Sizes:
    if protocol.task.kind == "echo":
        raise ConfigError("task.kind is 'echo', which has no network", hint="name a task that learns something")
    n_outputs = task(protocol.task.kind).n_outputs(protocol.task.labels)
    return {"n_outputs": n_outputs, "height": protocol.input.height, "width": protocol.input.width}


def _is_of(weight: str, layer: str) -> bool:
    return bool(layer) and (weight == layer or weight.startswith(f"{layer}."))


def _check_plain(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise MisuseError(f"{path.name}: {error.strerror}", hint="name a safetensors file") from None
    if not stat.S_ISREG(found.st_mode) or not 8 < found.st_size <= MOST_BYTES:  # a pipe would block for ever
        raise MisuseError(f"{path.name}: is no plain file of 9 bytes to {MOST_BYTES >> 20} MiB", hint="name a safetensors file")
