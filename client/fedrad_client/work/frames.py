"""Jobs and vectors between two processes: a few numbers, then bytes, straight into the memory where they belong."""

import os
import struct

import numpy as np

from fedrad_common.packing import Vector

_JOB = struct.Struct("<QQ")  # bytes of the job's JSON, numbers of the model
_ANSWER = struct.Struct("<Q")  # numbers of the vector


def send_job(descriptor: int, content: bytes, model: Vector) -> None:
    """Raises OSError when the other side is gone."""
    _write(descriptor, memoryview(_JOB.pack(len(content), model.size) + content))
    _write(descriptor, _bytes_of(model))


def receive_job(descriptor: int) -> tuple[bytes, Vector] | None:
    """None when there are no more."""
    head = _read(descriptor, _JOB.size)
    if head is None:
        return None
    n_bytes, n_numbers = _JOB.unpack(head)
    content, model = _read(descriptor, n_bytes), _vector(descriptor, n_numbers)
    return None if content is None or model is None else (bytes(content), model)


def send_answer(descriptor: int, vector: Vector) -> None:
    _write(descriptor, memoryview(_ANSWER.pack(vector.size)))
    _write(descriptor, _bytes_of(vector))


def receive_answer(descriptor: int, *, length: int) -> Vector | None:
    """The vector, of just this length; None when the other side is gone, or says anything else."""
    head = _read(descriptor, _ANSWER.size)
    return _vector(descriptor, length) if head is not None and _ANSWER.unpack(head) == (length,) else None


def _bytes_of(vector: Vector) -> memoryview:
    return np.ascontiguousarray(vector, dtype="<f4").data.cast("B")


def _vector(descriptor: int, length: int) -> Vector | None:
    vector = np.empty(length, dtype="<f4")
    return vector if length == 0 or _fill(descriptor, _bytes_of(vector)) else None


def _read(descriptor: int, length: int) -> bytearray | None:
    content = bytearray(length)
    return content if _fill(descriptor, memoryview(content)) else None


def _fill(descriptor: int, into: memoryview) -> bool:
    while into:
        got = os.readv(descriptor, [into])
        if got == 0:
            return False
        into = into[got:]
    return True


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
