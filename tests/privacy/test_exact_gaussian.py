"""Every draw is rounded as exact arithmetic rounds it: float64's error has a proven bound, and where it could matter it is not trusted."""

import hashlib
import math
from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
import torch

from fedrad_client.privacy import exact_gaussian
from fedrad_client.privacy.exact_gaussian import error_bound, exact, fill, noise_delta, noise_distance

SCALE = 2.0**24  # of noise multiplier 1
SCALES = (1e-3, 0.7, 100.0, SCALE, 1.37 * SCALE, 2.0**40)
CONTEXT = mpmath.mp.clone()
CONTEXT.prec = 700


def more(pair: int) -> bytes:
    return hashlib.sha512(pair.to_bytes(8)).digest()


def some_words(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (n, 2), dtype=np.uint64)


def filled(words: np.ndarray, scale: float) -> np.ndarray:
    out = np.full((2, len(words)), -1.0)
    fill(words, scale, more, number=0, out=out)
    assert not (np.signbit(out) & (out == 0)).any()  # no -0: it would show in a sum
    return out.astype(np.int64)


def all_exact(words: np.ndarray, scale: float) -> np.ndarray:
    pairs = [exact(int(first), int(second), more(pair), scale) for pair, (first, second) in enumerate(words)]
    return np.array(pairs, dtype=np.int64).T


def centre(cell: int, bits: int) -> mpmath.mpf:
    return (CONTEXT.mpf(cell) + 0.5) / CONTEXT.mpf(2) ** bits


def members(first: int, second: int, extra: bytes, scale: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The definition, written down again: cells of 319 and 320 bits, Box and Muller."""
    u = centre((first >> 1) * 2**256 + int.from_bytes(extra[:32]), 319)
    v = centre(second * 2**256 + int.from_bytes(extra[32:]), 320)
    radius, angle = CONTEXT.sqrt(-2 * CONTEXT.log(u)), 2 * CONTEXT.pi * v
    return scale * radius * CONTEXT.cos(angle), scale * radius * CONTEXT.sin(angle)


def turn_of(member: mpmath.mpf, u: mpmath.mpf, axis: int) -> mpmath.mpf:
    """V for which √(-2 ln U) cos 2πV, or the sine, is `member`."""
    ratio = member / CONTEXT.sqrt(-2 * CONTEXT.log(u))
    return (CONTEXT.acos(ratio) if axis == 0 else CONTEXT.asin(ratio)) / (2 * CONTEXT.pi)


def words_near_a_middle(n: int, scale: float, *, axis: int) -> np.ndarray:
    """Pairs whose member lies as near to the middle between two whole numbers as 64 bits of V allow; float64 cannot decide them."""
    rng, found = np.random.default_rng(5), []
    for first in rng.integers(2**40, 2**64, n, dtype=np.uint64):
        radius = math.sqrt(-2 * math.log((int(first) >> 1) / 2**63))
        middle = math.floor(rng.uniform(0.05, 0.95) * scale * radius) + CONTEXT.mpf(0.5)
        turn = turn_of(middle / scale, centre(int(first) >> 1, 63), axis)
        found.append((int(first), int(CONTEXT.nint(turn * 2**64 - 0.5)) % 2**64))
    return np.array(found, dtype=np.uint64)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, np.ndarray]]:
    """What float64 computed: R² and the members' distances from the whole numbers that it found. Nothing is decided."""
    seen: dict[str, np.ndarray] = {}

    def record(squared: np.ndarray, off: np.ndarray, scale: float) -> list[int]:
        seen.update(squared=squared.copy(), off=off.copy())
        return []

    monkeypatch.setattr(exact_gaussian, "_undecided", record)
    return seen


@pytest.mark.parametrize("scale", SCALES)
def test_draws_are_rounded_as_exact_arithmetic_rounds_them(scale: float) -> None:
    words = some_words(100)

    np.testing.assert_array_equal(filled(words, scale), all_exact(words, scale))


def test_exact_is_the_definition() -> None:
    for pair, (first, second) in enumerate(some_words(50, seed=1).tolist()):
        expected = [int(CONTEXT.nint(member)) for member in members(first, second, more(pair), 1.37 * SCALE)]

        assert list(exact(first, second, more(pair), 1.37 * SCALE)) == expected


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [SCALE, 100.0])
def test_a_draw_near_the_middle_between_two_whole_numbers_is_rounded_right(scale: float, axis: int) -> None:
    words = words_near_a_middle(60, scale, axis=axis)
    expected = all_exact(words, scale)
    fast = np.empty(expected.shape)

    assert exact_gaussian._fast(words, scale, fast) == list(range(len(words)))  # float64 knows of each that it does not know
    assert (fast[axis] != expected[axis]).sum() > 10  # and would be wrong
    np.testing.assert_array_equal(filled(words, scale), expected)


def test_a_bound_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_near_a_middle(60, SCALE, axis=0)
    monkeypatch.setattr(exact_gaussian, "error_bound", lambda squared, scale: 0.0)

    assert (filled(words, SCALE) != all_exact(words, SCALE)).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_all_bits_are_used_where_it_takes_them(axis: int) -> None:
    """V's last 256 bits are chosen so that the member is nearest to the middle: 400 bits of precision do not decide it."""
    first, middle = 2**62 + 12345, CONTEXT.mpf(1000.5)
    u = (first >> 1) * 2**256
    nearest = int(CONTEXT.nint(CONTEXT.ldexp(turn_of(middle / SCALE, centre(u, 319), axis), 320) - 0.5))
    drawn = set()
    for cell in range(nearest - 2, nearest + 3):
        second, extra = cell >> 256, bytes(32) + (cell & (2**256 - 1)).to_bytes(32)
        member = members(first, second, extra, SCALE)[axis]
        drawn.add(exact(first, second, extra, SCALE)[axis])

        assert abs(member - middle) < 2.0**-280
        assert exact_gaussian._rounded(2 * u + 1, 2 * cell + 1, SCALE, 400)[axis] is None
        assert exact(first, second, extra, SCALE)[axis] == int(CONTEXT.nint(member))
    assert drawn == {1000, 1001}


EDGES = [0, 1, 2, 3, 2**20, 2**40, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2**25, 2**64 - 2**11, 2**64 - 2**10, 2**64 - 2, 2**64 - 1]
TURNS = [0, 1, 2**61, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**63 + 2**62, 2**64 - 1]


@pytest.mark.parametrize("scale", [0.7, SCALE, 2.0**40])
def test_the_ends_of_both_words_are_right(scale: float) -> None:
    words = np.array([(first, second) for first in EDGES for second in TURNS], dtype=np.uint64)

    np.testing.assert_array_equal(filled(words, scale), all_exact(words, scale))


def test_no_radius_is_infinite_and_none_is_zero() -> None:
    """U lies in the middle of its cell: 2⁻³²⁰ from 0 and from 1 at least."""
    assert exact(0, 0, bytes(64), SCALE) == (int(CONTEXT.nint(SCALE * CONTEXT.sqrt(640 * CONTEXT.log(2)))), 0)
    assert exact(2**64 - 1, 0, b"\xff" * 32 + bytes(32), SCALE) == (0, 0)
    assert exact_gaussian._rounded(2**320 - 1, 1, 2.0**160, 1000)[0] == 1  # radius 2^-159.5


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_the_error_of_float64_is_within_the_bound(scale: float, in_float64: dict[str, np.ndarray]) -> None:
    squares = np.concatenate([np.geomspace(2.0**-39, 2.0**-10, 40), np.linspace(0.01, 55.9, 60)])
    firsts = [int(CONTEXT.exp(-CONTEXT.mpf(each) / 2) * 2**64) for each in squares]
    turns = [turn + step for turn in (0, 2**61, 2**62, 2**63, 2**63 + 2**61) for step in (0, 1, 2**53 + 1)]
    angles = np.random.default_rng(2).choice(np.array([*turns, *some_words(15)[:, 0].tolist()], dtype=np.uint64), len(firsts))
    words = np.stack([np.array(firsts, dtype=np.uint64), angles], axis=1)
    whole = np.empty((2, len(words)))
    exact_gaussian._fast(words, scale, whole)
    shares = []
    for pair, (first, second) in enumerate(words.tolist()):
        bound = error_bound(float(in_float64["squared"][pair]), scale)
        for unseen in (bytes(64), b"\xff" * 64, b"\xff" * 32 + bytes(32)):
            for member, near, off in zip(members(first, second, unseen, scale), whole[:, pair], in_float64["off"][:, pair], strict=True):
                shares.append(float(abs(member - int(near) - CONTEXT.mpf(float(off))) / bound))

    assert max(shares) < 0.6  # the derivation doubles ρ; an error that uses the room up would be one that it does not know
    assert max(shares) > 0.1  # and the bound is not so wide that it says nothing


BY_LIBRARY = {
    "numpy": {"log": np.log, "tan": np.tan},
    "torch": {name: exact_gaussian._torchs(name) for name in ("log", "tan")},
}


@pytest.mark.parametrize("name", ["log", "tan"])
@pytest.mark.parametrize("library", BY_LIBRARY)
def test_the_functions_are_far_better_than_the_bound_takes_them(library: str, name: str) -> None:
    u = np.concatenate([2.0 ** np.arange(-64, 0), 1 - 2.0 ** np.arange(-53, -1), np.random.default_rng(0).random(20_000)])
    given = u if name == "log" else np.concatenate([u, -u]) * (math.pi / 2)
    got = np.empty_like(given)
    BY_LIBRARY[library][name](given, out=got)
    truth = [getattr(CONTEXT, name)(CONTEXT.mpf(float(each))) for each in given]
    off = [float(abs(CONTEXT.mpf(float(each)) - true) / abs(true)) / 2.0**-52 for each, true in zip(got, truth, strict=True)]

    assert max(off) < 2 < exact_gaussian._ULPS


def test_either_library_and_any_number_of_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.concatenate([words_near_a_middle(20, SCALE, axis=0), some_words(80_000)])  # as many as torch splits over threads
    threads = torch.get_num_threads()
    drawn = []
    try:
        for library in BY_LIBRARY.values():
            monkeypatch.setattr(exact_gaussian, "chosen_functions", lambda library=library: (library["log"], library["tan"]))
            for each in (1, 2):
                torch.set_num_threads(each)
                drawn.append(filled(words, SCALE))
    finally:
        torch.set_num_threads(threads)

    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**41, math.inf, math.nan])
def test_a_scale_outside_the_proof_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale of the noise"):
        filled(some_words(1), scale)


def test_the_chance_to_lie_near_a_middle_is_below_what_the_distance_takes() -> None:
    from scipy.special import ndtr

    for scale in (0.05, 0.3, 1.0, 5.0, 40.0):
        for moved in (1e-6, 1e-3, 0.01):
            middles = np.arange(-400, 400) + 0.5
            chance = (ndtr(middles / scale + moved) - ndtr(middles / scale - moved)).sum()

            assert chance <= 2 * moved * (scale + 0.4)


def test_what_the_arithmetic_costs_is_computed_and_tiny() -> None:
    run = noise_distance(11_000_000, 1000, noise_multiplier=1.0)

    assert run == pytest.approx(1000 * (11_000_000 + 2**24) * 2.0**-113, rel=1e-6)  # the AES blocks that never repeat; the rest is less
    assert noise_distance(11_000_000, 2000, noise_multiplier=1.0) == pytest.approx(2 * run)
    assert noise_distance(1, 0, noise_multiplier=1.0) == 0
    assert noise_delta(11_000_000, 1000, noise_multiplier=1.0, epsilon=8.0) == pytest.approx(run * (1 + math.exp(8)))
    assert noise_delta(11_000_000, 1000, noise_multiplier=1.0, epsilon=8.0) < 1e-20


def test_the_bits_beyond_the_639_are_paid_for() -> None:
    """Recomputed from the docstring, at the largest scale: the share that the AES blocks hide."""
    moved = mpmath.mpf(2) ** -320 * (mpmath.mpf(2) ** 150 + 2 * mpmath.pi * mpmath.sqrt(300 * mpmath.log(2)))
    bits = mpmath.mpf(2) ** -149 + 4 * moved * (2**40 + mpmath.mpf(0.4))
    blocks = (1 + 2**24) * mpmath.mpf(2) ** -113

    assert noise_distance(1, 1, noise_multiplier=2.0**16) >= float(blocks + bits) * (1 - 1e-15)
    assert bits < 2.0**-120


@pytest.mark.parametrize("given", [(0, 1, 1.0), (1, -1, 1.0), (1, 1, 0.0), (1, 1, 2.0**17), (1, 1, math.nan)])
def test_a_distance_outside_the_proof_is_refused(given: tuple[int, int, float]) -> None:
    n_parameters, steps, noise_multiplier = given
    with pytest.raises(ValueError, match="out of range"):
        noise_distance(n_parameters, steps, noise_multiplier=noise_multiplier)
