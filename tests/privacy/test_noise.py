"""The one source of randomness: normal, independent, and exactly reproducible from its key and from nothing else."""

import hashlib
import hmac
import math
import threading
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedrad_client.answer import stream_key
from fedrad_client.privacy import exact_gaussian, noise
from fedrad_client.privacy.noise import AesNoise, _Keystream
from fedrad_client.privacy.optimizer import GRID
from fedrad_common.records import Order

N = 200_000
KEY = bytes(range(32))
# What that key gives: of 100,001 draws the first four and the hash of all, and what is drawn after them.
FIRST = [-3501377, 5071233, -26795194, -9095203]
DRAWN = "3b1fd01d1c86161d5f70eb66e714d9ea4fc27ea0baf725b3195596b557f1a6ed"
INTEGERS, TRUE, FORKED = [933, 794, 169, 303, 273, 99, 262, 688], [1, 8, 9, 11, 16, 19, 24, 27, 30, 32, 37, 38], [4, -14, -7]


def normals(source: AesNoise, n: int = N) -> np.ndarray:
    """In standard deviations, with the grid of noise multiplier 1."""
    return source.grid_normal((n,), scale=1 / GRID).numpy() * GRID


def given_words(source: AesNoise, words: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    left = np.array(words, dtype=np.uint64)

    def take(n: int) -> np.ndarray:
        nonlocal left
        taken, left = left[:n], left[n:]
        return taken

    monkeypatch.setattr(source._stream, "words", take)


def test_draws_are_standard_normal() -> None:
    from scipy.stats import kstest

    drawn = normals(AesNoise(KEY), 2_000_000)

    assert abs(drawn.mean()) < 5 / len(drawn) ** 0.5
    assert abs(drawn.std() - 1) < 1e-3
    assert abs((drawn**4).mean() - 3) < 5 * (96 / len(drawn)) ** 0.5
    assert kstest(drawn[:N], "norm").pvalue > 0.01
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 5 / len(drawn) ** 0.5


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_rounded_draws_have_the_cells_of_the_rounded_gaussian(scale: float) -> None:
    from scipy.special import ndtr
    from scipy.stats import chisquare

    drawn = AesNoise(KEY).grid_normal((N,), scale=scale).numpy()
    cells = np.arange(-math.ceil(3 * scale), math.ceil(3 * scale) + 1)
    ends = np.concatenate([[-np.inf], cells[:-1] + 0.5, [np.inf]])

    counts = np.bincount(np.clip(drawn, cells[0], cells[-1]) - cells[0], minlength=len(cells))
    assert chisquare(counts, N * np.diff(ndtr(ends / scale))).pvalue > 0.01


def test_every_bit_of_the_words_and_of_the_draws_is_a_fair_coin() -> None:
    from scipy.stats import chi2

    words = _Keystream(KEY, "pairs").words(N)
    whole = AesNoise(KEY).grid_normal((N,), scale=1 / GRID).numpy()
    low = np.unpackbits(whole.view(np.uint8).reshape(-1, 8)[:, :2], axis=1)  # 16 bits, far below a standard deviation of 2²⁴
    for bits in (np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1), low):
        ones = bits.sum(axis=0, dtype=np.int64)
        statistic = ((ones - N / 2) ** 2 / (N / 4)).sum()

        assert 0.01 < chi2.sf(statistic, len(ones)) < 0.99
        assert abs((bits[:-1] ^ bits[1:]).mean(axis=0) - 0.5).max() < 5 / (4 * N) ** 0.5


def test_the_two_numbers_of_a_pair_are_independent() -> None:
    drawn = normals(AesNoise.seeded(2), 1 << 16)
    half = len(drawn) // 2

    assert abs((drawn[:half] * drawn[half:]).mean()) < 5 / half**0.5
    assert abs((drawn[:half] ** 2 * drawn[half:] ** 2).mean() - 1) < 5 * (8 / half) ** 0.5


def test_the_same_key_gives_the_same_draws_and_another_key_independent_ones() -> None:
    first, same, other = (normals(AesNoise(key)) for key in (bytes(32), bytes(32), bytes(31) + b"\x01"))

    np.testing.assert_array_equal(first, same)
    assert abs((first * other).mean()) < 5 / N**0.5


def test_the_draws_of_a_key_are_the_same_on_every_machine() -> None:
    source = AesNoise(KEY)
    drawn = source.grid_normal((100_001,), scale=1 / GRID).numpy()

    assert drawn[:4].tolist() == FIRST
    assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest() == DRAWN
    assert source.integers(1000, 8).tolist() == INTEGERS
    assert np.flatnonzero(source.bernoulli(40, 0.25)).tolist() == TRUE
    assert source.fork("noise").grid_normal((3,), scale=10.0).tolist() == FORKED


def test_a_draw_follows_from_the_key_as_it_is_written_down() -> None:
    """HMAC-SHA256 for keys, block i of AES-256-CTR for pair i, HMAC-SHA512 of i for the rest of its bits."""

    def derived(key: bytes, label: str) -> bytes:
        return hmac.digest(key, f"fedrad noise {label}".encode(), "sha256")

    aes = Cipher(algorithms.AES256(derived(derived(KEY, "pairs"), "segment 0")), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(aes.update(bytes(16 * 4)), dtype="<u8").reshape(4, 2)
    rest = [hmac.digest(derived(KEY, "more"), pair.to_bytes(8), "sha512") for pair in range(4)]
    pairs = [exact_gaussian.exact(int(u), int(v), more, 1 / GRID) for (u, v), more in zip(words, rest, strict=True)]

    assert AesNoise(KEY).grid_normal((8,), scale=1 / GRID).tolist() == [first for first, _ in pairs] + [second for _, second in pairs]


def test_a_pair_is_its_own_block_of_the_keystream_whatever_is_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AesNoise(KEY).grid_normal((2 * N,), scale=1 / GRID).numpy()
    monkeypatch.setattr(noise, "_BLOCK", 777)

    np.testing.assert_array_equal(AesNoise(KEY).grid_normal((2 * N,), scale=1 / GRID).numpy(), whole)
    source = AesNoise(KEY)
    parts = [source.grid_normal((2 * n,), scale=1 / GRID).numpy() for n in (5, N - 5)]
    np.testing.assert_array_equal(np.concatenate([part[: len(part) // 2] for part in parts]), whole[:N])


def test_any_number_of_threads_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AesNoise(KEY).grid_normal((2 * N + 1,), scale=1 / GRID).numpy()
    monkeypatch.setattr(noise, "_BLOCK", 1001)
    source, drawn = AesNoise(KEY), np.zeros(2 * N + 1)
    threads = set()
    fill = exact_gaussian.fill
    monkeypatch.setattr(exact_gaussian, "fill", lambda *given, **more: (threads.add(threading.get_ident()), fill(*given, **more)))
    for where, part in source.grid_normal_parts(len(drawn), scale=1 / GRID, threads=3):
        drawn[where] = part

    np.testing.assert_array_equal(drawn, whole)
    assert len(threads) > 1


def test_forks_are_independent_of_each_other_and_of_what_was_drawn_before() -> None:
    source = AesNoise(bytes(32))
    before = normals(source.fork("noise"))
    source.bernoulli(1000, 0.5)

    np.testing.assert_array_equal(before, normals(source.fork("noise")))
    assert abs((before * normals(source.fork("sampling"))).mean()) < 5 / N**0.5
    assert abs((before * normals(source)).mean()) < 5 / N**0.5


def test_every_pair_of_a_source_has_a_number_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two pairs that float64 cannot decide would share their last bits."""
    numbers: list[int] = []

    def record(words: np.ndarray, scale: float, more: object, *, number: int, out: np.ndarray) -> None:
        numbers.extend(range(number, number + len(words)))
        out.fill(0)

    monkeypatch.setattr(exact_gaussian, "fill", record)
    source = AesNoise(KEY)
    for n in (3, 0, 2 * noise._BLOCK + 7, 1):
        source.grid_normal((n,), scale=1.0)

    assert numbers == list(range(2 + noise._BLOCK + 4 + 1))
    assert len({source._more(number) for number in (0, 1, 256, 2**40)}) == 4


def test_no_draw_is_given_twice() -> None:
    source = AesNoise(KEY)
    drawn = [source.grid_normal((n,), scale=2.0**40).flatten() for n in (1001, 1, 1000)]

    assert len(np.unique(np.concatenate(drawn))) == 2002


def test_no_aes_key_makes_more_blocks_than_the_distance_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[bytes, int] = {}

    class Counting:
        def __init__(self, algorithm: algorithms.AES256, mode: modes.CTR) -> None:
            self.key, self.cipher = algorithm.key, Cipher(algorithm, mode)

        def encryptor(self) -> "Counting":
            assert self.key not in used
            self.inner = self.cipher.encryptor()
            return self

        def update_into(self, data: memoryview, buffer: memoryview) -> int:
            used[self.key] = used.get(self.key, 0) + len(data)
            return self.inner.update_into(data, buffer)

    monkeypatch.setattr(noise, "Cipher", Counting)
    source = AesNoise(KEY)
    source.grid_normal((2 * N + 1,), scale=1.0)
    source.bernoulli(N, 0.5)

    assert max(used.values()) <= 16 * exact_gaussian.PAIRS_PER_KEY
    assert sum(used.values()) == 16 * (N + 1) + 8 * N
    assert len(used) == 4 + 2


def test_shapes_odd_sizes_and_nothing_at_all() -> None:
    source = AesNoise.seeded(0)

    assert source.grid_normal((3, 5, 7), scale=1.0).shape == (3, 5, 7)
    assert source.grid_normal((), scale=1.0).shape == ()
    assert source.grid_normal((0, 4), scale=1.0).shape == (0, 4)


def test_bernoulli_has_its_rate_and_the_ends_are_exact() -> None:
    source = AesNoise.seeded(0)

    assert abs(source.bernoulli(N, 0.1).mean() - 0.1) < 5 * (0.09 / N) ** 0.5
    assert source.bernoulli(1000, 1.0).all()
    assert not source.bernoulli(1000, 0.0).any()


@pytest.mark.parametrize("probability", [1.0, 0.0, 0.1, 1 / 3, 2.0**-53, 2.0**-60, 1 - 2.0**-53, 1e-9, 0.5])
def test_nobody_is_drawn_with_more_than_the_rate(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many of the 2⁵³ words say yes: all below one number, found by asking the words beside it."""
    source, most = AesNoise(KEY), math.floor(Fraction(probability) * 2**53)
    places = sorted({0, max(0, most - 1), min(most, 2**53 - 1), 2**53 - 1})
    given_words(source, [place << 11 | 0x7FF for place in places], monkeypatch)

    assert source.bernoulli(len(places), probability).tolist() == [place < most for place in places]
    assert probability - Fraction(1, 2**53) < Fraction(most, 2**53) <= probability


@pytest.mark.parametrize("probability", [-1e-9, 1.0000001, math.nan, math.inf])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        AesNoise(KEY).bernoulli(1, probability)


def test_integers_are_uniform() -> None:
    counts = np.bincount(AesNoise.seeded(0).integers(7, 70_000), minlength=7)

    assert len(counts) == 7
    assert abs(counts - 10_000).max() < 5 * 10_000**0.5


def test_integers_are_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of the incomplete last turn are thrown away: with a remainder alone, small numbers would come too often."""
    source, high = AesNoise(KEY), 3 * 2**60
    given_words(source, [(2 * high - 1) << 1, (2 * high) << 1, (2**63 - 1) << 1, 5 << 1, 6 << 1], monkeypatch)

    assert source.integers(high, 3).tolist() == [high - 1, 5, 6]


@pytest.mark.parametrize("high", [1, 2**62])
def test_integers_reach_both_ends_of_what_is_allowed(high: int) -> None:
    drawn = AesNoise(KEY).integers(high, 1000)

    assert drawn.min() >= 0
    assert high // 2 <= drawn.max() < high


@pytest.mark.parametrize("high", [0, -1, 2**62 + 1])
def test_integers_outside_are_refused(high: int) -> None:
    with pytest.raises(ValueError, match="not between 1 and"):
        AesNoise(KEY).integers(high, 1)


def test_a_key_answers_one_question_only() -> None:
    """Another run, round, kind, protocol, model, cohort generation or reservation is another key (privacy.md, rule 9)."""
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol="a" * 64, model="b" * 64, length=1)
    changes = ({"run": "run-00000002"}, {"round": 2}, {"kind": "evaluate"}, {"protocol": "c" * 64}, {"model": "c" * 64})
    keys = [stream_key(KEY, order.model_copy(update=change), 1) for change in ({}, *changes)]
    keys += [stream_key(KEY, order, 2), stream_key(bytes(32), order, 1)]

    assert len(set(keys)) == len(keys) == 8
    assert {len(key) for key in keys} == {32}
    assert stream_key(KEY, order, 1) == keys[0]


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        AesNoise(bytes(31))


def test_uniform_draws_are_whole_steps_between_minus_one_and_one() -> None:
    from scipy.stats import kstest

    drawn = AesNoise(KEY).uniform((1000, 3, 7))

    assert drawn.dtype == np.float32
    assert drawn.shape == (1000, 3, 7)
    assert np.array_equal(drawn * 2**23, np.rint(drawn * 2**23))
    assert drawn.min() >= -1
    assert drawn.max() < 1
    assert kstest(drawn.ravel(), "uniform", args=(-1, 2)).pvalue > 0.01
    assert not np.array_equal(drawn, AesNoise(KEY[::-1]).uniform((1000, 3, 7)))
