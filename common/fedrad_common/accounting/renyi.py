"""Rényi accounting: what the ledger's filter adds up, and what PRV falls back to. Both directions of adding or removing a patient."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from fedrad_common.accounting.events import GaussianEvent, check_delta, merged, rounded_up, without_noise

_FRACTIONAL_ORDERS = tuple(1 + tenth / 10 for tenth in range(1, 100) if tenth % 10)
_WHOLE_ORDERS = (*range(2, 64), *range(64, 128, 4), *range(128, 1025, 32))
QUICK_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # milliseconds, without Opacus; a slightly looser bound


def epsilon_rdp(events: Sequence[GaussianEvent], delta: float) -> float:
    """Epsilon at `delta` by Rényi accounting over many orders, rounded up to 1e-3. `math.inf` when an event has no noise."""
    check_delta(delta)
    return rounded_up(rdp_epsilon(merged(events), delta))


def rdp_epsilon(events: Sequence[GaussianEvent], delta: float, orders: Sequence[float] = ()) -> float:
    """The least over `orders` (many, when none are given) of what they imply at `delta`; of merged events, not rounded."""
    if not events:
        return 0.0
    if without_noise(events):
        return math.inf
    orders = orders or (*_FRACTIONAL_ORDERS, *_WHOLE_ORDERS)
    return max(0.0, min(math.fsum(rdp(event, order) for event in events) + conversion(order, delta) for order in orders))


def conversion(order: float, delta: float) -> float:
    """What turning a Rényi bound at `order` into (epsilon, delta) adds to it (Canonne, Kamath and Steinke 2020, proposition 12)."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def rdp(event: GaussianEvent, order: float) -> float:
    """Rényi divergence bound of all the event's steps at `order` > 1 (Mironov, Talwar and Zhang 2019, section 3.3).

    It bounds both directions, a patient added and a patient removed (their theorem 4 and corollary 7).
    """
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


@functools.lru_cache(maxsize=2**14)
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
