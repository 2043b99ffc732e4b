"""What Gaussian noise costs in (epsilon, delta). Events are values; what they cost is computed here and nowhere else.

Two consumers (privacy.md, rule 4): the reported number of a run whose parameters are fixed in advance is PRV's upper bound; the ceiling
over runs, whose parameters are chosen after earlier answers, is a Rényi filter at one order. Opacus is imported only when PRV is asked.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedrad_common.errors import MisuseError

_EPSILON_ERROR = 0.01  # of PRV's discretisation; the upper bound includes it
_MESH_POINTS = 2**23  # about a second and 200 MB a convolution
_GRID = 1e-4  # calibrated noise multipliers are multiples of this
_LARGEST_NOISE = 1e4
_FRACTIONAL_ORDERS = tuple(1 + tenth / 10 for tenth in range(1, 100) if tenth % 10)
_WHOLE_ORDERS = (*range(2, 64), *range(64, 128, 4), *range(128, 1025, 32))
_FEW_ORDERS = tuple(range(2, 65))  # where a quick, slightly looser bound is enough
_FILTER_ORDERS = range(3, 65)  # 2 would be best for sparse sampling alone, and costs a third more where many patients are drawn
_REFERENCE_RATE, _REFERENCE_STEPS = 0.1, 100  # the run for which the filter's order is best; any order is valid


@dataclass(frozen=True)
class GaussianEvent:
    """`steps` releases of a Poisson-sampled sum of clipped vectors plus Gaussian noise: the sampled Gaussian mechanism."""

    noise_multiplier: float  # standard deviation over the L2 sensitivity; 0 is no privacy
    sampling_rate: float  # 0 < q ≤ 1; 1 is the plain Gaussian mechanism
    steps: int  # ≥ 0

    def __post_init__(self) -> None:
        fine = self.noise_multiplier >= 0 and 0 < self.sampling_rate <= 1 and self.steps >= 0
        if not fine:
            raise MisuseError(
                f"accounting: event of noise {self.noise_multiplier}, rate {self.sampling_rate}, {self.steps} steps",
                hint="expected noise ≥ 0, 0 < rate ≤ 1, steps ≥ 0",
            )


def epsilon_prv(events: Sequence[GaussianEvent], delta: float) -> float:
    """Least epsilon that holds at `delta` for events fixed in advance, as an upper bound rounded up to 1e-3.

    Numerical composition of privacy loss random variables (Gopi et al. 2021) with its discretisation errors added; exact for full
    batches; never more than Rényi accounting says, and Rényi accounting where PRV fails. `math.inf` when an event has no noise.
    """
    _check_delta(delta)
    return _rounded_up(_upper(_merged(events), delta))


def epsilon_rdp(events: Sequence[GaussianEvent], delta: float) -> float:
    """Epsilon at `delta` by Rényi accounting over many orders (Balle et al. 2020, theorem 21), rounded up to 1e-3."""
    _check_delta(delta)
    return _rounded_up(_rdp_epsilon(_merged(events), delta))


def calibrate(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier, a multiple of 1e-4, whose `epsilon_prv` is at most `epsilon`.

    Raises:
        MisuseError: a value is out of range, or no noise below 10,000 would do.
    """
    _check_delta(delta)
    if not epsilon > 0 or not 0 < sampling_rate <= 1 or steps < 1:
        raise MisuseError(f"accounting: epsilon {epsilon}, rate {sampling_rate}, {steps} steps", hint="all are above 0, the rate at most 1")
    return _calibrate(float(f"{epsilon:.9g}"), float(f"{delta:.9g}"), float(f"{sampling_rate:.12g}"), steps)


def rdp(event: GaussianEvent, order: float) -> float:
    """Rényi divergence bound of all the event's steps at `order` > 1 (Mironov, Talwar and Zhang 2019, section 3.3)."""
    sigma, rate = event.noise_multiplier, event.sampling_rate
    if event.steps == 0:
        return 0.0
    if sigma == 0:
        return math.inf
    if rate == 1:
        return event.steps * order / (2 * sigma**2)
    if float(order).is_integer():
        return event.steps * _log_moment(sigma, rate, int(order)) / (order - 1)
    from opacus.accountants.analysis.rdp import compute_rdp

    return float(compute_rdp(q=rate, noise_multiplier=sigma, steps=event.steps, orders=float(order)))


@functools.lru_cache(maxsize=256)
def filter_order(epsilon: float, delta: float) -> float:
    """The one order of a ledger's Rényi filter: where a run of 100 steps at rate 0.1 needs the least noise. A whole number."""
    _check_delta(delta)

    def needed_noise(order: int) -> float:
        budget = filter_budget(epsilon, delta, order)
        if budget <= 0:
            return math.inf

        def affordable(sigma: float) -> bool:
            return rdp(GaussianEvent(sigma, _REFERENCE_RATE, _REFERENCE_STEPS), order) <= budget

        return _least(affordable, low=0.1, high=100.0, tolerance=1e-5)

    return float(min(_FILTER_ORDERS, key=needed_noise))


def filter_budget(epsilon: float, delta: float, order: float) -> float:
    """What Rényi divergence at `order` may be spent in all so that (epsilon, delta) holds whatever was chosen adaptively.

    The sum of the events' `rdp` at this order must stay at most this (Feldman and Zrnic 2021, fully adaptive composition); converted by
    Canonne, Kamath and Steinke 2020, proposition 12. Negative: the order is too small for this epsilon and delta.
    """
    return epsilon - _conversion(order, delta)


def _conversion(order: float, delta: float) -> float:
    """What turning a Rényi bound at `order` into (epsilon, delta) adds to it."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise MisuseError(f"accounting: delta {delta} is not between 0 and 1")


def _rounded_up(epsilon: float) -> float:
    return epsilon if math.isinf(epsilon) else math.ceil(epsilon * 1000) / 1000


def _merged(events: Sequence[GaussianEvent]) -> tuple[GaussianEvent, ...]:
    """Equal events as one; all full-batch events as one, for Gaussians compose to a Gaussian: fewer convolutions, the same cost."""
    steps: dict[tuple[float, float], int] = {}
    precision = 0.0  # 1 / sigma² of the composed full-batch Gaussian
    for event in events:
        if event.steps and event.noise_multiplier == 0:
            return (event,)
        if event.steps and event.sampling_rate == 1:
            precision += event.steps / event.noise_multiplier**2
        elif event.steps:
            key = (event.noise_multiplier, event.sampling_rate)
            steps[key] = steps.get(key, 0) + event.steps
    merged = [GaussianEvent(sigma, rate, count) for (sigma, rate), count in sorted(steps.items())]
    if precision:
        merged.append(GaussianEvent(precision**-0.5, 1.0, 1))
    return tuple(merged)


@functools.lru_cache(maxsize=4096)
def _upper(events: tuple[GaussianEvent, ...], delta: float) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    if len(events) == 1 and events[0].sampling_rate == 1:
        return _gaussian_epsilon(1 / events[0].noise_multiplier, delta)
    return _prv_upper(events, delta)


def _prv_upper(events: tuple[GaussianEvent, ...], delta: float) -> float:
    """PRV's upper bound; Rényi accounting where PRV's mesh would be too large, or the numbers too extreme for it."""
    import warnings

    import numpy as np

    quick = _rdp_epsilon(events, delta, _FEW_ORDERS)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Opacus takes the logarithm of 1 - q, and exponents at the mesh's far ends
            upper = _convolved(events, delta, error=min(_EPSILON_ERROR, quick / 50))
    except (RuntimeError, ValueError, ArithmeticError, MemoryError, IndexError):
        upper = math.inf
    return min(upper, quick) if 0 < upper < math.inf else _rdp_epsilon(events, delta)


def _convolved(events: tuple[GaussianEvent, ...], delta: float, *, error: float) -> float:
    """Opacus' PRVs on a mesh as wide as Gopi et al., remark 5.6, ask for; the width from whole Rényi orders, which are fast."""
    from opacus.accountants.analysis.prv import (
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    steps = [event.steps for event in events]
    delta_error = delta / 1000
    once = [(GaussianEvent(event.noise_multiplier, event.sampling_rate, 1),) for event in events]
    width = max(_rdp_epsilon(single, delta_error / (8 * sum(steps)), _FEW_ORDERS) for single in once)
    width = max(width, _rdp_epsilon(events, delta_error / 4, _FEW_ORDERS), error) + 3
    mesh = error / math.sqrt(sum(steps) * math.log(12 / delta_error) / 2)
    if 2 * width / mesh > _MESH_POINTS:
        raise ValueError("mesh too large")
    domain = Domain.create_aligned(-width, width, mesh)
    variables = [PoissonSubsampledGaussianPRV(event.sampling_rate, event.noise_multiplier) for event in events]
    discrete = [discretize(TruncatedPrivacyRandomVariable(variable, domain.t_min, domain.t_max), domain) for variable in variables]
    composed = compose_heterogeneous(dprvs=discrete, num_self_compositions=steps)
    return float(composed.compute_epsilon(delta, delta_error, error)[2])


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The Gaussian mechanism's exact epsilon; `mu` is sensitivity over standard deviation (Balle and Wang 2018, theorem 8)."""

    def holds(epsilon: float) -> bool:
        first = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
        second = math.erfc((epsilon / mu + mu / 2) / math.sqrt(2)) / 2
        # e^epsilon × second, in the logarithm: the one overflows where the other vanishes
        product = math.exp(epsilon + math.log(second)) if second > 0 else 0.0
        return first - product <= delta

    return _least(holds, low=0.0, high=mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1)


def _rdp_epsilon(events: tuple[GaussianEvent, ...], delta: float, orders: Sequence[float] = ()) -> float:
    if not events:
        return 0.0
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    orders = orders or (*_FRACTIONAL_ORDERS, *_WHOLE_ORDERS)
    return max(0.0, min(sum(rdp(event, order) for event in events) + _conversion(order, delta) for order in orders))


def _log_moment(sigma: float, rate: float, order: int) -> float:
    """Logarithm of the sampled Gaussian's moment at a whole order: a binomial sum, all of whose terms are positive."""
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    terms = [
        math.lgamma(order + 1) - math.lgamma(i + 1) - math.lgamma(order - i + 1)
        + i * log_rate + (order - i) * log_rest + (i * i - i) / (2 * sigma**2)
        for i in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return max(0.0, largest + math.log(math.fsum(math.exp(term - largest) for term in terms)))


@functools.lru_cache(maxsize=1024)
def _calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    target = math.floor(epsilon * 1000 + 1e-9) / 1000  # so that the rounded-up number is within epsilon, too
    if target <= 0:
        raise MisuseError(f"accounting: epsilon {epsilon} is below the accountant's resolution", hint="the least is 0.001")

    def cost(sigma: float) -> float:
        return _upper(_merged([GaussianEvent(sigma, sampling_rate, steps)]), delta)

    def affordable_by_rdp(sigma: float) -> bool:
        return _rdp_epsilon(_merged([GaussianEvent(sigma, sampling_rate, steps)]), delta, _FEW_ORDERS) <= target

    start = 0.93 * _least(affordable_by_rdp, low=_GRID, high=_LARGEST_NOISE, tolerance=1e-4)  # PRV needs about so much less
    sigma = math.ceil(_solve(cost, start, target) / _GRID)
    while cost(sigma * _GRID) > target:
        sigma += 1
        if sigma * _GRID > _LARGEST_NOISE:
            raise MisuseError(f"accounting: no noise multiplier below {_LARGEST_NOISE:g} reaches epsilon {epsilon} at delta {delta}")
    return round(sigma * _GRID, 4)


def _solve(cost: Callable[[float], float], start: float, target: float) -> float:
    """Where a smooth falling cost meets `target`, to a tenth of the grid: a secant in the logarithms, for PRV takes a quarter second."""
    old, old_gap = start, math.log(cost(start) / target)
    sigma = start * math.exp(old_gap)  # as if epsilon went with 1 / sigma
    for _ in range(12):
        if abs(sigma - old) < _GRID / 10:
            break
        gap = math.log(cost(sigma) / target)
        slope = (gap - old_gap) / (math.log(sigma) - math.log(old)) if gap != old_gap else -1.0
        step = -gap / slope if slope < 0 else gap
        old, old_gap, sigma = sigma, gap, sigma * math.exp(max(-0.5, min(0.5, step)))
    return min(sigma, _LARGEST_NOISE)


def _least(holds: Callable[[float], bool], *, low: float, high: float, tolerance: float = 1e-9) -> float:
    """Smallest value for which a monotone condition holds, from above; `high` when it holds nowhere below."""
    while high - low > tolerance * max(1.0, high):
        middle = math.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
