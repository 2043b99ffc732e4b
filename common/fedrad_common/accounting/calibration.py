"""The noise that a wish for privacy needs: least sigma whose reported epsilon is within it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from fedrad_common.accounting.bisection import least
from fedrad_common.accounting.events import GaussianEvent, check_delta, merged
from fedrad_common.accounting.prv import upper_bound
from fedrad_common.accounting.renyi import QUICK_ORDERS, rdp_epsilon
from fedrad_common.errors import MisuseError

_GRID = 10_000  # calibrated noise multipliers are multiples of one over this
_LARGEST_NOISE = 1e4


@functools.lru_cache(maxsize=1024)
def calibrate(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier, a multiple of 1e-4, whose `epsilon_prv` is at most `epsilon`.

    Raises:
        MisuseError: a value is out of range, or no noise below 10,000 would do.
    """
    check_delta(delta)
    if not 0 < epsilon < math.inf or not 0 < sampling_rate <= 1 or not 1 <= steps < math.inf:
        raise MisuseError(
            f"accounting: epsilon {epsilon}, rate {sampling_rate}, {steps} steps", hint="all are above 0 and finite, the rate at most 1"
        )
    target = math.floor(epsilon * 1000 + 1e-9) / 1000  # so that the rounded-up number is within epsilon, too
    if target <= 0:
        raise MisuseError(f"accounting: epsilon {epsilon} is below the accountant's resolution", hint="the least is 0.001")

    def event(sigma: float) -> tuple[GaussianEvent, ...]:
        return merged([GaussianEvent(sigma, sampling_rate, steps)])

    def cost(sigma: float) -> float:
        return upper_bound(event(sigma), delta)

    def affordable_by_rdp(sigma: float) -> bool:
        return rdp_epsilon(event(sigma), delta, QUICK_ORDERS) <= target

    start = 0.93 * least(affordable_by_rdp, low=1 / _GRID, high=_LARGEST_NOISE, tolerance=1e-4)  # PRV needs about so much less
    near = max(1, math.ceil(_GRID * _solve(cost, start, target)))
    multiple = _least_multiple(lambda candidate: cost(candidate / _GRID) <= target, near)
    if multiple is None:
        raise MisuseError(f"accounting: no noise multiplier below {_LARGEST_NOISE:g} reaches epsilon {epsilon} at delta {delta}")
    return multiple / _GRID


def _least_multiple(enough: Callable[[int], bool], near: int) -> int | None:
    """The least that is enough, by strides that double away from `near` and halve again; None where none below the largest noise is.

    The cost of a very small epsilon has plateaus, on which a secant ends far from the answer: single steps would take minutes from there.
    """
    stride, most = 1, math.ceil(_GRID * _LARGEST_NOISE)
    if enough(near):
        good = near
        while good - stride >= 1 and enough(good - stride):
            good, stride = good - stride, 2 * stride
        bad = max(0, good - stride)
    else:
        bad = near
        while not enough(min(most, bad + stride)):
            if bad + stride >= most:
                return None
            bad, stride = bad + stride, 2 * stride
        good = min(most, bad + stride)
    while good - bad > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if enough(middle) else (good, middle)
    return good


def _solve(cost: Callable[[float], float], start: float, target: float) -> float:
    """Where a smooth falling cost meets `target`, to a tenth of the grid: a secant in the logarithms, for PRV takes a tenth second."""
    old, old_gap = start, math.log(cost(start) / target)
    sigma = start * math.exp(old_gap)  # as if epsilon went with 1 / sigma
    for _ in range(12):
        if abs(sigma - old) < 0.1 / _GRID:
            break
        gap = math.log(cost(sigma) / target)
        slope = (gap - old_gap) / (math.log(sigma) - math.log(old)) if gap != old_gap else -1.0
        step = -gap / slope if slope < 0 else gap
        old, old_gap, sigma = sigma, gap, sigma * math.exp(max(-0.5, min(0.5, step)))
    return min(sigma, _LARGEST_NOISE)
