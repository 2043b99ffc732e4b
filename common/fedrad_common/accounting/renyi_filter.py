"""What holds a ledger's ceiling whatever is chosen after earlier answers: a budget of Rényi divergence at one order."""

import functools
import math

from fedrad_common.accounting.bisection import least
from fedrad_common.accounting.events import GaussianEvent, check_delta
from fedrad_common.accounting.renyi import conversion, rdp

_ORDERS = range(3, 65)  # 2 would be best for sparse sampling alone, and costs a third more where many patients are drawn
_REFERENCE_RATE, _REFERENCE_STEPS = 0.1, 100  # the run for which the order is best; any order is valid


@functools.lru_cache(maxsize=256)
def filter_order(epsilon: float, delta: float) -> float:
    """The one order of a ledger's Rényi filter: where a run of 100 steps at rate 0.1 needs the least noise. A whole number."""
    check_delta(delta)

    def needed_noise(order: int) -> float:
        budget = filter_budget(epsilon, delta, order)
        if budget <= 0:
            return math.inf

        def affordable(sigma: float) -> bool:
            return rdp(GaussianEvent(sigma, _REFERENCE_RATE, _REFERENCE_STEPS), order) <= budget

        return least(affordable, low=0.1, high=100.0, tolerance=1e-5)

    return float(min(_ORDERS, key=needed_noise))


def filter_budget(epsilon: float, delta: float, order: float) -> float:
    """What Rényi divergence at `order` may be spent in all so that (epsilon, delta) holds whatever was chosen adaptively.

    The sum of the events' `rdp` at this order must stay at most this (Feldman and Zrnic 2021, fully adaptive composition). Negative:
    the order is too small for this epsilon and delta.
    """
    return epsilon - conversion(order, delta)
