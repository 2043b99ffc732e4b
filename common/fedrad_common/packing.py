"""State dict to one flat vector and back, in the model's own parameter order. One array is one exchange on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import FormatError

if TYPE_CHECKING:
    from torch import nn

Vector = npt.NDArray[np.float32]  # (n_parameters,), C-contiguous, little-endian on the wire


def pack(model: nn.Module) -> Vector:
    """Concatenate every parameter, flattened, in `model.parameters()` order."""
    parts = [parameter.detach().cpu().numpy().astype("<f4", copy=False).ravel() for parameter in model.parameters()]
    return np.concatenate(parts)


def unpack(model: nn.Module, vector: Vector) -> None:
    """Load `vector` into `model` in place.

    Raises:
        FormatError: its length is not the model's.
    """
    import torch

    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    if vector.shape != (n_parameters,):
        raise FormatError(f"packed model: {vector.size} numbers, this network has {n_parameters}", hint="the protocol names another model")
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            stop = start + parameter.numel()
            parameter.copy_(torch.from_numpy(np.array(vector[start:stop])).view_as(parameter))
            start = stop


def to_bytes(vector: Vector) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()


def from_bytes(content: bytes | memoryview, *, length: int, what: str = "vector") -> Vector:
    """Raises FormatError when `content` does not hold exactly `length` float32 numbers."""
    if len(content) != 4 * length:
        raise FormatError(f"{what}: {len(content)} bytes, expected {4 * length}")
    return np.frombuffer(content, dtype="<f4")


def vector_hash(vector: Vector) -> str:
    return sha256_hex(to_bytes(vector))
