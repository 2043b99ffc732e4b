"""State dict to one flat vector and back, in the model's own parameter order. One array is one exchange on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import FormatError

if TYPE_CHECKING:
    from torch import nn

Vector = npt.NDArray[np.float32]  # (n_parameters,), C-contiguous
Dtype = Literal["float32", "float16"]  # of a vector as it travels and is stored, little-endian
BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2}
WIRE: dict[Dtype, str] = {"float32": "<f4", "float16": "<f2"}


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


def rounded(vector: Vector, dtype: Dtype) -> Vector:
    """The nearest vector that `dtype` holds, in float32; what is too large becomes the largest one."""
    if dtype == "float32":
        return vector
    most = np.finfo(np.float16).max
    return np.clip(vector, -most, most).astype(np.float16).astype(np.float32)


def holds(vector: Vector, dtype: Dtype) -> bool:
    """Whether `dtype` holds this very vector: else its hash is that of each vector that rounds alike, and says nothing."""
    if dtype == "float32":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.array_equal(vector.astype(np.float16).astype(np.float32), vector))


def to_bytes(vector: Vector, dtype: Dtype = "float32") -> bytes:
    with np.errstate(over="ignore"):  # what a hostile answer holds; a vector of ours went through `rounded`
        return vector.astype(WIRE[dtype], copy=False).tobytes()


def from_bytes(content: bytes | memoryview, *, length: int, what: str = "vector", dtype: Dtype = "float32") -> Vector:
    """(length,) float32. Raises FormatError when `content` does not hold exactly `length` numbers of that type."""
    if len(content) != BYTES[dtype] * length:
        raise FormatError(f"{what}: {len(content)} bytes, expected {BYTES[dtype] * length}")
    return np.frombuffer(content, dtype=WIRE[dtype]).astype("<f4", copy=False)


def vector_hash(vector: Vector, dtype: Dtype = "float32") -> str:
    return sha256_hex(wire_bytes(vector, dtype))


def wire_bytes(vector: Vector, dtype: Dtype = "float32") -> bytes | memoryview:
    """`to_bytes` without a copy, where the vector's own memory holds the bytes that travel."""
    if vector.dtype == np.dtype(WIRE[dtype]) and vector.flags.c_contiguous and vector.size > 0:
        return vector.data.cast("B")
    return to_bytes(vector, dtype)
