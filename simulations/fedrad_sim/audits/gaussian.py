"""What a Gaussian shift costs in epsilon, computed apart from the account: an accountant that is wrong must not audit itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Floats = npt.NDArray[np.float64]
_POINTS = 2**19  # of the mesh of losses
_REACH = 9.0  # standard deviations: beyond lies less than 1e-18


def epsilon(mu: float, *, rate: float, steps: int, delta: float) -> float:
    """Of `steps` releases, each shifted by `mu` standard deviations with probability `rate`; from below by at most `steps` meshes.

    Patient added and patient removed: the larger of both.
    """
    if rate == 1:
        return _full(mu * math.sqrt(steps), delta)
    return max(_sampled(mu, rate, steps, delta, removed=removed) for removed in (True, False))


def _full(mu: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8."""

    def above(value: float) -> float:
        return float(special.ndtr(mu / 2 - value / mu) - np.exp(value + special.log_ndtr(-mu / 2 - value / mu))) - delta

    return _root(above, mu**2 / 2 + _REACH * mu)


def _sampled(mu: float, rate: float, steps: int, delta: float, *, removed: bool) -> float:
    """One step's privacy loss, rounded down to a mesh, composed by Fourier transform (Koskela, Jälkö and Honkela 2020)."""
    least = math.log1p(-rate)  # of log(in / out), which grows with the release
    most = float(np.logaddexp(least, math.log(rate) + mu * (mu + _REACH) - mu**2 / 2))
    low, high = (least, most) if removed else (-most, -least)
    mesh = steps * (high - low) / (_POINTS - steps - 1)
    edges = low + mesh * np.arange(math.ceil((high - low) / mesh) + 1)
    ratio = edges if removed else -edges
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.log(-np.expm1(np.minimum(0.0, least - ratio)))  # of 1 - (1 - rate) / (in / out)
    release = (ratio + inner - math.log(rate) + mu**2 / 2) / mu  # at which the loss is at this edge; -inf below the least
    below = special.ndtr(release) * (1 - rate) + special.ndtr(release - mu) * rate if removed else special.ndtr(-release)
    masses = np.diff(below)
    composed = np.fft.irfft(np.fft.rfft(masses, _POINTS) ** steps, _POINTS)
    losses = steps * low + mesh * np.arange(_POINTS)

    def above(value: float) -> float:
        larger = losses > value
        return float(composed[larger] @ -np.expm1(value - losses[larger])) - delta

    return _root(above, float(losses[-1]))


def _root(falling: Callable[[float], float], most: float) -> float:
    return 0.0 if falling(0.0) <= 0 else float(optimize.brentq(falling, 0.0, most, xtol=1e-6))
