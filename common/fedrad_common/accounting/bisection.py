"""The smallest value for which something holds: noise that is enough, an epsilon that bounds delta."""

import math
from collections.abc import Callable


def least(holds: Callable[[float], bool], *, low: float, high: float, tolerance: float = 1e-9) -> float:
    """Smallest value for which a monotone condition holds, from above; `high` when it holds nowhere below."""
    while high - low > tolerance * max(1.0, high):
        middle = math.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
