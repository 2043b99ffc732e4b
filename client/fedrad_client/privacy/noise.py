"""Where all randomness of a site's training comes from: AES-256 in counter mode, from a key that nobody outside knows.

torch's CPU generator has a 32-bit seed, and its secure variant cannot be installed; this source has 256 bits and is exactly reproducible
from its key, so that a reservation's stored secret gives the same update again, and any other gives independent noise.
"""

from __future__ import annotations

import collections
import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedrad_client.privacy import exact_gaussian

if TYPE_CHECKING:
    from torch import Tensor

_AES_BLOCK = 16  # bytes
_SEGMENT = exact_gaussian.PAIRS_PER_KEY * _AES_BLOCK  # bytes under one AES key
_BLOCK = 1 << 16  # pairs made at a time: fewer, and threads of Python wait for each other
_ZEROS = memoryview(bytes(_BLOCK * _AES_BLOCK))
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class NoiseSource(Protocol):
    """Independent draws; two sources with the same key and the same calls give the same draws."""

    def grid_normal(self, shape: tuple[int, ...], *, scale: float) -> Tensor:
        """round(scale × standard normal), correctly rounded: int64, on the CPU."""
        ...

    def grid_normal_parts(self, count: int, *, scale: float, threads: int = 1) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """The same `count` draws, a part at a time, and where each belongs; none is -0; the same with any number of threads."""
        ...

    def bernoulli(self, n: int, probability: float) -> npt.NDArray[np.bool_]: ...

    def integers(self, high: int, size: int) -> npt.NDArray[np.int64]:
        """(size,) uniform in 0 … high - 1."""
        ...

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Uniform in [-1, 1), in steps of 2⁻²³."""
        ...

    def fork(self, label: str) -> NoiseSource:
        """A source whose draws are independent of this one's and of every other label's."""
        ...


class AesNoise:
    """`key` is secret, 32 bytes, and is never used for two different questions."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"noise key: {len(key)} bytes, expected 32")
        self._key = key
        self._stream = _Keystream(key, "stream")
        self._pairs = _Keystream(key, "pairs")
        self._more_key = _derived(key, "more")
        self._pair = 0  # drawn so far

    @classmethod
    def seeded(cls, seed: int) -> Self:
        """Reproducible by anybody who knows the seed: for tests. A simulation seeds the bytes that a reservation begins with instead."""
        return cls(hashlib.sha256(f"fedrad seeded noise {seed}".encode()).digest())

    def fork(self, label: str) -> AesNoise:
        return AesNoise(_derived(self._key, f"fork {label}"))

    def grid_normal(self, shape: tuple[int, ...], *, scale: float) -> Tensor:
        """int64 whole numbers: the exact Gaussian of standard deviation `scale`, rounded (privacy.md, rule 8).

        The pair with number i in this source takes block i of its keystream, and where that does not decide, HMAC-SHA512 of i.
        """
        import torch

        values = np.empty(math.prod(shape), dtype=np.int64)
        for where, drawn in self.grid_normal_parts(len(values), scale=scale):
            np.copyto(values[where], drawn, casting="unsafe")
        return torch.from_numpy(values.reshape(shape))

    def grid_normal_parts(self, count: int, *, scale: float, threads: int = 1) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """The same in parts: where it belongs, and whole numbers, none of them -0. Take them to the end: the source is spoilt otherwise."""
        pairs, first = (count + 1) // 2, self._pair
        self._pair += pairs
        exact_gaussian.chosen_functions()  # by a trial, which other threads would disturb

        def drawn(block: tuple[int, npt.NDArray[np.uint64]]) -> tuple[int, npt.NDArray[np.float64]]:
            start, words = block
            out = np.empty((2, len(words)))
            exact_gaussian.fill(words, scale, self._more, number=first + start, out=out)
            return start, out

        blocks = ((start, self._pairs.words(2 * min(_BLOCK, pairs - start)).reshape(-1, 2)) for start in range(0, pairs, _BLOCK))
        for start, out in _in_order(drawn, blocks, threads=threads if pairs > _BLOCK else 1):
            for member, begin in enumerate((start, pairs + start)):
                end = min(begin + len(out[member]), count)
                yield slice(begin, end), out[member, : end - begin]

    def bernoulli(self, n: int, probability: float) -> npt.NDArray[np.bool_]:
        """(n,) each true with at most `probability`, and at least that less 2⁻⁵³; always at 1 and never at 0."""
        if not 0 <= probability <= 1:
            raise ValueError(f"probability: {probability} is not between 0 and 1")
        threshold = math.floor(probability * 2.0**53)  # a product with a power of two is exact
        return self._stream.words(n) >> np.uint64(11) < np.uint64(threshold)

    def integers(self, high: int, size: int) -> npt.NDArray[np.int64]:
        """Uniform in 0 … high - 1, by rejection, so without bias."""
        if not 0 < high <= 2**62:
            raise ValueError(f"integers: {high} is not between 1 and 2**62")
        limit = np.uint64((2**63 // high) * high)
        kept: list[npt.NDArray[np.uint64]] = []
        missing = size
        while missing > 0:
            words = self._stream.words(missing) >> np.uint64(1)
            kept.append(words[words < limit])
            missing -= len(kept[-1])
        drawn = np.concatenate(kept) if kept else np.empty(0, dtype=np.uint64)
        return (drawn % np.uint64(high)).astype(np.int64)

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Multiples of 2⁻²³ in [-1, 1), exact in float32."""
        whole = (self._stream.words(math.prod(shape)) >> np.uint64(40)).astype(np.float32)
        return (whole * np.float32(2.0**-23) - np.float32(1)).reshape(shape)

    def _more(self, pair: int) -> bytes:
        return hmac.digest(self._more_key, pair.to_bytes(8), "sha512")


class _Keystream:
    """Random words. Every MiB has a key of its own: AES blocks under one key never repeat, which shows in the square of their number."""

    def __init__(self, key: bytes, label: str) -> None:
        self._key = _derived(key, label)
        self._segment = 0  # of the next key
        self._left = 0  # bytes, of this one

    def words(self, n: int) -> npt.NDArray[np.uint64]:
        buffer = np.empty(8 * n + _AES_BLOCK, dtype=np.uint8)  # `update_into` wants room for a block more
        at = 0
        while at < 8 * n:
            if not self._left:
                key = _derived(self._key, f"segment {self._segment}")
                self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(_AES_BLOCK))).encryptor()
                self._segment, self._left = self._segment + 1, _SEGMENT
            size = min(8 * n - at, self._left, len(_ZEROS))
            self._cipher.update_into(_ZEROS[:size], buffer[at:].data)
            at, self._left = at + size, self._left - size
        return buffer[: 8 * n].view("<u8")


def _in_order(work: Callable[[_Given], _Made], jobs: Iterable[_Given], *, threads: int) -> Iterator[_Made]:
    """`work` of each of the `jobs`, which are taken one after another, a few ahead of what is asked for."""
    if threads == 1:
        yield from map(work, jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        begun: collections.deque[Future[_Made]] = collections.deque()
        for job in jobs:
            begun.append(pool.submit(work, job))
            if len(begun) > 2 * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _derived(key: bytes, label: str) -> bytes:
    return hmac.digest(key, f"fedrad noise {label}".encode(), "sha256")
