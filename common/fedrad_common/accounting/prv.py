"""The number that a run is told to cost: numerical composition of privacy loss random variables (PRV), as an upper bound.

Valid for events fixed in advance, and only for them: a ceiling over runs chosen later is the filter's business (privacy.md, rule 4).
Opacus computes the loss of removing a patient. It is the worse direction: proven for one step (Zhu, Dong and Wang 2022) and for Rényi
divergence (Mironov, Talwar and Zhang 2019), and compared with dp-accounting's PLD in both directions on the grid of used events.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

from fedrad_common.accounting.bisection import least
from fedrad_common.accounting.events import GaussianEvent, check_delta, merged, rounded_up, without_noise
from fedrad_common.accounting.renyi import QUICK_ORDERS, rdp_epsilon

_MESHES = (2**18, 2**20, 2**21)  # points for one event: the size bounds the time, and the error follows from it
_POINTS_IN_ALL = 20 * 2**18  # over the meshes of all distinct events
_ENOUGH = 0.01  # an error of this share of epsilon needs no finer mesh
_LARGEST_ERROR = 0.5  # of epsilon; above 1 the width of the mesh is not proven (Gopi et al., remark 5.6)
_LOST_PROBABILITY = 1e-4  # far above what rounding does; beyond, the numbers are not what they should be


def epsilon_prv(events: Sequence[GaussianEvent], delta: float) -> float:
    """Least epsilon that holds at `delta` for events fixed in advance, as an upper bound rounded up to 1e-3.

    Numerical composition (Gopi et al. 2021) with its discretisation errors added; exact for full batches; never more than Rényi
    accounting at whole orders says, and Rényi accounting where PRV fails. `math.inf` when an event has no noise.
    """
    check_delta(delta)
    return rounded_up(upper_bound(merged(events), delta))


@functools.lru_cache(maxsize=4096)
def upper_bound(events: tuple[GaussianEvent, ...], delta: float) -> float:
    """`epsilon_prv` of merged events, not rounded."""
    if not events:
        return 0.0
    if without_noise(events):
        return math.inf
    if len(events) == 1 and events[0].sampling_rate == 1:
        return _gaussian_epsilon(1 / events[0].noise_multiplier, delta)
    composed = math.nan
    with contextlib.suppress(RuntimeError, ValueError, ArithmeticError, MemoryError, IndexError):
        most = 2 ** int(math.log2(_POINTS_IN_ALL / len(events)))
        for points in sorted({min(points, most) for points in _MESHES}):
            composed, error = _composed(events, delta, points)
            if error <= _ENOUGH * composed:
                break
    if not 0 < composed < math.inf:
        return rdp_epsilon(events, delta)
    return min(composed, rdp_epsilon(events, delta, QUICK_ORDERS))  # both are upper bounds


def _composed(events: tuple[GaussianEvent, ...], delta: float, points: int) -> tuple[float, float]:
    """PRV's upper bound on a mesh of so many points, and the error in it; nan where the mesh is too coarse.

    Opacus' PRVs, on a mesh as wide as Gopi et al., remark 5.6, ask for; the width from whole Rényi orders, which are fast.
    """
    import warnings

    import numpy as np
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
    width = max(rdp_epsilon(single, delta_error / (8 * sum(steps)), QUICK_ORDERS) for single in once)
    width = max(width, rdp_epsilon(events, delta_error / 4, QUICK_ORDERS)) + 3
    mesh = width / (points // 2 - 1)
    error = mesh * math.sqrt(sum(steps) * math.log(12 / delta_error) / 2)
    if error > _LARGEST_ERROR:
        return math.nan, error
    domain = Domain(mesh - points // 2 * mesh, points // 2 * mesh, points)  # with zero on it, where Opacus' circular convolution wants it
    variables = [PoissonSubsampledGaussianPRV(event.sampling_rate, event.noise_multiplier) for event in events]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus takes the logarithm of 1 - q, and exponents at the mesh's far ends
        discrete = [discretize(TruncatedPrivacyRandomVariable(variable, domain.t_min, domain.t_max), domain) for variable in variables]
        composed = compose_heterogeneous(dprvs=discrete, num_self_compositions=steps)
        if not abs(float(composed.pmf.sum()) - 1) < _LOST_PROBABILITY:
            raise ArithmeticError("the composition is no distribution")
        return float(composed.compute_epsilon(delta, delta_error, error)[2]), error


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The Gaussian mechanism's exact epsilon; `mu` is sensitivity over standard deviation (Balle and Wang 2018, theorem 8)."""

    def holds(epsilon: float) -> bool:
        first = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
        second = math.erfc((epsilon / mu + mu / 2) / math.sqrt(2)) / 2
        # e^epsilon × second, in the logarithm: the one overflows where the other vanishes
        product = math.exp(epsilon + math.log(second)) if second > 0 else 0.0
        return first - product <= delta

    return least(holds, low=0.0, high=mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1)
