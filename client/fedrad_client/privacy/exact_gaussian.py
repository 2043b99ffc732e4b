"""Gaussian noise rounded to whole numbers as exact arithmetic would round it, at the speed of float64: nothing of a float is left in it.

A pair of draws is (S, T) = scale × R × (cos 2πV, sin 2πV) with R = √(-2 ln U) (Box and Muller 1958). U and V are the centres of cells of
319 and 320 random bits: 63 and 64 from the keystream, 256 more from `more`, which is asked only where they decide. What is returned is
round(S), round(T). Float64 computes both with an error below `error_bound`; a pair with a member closer than that to the middle between
two whole numbers is computed again by mpmath, as precisely as it takes. So the result is the same on every machine, whichever way numpy
and torch compute, as long as their log and tan are within 8 units in the last place and the rest follows IEEE 754.

What remains between this and the rounded exact Gaussian is `noise_distance`.
"""

from __future__ import annotations

import functools
import math
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Whole = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Function = Callable[..., Any]  # (values, *, out)
MoreBits = Callable[[int], bytes]  # of the pair with that number: 64 bytes, 32 for U and 32 for V

PAIRS_PER_KEY = 1 << 16  # AES blocks under one key of the keystream, one block a pair
LARGEST_SCALE = 2.0**40
_ULPS = 8  # units in the last place: what log and tan may be off by; the tests see less than 2
_MORE_BITS = 256
_ORDINARY = (2.0**-16, 23.5)  # R²: outside lies one pair in 64,000, and is looked at apart
_BOUNDED = (2.0**-40, 56.0)  # R²: where the derivation of `error_bound` holds; outside lies one pair in 8 × 10¹¹
_OTHER_BLOCKS = 1 << 24  # AES blocks of a step that are not noise: who is drawn, which images, and their views: 4.8 million of them


def fill(words: Words, scale: float, more: MoreBits, *, number: int, out: Whole) -> None:
    """Turn pairs of words into correctly rounded draws; some ten thousand at a time stay in the processor's cache.

    Args:
        words: (n, 2), uniform: the first bits of U and of V.
        scale: standard deviation in whole numbers, above 0 and at most 2⁴⁰.
        number: of the first pair, for `more`.
        out: (2, n), overwritten with S and T of each pair: whole numbers below 2⁵³, none of them -0.
    """
    if not 0 < scale <= LARGEST_SCALE:
        raise ValueError(f"scale of the noise: {scale} is not between 0 and 2**40")
    for pair in _fast(words, scale, out):
        out[:, pair] = exact(int(words[pair, 0]), int(words[pair, 1]), more(number + pair), scale)


def _fast(words: Words, scale: float, out: Whole) -> list[int]:
    """Float64; the places of the pairs whose rounding float64 cannot decide.

    With t = tan πV the two members are q (1 - t²) and 2 q t, for q = scale × R / (1 + t²): one function instead of two.
    """
    log, tan = chosen_functions()
    squared = (words[:, 0] >> np.uint64(1)).view(np.int64) + 0.5  # signed: numpy converts unsigned words with a branch each
    squared *= 2.0**-63  # U
    log(squared, out=squared)
    squared *= -2
    tangent = np.multiply(words[:, 1].view(np.int64), math.pi / 2**64)  # πV
    tan(tangent, out=tangent)
    square = tangent * tangent
    members = np.empty(out.shape)
    np.subtract(1, square, out=members[0])
    np.add(tangent, tangent, out=members[1])
    square += 1
    shared = np.sqrt(squared)
    shared *= scale
    shared /= square
    members *= shared
    np.rint(members, out=out)
    off = np.subtract(members, out, out=members)  # exact: both below 2⁵², half a step apart at most
    out += 0.0  # no -0
    return _undecided(squared, off, scale)


@functools.cache
def chosen_functions() -> tuple[Function, Function]:
    """log and tan, numpy's or torch's: either may be four times as fast, depending on the processor, and the draws are the same."""
    some = np.linspace(0.01, 0.99, 1 << 14)
    return _faster(np.log, _torchs("log"), some), _faster(np.tan, _torchs("tan"), some)


def _torchs(name: str) -> Function:
    import torch

    function = getattr(torch, name)

    def call(values: Floats, *, out: Floats) -> None:
        function(torch.from_numpy(values), out=torch.from_numpy(out))

    return call


def _faster(one: Function, other: Function, values: Floats) -> Function:
    out = np.empty_like(values)
    return min((one, other), key=lambda function: min(timeit.repeat(lambda: function(values, out=out), number=1, repeat=3)))


def _undecided(squared: Floats, off: Floats, scale: float) -> list[int]:
    """One bound for all ordinary pairs first; the few that it leaves in doubt are looked at again, each with its own."""
    margin = 0.5 - max(error_bound(each, scale) for each in _ORDINARY)  # log-convex in R: largest at an end
    if _within(squared, *_ORDINARY) and _within(off, -margin, margin):
        return []
    off = np.abs(off).max(axis=0)
    few = np.flatnonzero(~((off <= margin) & (_ORDINARY[0] <= squared) & (squared <= _ORDINARY[1])))  # NaN, too, is none that is decided
    return [int(place) for place in few if not _decided(float(squared[place]), float(off[place]), scale)]


def _within(values: Floats, low: float, high: float) -> bool:
    return bool(low <= values.min() and values.max() <= high)


def _decided(squared_radius: float, off: float, scale: float) -> bool:
    return _BOUNDED[0] < squared_radius < _BOUNDED[1] and off < 0.5 - error_bound(squared_radius, scale)


def error_bound(squared_radius: float, scale: float) -> float:
    """How far float64's `scale × R cos 2πV` may lie from that of any U and V that begin with the pair's two words.

    u = 2⁻⁵² stands for a unit in the last place, k for `_ULPS`.
    U: conversion and the half added 2⁻⁵³ each, bits not seen yet half a cell: relative ρ = u + 2⁻⁶⁴ / U; doubled below.
    ln U: ρ + k u |ln U|. R: half of that over |ln U| = R²/2, and its own rounding: ρ/R + (k/2 + 1) u R.
    2πV: at most π, three roundings and the bits not seen: 5 u. t: relative k u, which turns the angle by k u |sin 2πV| more. Of t, the
    cosine (1 - t²) / (1 + t²): u/4 from the square (2 t² ≤ (1 + t²)² / 2) and u/2 from each of difference, sum and quotient; the sine less.
    Two products: u/2 each. Sum, times scale: 2ρ/R + (3k/2 + 9) u R. 2k + 8 leaves room for the products of errors, R² being within
    `_BOUNDED`.
    """
    radius = math.sqrt(squared_radius)
    seen = 2.0**-52 + 2.0**-64 * math.exp(squared_radius / 2)
    return scale * (2 * seen / radius + (2 * _ULPS + 8) * 2.0**-52 * radius)


def exact(first_word: int, second_word: int, more: bytes, scale: float) -> tuple[int, int]:
    """One pair, correctly rounded from all of its 639 bits.

    Ends for every input: were √(-2 ln U) cos 2πV the middle between two whole numbers, over a float, then ln U would be algebraic for a
    rational U below 1, which it is not (Lindemann 1882); and V is no multiple of 1/4, where a cosine or sine is 0.
    """
    half = len(more) // 2
    turn = second_word - (second_word >> 63 << 64)  # as a signed word: V and V - 1 are the same angle
    u = ((first_word >> 1) << _MORE_BITS | int.from_bytes(more[:half])) * 2 + 1
    v = (turn << _MORE_BITS | int.from_bytes(more[half:])) * 2 + 1
    precision = 400  # bits: U and V are exact in them
    while True:
        first, second = _rounded(u, v, scale, precision)
        if first is not None and second is not None:
            return first, second
        precision *= 2


def _rounded(u: int, v: int, scale: float, precision: int) -> list[int | None]:
    """Both members for U = u / 2³²⁰ and V = v / 2³²¹; None for one that so many bits cannot decide.

    The members are below 2⁴⁵ and every operation is right to a few units in its last place, so that they are off by 2^(50 - precision)
    at most. mpmath does not prove that of its log, cos and sin: the room is 2⁷⁸ times as wide.
    """
    import mpmath  # type: ignore[import-untyped]

    context = mpmath.mp.clone()  # its precision is its own, whatever other threads do
    context.prec = precision
    radius = scale * context.sqrt(-2 * context.log(context.ldexp(u, -_MORE_BITS - 64)))
    half_turns = context.ldexp(v, -_MORE_BITS - 64)
    room = context.ldexp(1, 128 - precision)
    members = radius * context.cospi(half_turns), radius * context.sinpi(half_turns)
    ends = [[int(context.floor(member + 0.5 + way)) for way in (-room, room)] for member in members]
    return [low if low == high else None for low, high in ends]


def noise_distance(n_parameters: int, steps: int, *, noise_multiplier: float, grid: float = 2.0**-24) -> float:
    """Total variation between all noise and sampling of `steps` steps and what the accountant assumes: exact Gaussians, true coins.

    Summed over every pair (at most one a parameter) and step, so that it holds for adaptive use:
    1. Bits beyond the 639. Draw the exact U and V inside the cells: the centre is off by 2⁻³²⁰ at most. Leave out the U within 2⁻¹⁵⁰ of 0
       or 1 (probability 2⁻¹⁴⁹). For the others 1 / (U R), the slope of R, is at most 2¹⁵⁰: U R has its one extremum, a maximum, at R = 1.
       So a member moves by d ≤ 2⁻³²⁰ (2¹⁵⁰ + 2π √(300 ln 2)), and rounds differently only within scale × d of a middle between whole
       numbers. The exact one lies there with probability 2 d (scale + 0.4) at most: a unimodal density, summed over the middles.
    2. A key's AES blocks never repeat, true random ones may: q² / 2¹²⁹ for the q ≤ 2¹⁶ of one key, so 2⁻¹¹³ a block.

    Not in it, because they are assumptions and not numbers: AES-256 is a pseudorandom permutation, HMAC-SHA256 and HMAC-SHA512 are
    pseudorandom functions, the operating system's 32 bytes are uniform, and float64 is as `error_bound` takes it.
    """
    if n_parameters < 1 or steps < 0 or not 0 < noise_multiplier / grid <= LARGEST_SCALE:
        raise ValueError(f"noise of {n_parameters} parameters, {steps} steps, multiplier {noise_multiplier}: out of range")
    moved = 2.0**-320 * (2.0**150 + 2 * math.pi * math.sqrt(300 * math.log(2)))
    a_pair = 2.0**-149 + 2 * 2 * moved * (noise_multiplier / grid + 0.4)
    a_block = PAIRS_PER_KEY / 2.0**129
    return steps * (n_parameters * (a_pair + a_block) + _OTHER_BLOCKS * a_block)


def noise_delta(n_parameters: int, steps: int, *, noise_multiplier: float, epsilon: float) -> float:
    """What the noise's arithmetic adds to delta: (ε, δ) of the ideal mechanism becomes (ε, δ + (1 + e^ε) × distance) of the real one.

    Args:
        epsilon: the one that is stated together with the delta: the site's ceiling, at least.
    """
    return (1 + math.exp(epsilon)) * noise_distance(n_parameters, steps, noise_multiplier=noise_multiplier)
