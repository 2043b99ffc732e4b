"""The one source of randomness: normal, independent, and exactly reproducible from its key and from nothing else."""

import numpy as np
import pytest

from fedrad_client.privacy.noise import AesNoise

N = 200_000


def normals(noise: AesNoise, n: int = N) -> np.ndarray:
    return noise.normal((n,)).numpy()


def test_draws_are_standard_normal() -> None:
    from scipy.stats import kstest

    drawn = normals(AesNoise.seeded(1))

    assert abs(drawn.mean()) < 5 / N**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / N) ** 0.5
    assert abs((drawn**4).mean() - 3) < 5 * (96 / N) ** 0.5
    assert kstest(drawn, "norm").pvalue > 1e-4
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 5 / N**0.5


def test_the_two_numbers_of_a_pair_are_independent() -> None:
    drawn = normals(AesNoise.seeded(2), 1 << 16)
    half = len(drawn) // 2

    assert abs((drawn[:half] * drawn[half:]).mean()) < 5 / half**0.5
    assert abs((drawn[:half] ** 2 * drawn[half:] ** 2).mean() - 1) < 5 * (8 / half) ** 0.5


def test_the_same_key_gives_the_same_draws_and_another_key_independent_ones() -> None:
    first, same, other = (normals(AesNoise(key)) for key in (bytes(32), bytes(32), bytes(31) + b"\x01"))

    np.testing.assert_array_equal(first, same)
    assert abs((first * other).mean()) < 5 / N**0.5


def test_forks_are_independent_of_each_other_and_of_what_was_drawn_before() -> None:
    noise = AesNoise(bytes(32))
    before = normals(noise.fork("noise"))
    noise.bernoulli(1000, 0.5)

    np.testing.assert_array_equal(before, normals(noise.fork("noise")))
    assert abs((before * normals(noise.fork("sampling"))).mean()) < 5 / N**0.5
    assert abs((before * normals(noise)).mean()) < 5 / N**0.5


def test_shapes_odd_sizes_and_nothing_at_all() -> None:
    noise = AesNoise.seeded(0)

    assert noise.normal((3, 5, 7)).shape == (3, 5, 7)
    assert noise.normal(()).shape == ()
    assert noise.normal((0, 4)).shape == (0, 4)


def test_bernoulli_has_its_rate_and_the_ends_are_exact() -> None:
    noise = AesNoise.seeded(0)

    assert abs(noise.bernoulli(N, 0.1).mean() - 0.1) < 5 * (0.09 / N) ** 0.5
    assert noise.bernoulli(1000, 1.0).all()
    assert not noise.bernoulli(1000, 0.0).any()


def test_integers_are_uniform() -> None:
    counts = np.bincount(AesNoise.seeded(0).integers(7, 70_000), minlength=7)

    assert len(counts) == 7
    assert abs(counts - 10_000).max() < 5 * 10_000**0.5


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        AesNoise(bytes(31))
