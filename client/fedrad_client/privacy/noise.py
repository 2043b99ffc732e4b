"""Where all randomness of a site's training comes from: one AES-256-CTR keystream a purpose, from a key that nobody outside knows.

torch's CPU generator has a 32-bit seed, and its secure variant cannot be installed; this source has 256 bits and is exactly reproducible
from its key, so that a reservation's stored secret gives the same update again, and any other gives independent noise.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 16  # normals made at a time: their intermediate arrays stay in the processor's cache


class NoiseSource(Protocol):
    """Independent draws; two sources with the same key and the same calls give the same draws."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, float64, on the CPU."""
        ...

    def bernoulli(self, n: int, probability: float) -> npt.NDArray[np.bool_]: ...

    def integers(self, high: int, size: int) -> npt.NDArray[np.int64]:
        """(size,) uniform in 0 … high - 1."""
        ...

    def fork(self, label: str) -> NoiseSource:
        """A source whose draws are independent of this one's and of every other label's."""
        ...


class AesNoise:
    """The keystream of AES-256 in counter mode. `key` is secret, 32 bytes, and is never used for two different questions."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"noise key: {len(key)} bytes, expected 32")
        self._key = key
        self._stream = Cipher(algorithms.AES256(_derived(key, "stream")), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def seeded(cls, seed: int) -> Self:
        """Reproducible by anybody who knows the seed: for simulations only, whose reports are marked "seeded"."""
        return cls(hashlib.sha256(f"fedrad seeded noise {seed}".encode()).digest())

    def fork(self, label: str) -> AesNoise:
        return AesNoise(_derived(self._key, f"fork {label}"))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Box and Muller 1958 in float64, both members of each pair; the radius from 53 bits, never infinite."""
        import torch

        count = int(np.prod(shape, dtype=np.int64))
        values = np.empty(count + count % 2, dtype=np.float64)
        for start in range(0, len(values), _BLOCK):
            part = values[start : start + _BLOCK]
            half = len(part) // 2
            uniform = self._uniform(2 * half)
            radius = np.sqrt(-2 * np.log1p(-uniform[:half]))  # 1 - u is in (0, 1]
            angle = uniform[half:] * (2 * np.pi)
            np.multiply(radius, np.cos(angle), out=part[:half])
            np.multiply(radius, np.sin(angle), out=part[half:])
        return torch.from_numpy(values[:count].reshape(shape))

    def bernoulli(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """(n,) each true with `probability`, to 2⁻⁵³; exactly always at 1 and never at 0."""
        return self._uniform(n) < probability

    def integers(self, high: int, size: int) -> npt.NDArray[np.int64]:
        """Uniform in 0 … high - 1, by rejection, so without bias."""
        if not 0 < high <= 2**62:
            raise ValueError(f"integers: {high} is not between 1 and 2**62")
        limit = np.uint64((2**63 // high) * high)
        kept: list[npt.NDArray[np.uint64]] = []
        missing = size
        while missing > 0:
            words = self._words(missing) >> np.uint64(1)
            kept.append(words[words < limit])
            missing -= len(kept[-1])
        drawn = np.concatenate(kept) if kept else np.empty(0, dtype=np.uint64)
        return (drawn % np.uint64(high)).astype(np.int64)

    def _uniform(self, n: int) -> npt.NDArray[np.float64]:
        """(n,) multiples of 2⁻⁵³ in [0, 1)."""
        return (self._words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _words(self, n: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")


def _derived(key: bytes, label: str) -> bytes:
    return hmac.new(key, f"fedrad noise {label}".encode(), hashlib.sha256).digest()
