"""What the account's claim permits any attacker at all: the trade-off of errors, and with it the greatest area under an ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrad_client.privacy.plan import Plan
from fedrad_common.accounting import GaussianEvent, epsilon_prv, exact_delta

Floats = npt.NDArray[np.float64]
_DELTAS = (
    1e-7,
    1e-6,
    1e-5,
    1e-4,
    1e-3,
    0.01,
    0.03,
    0.07,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
)  # 0.1 % of an area above the exact one


@dataclass(frozen=True)
class Claim:
    """Pairs (epsilon, delta) that all hold for the same run, by the accountant: upper bounds, so that what they permit is too."""

    pairs: tuple[tuple[float, float], ...]

    def hits(self, alarms: Floats) -> Floats:
        """The greatest share of members found at each share of false alarms (Dong, Roth and Su 2022, proposition 2.5)."""
        epsilon, delta = np.array(self.pairs).T[:, :, None]
        one, other = delta + np.exp(epsilon) * alarms, 1 - np.exp(-epsilon) * (1 - delta - alarms)
        return np.asarray(np.minimum(1.0, np.minimum(one, other).min(axis=0)), dtype=np.float64)

    @property
    def area(self) -> float:
        """Of the ROC curve that no attacker can be above."""
        alarms = np.concatenate([[0.0], np.logspace(-7, 0, 4001)])
        return float(np.trapezoid(self.hits(alarms), alarms))


def claim_of(plan: Plan, *, steps: int) -> Claim:
    """Every delta's epsilon for the run's steps; what the noise's arithmetic leaves to chance is added to each delta."""
    event = GaussianEvent(plan.noise_multiplier, plan.sampling_rate, steps)
    apart = plan.delta - exact_delta(plan.delta)
    pairs: list[tuple[float, float]] = []
    for delta in sorted({*_DELTAS, exact_delta(plan.delta)}):
        pairs.append((epsilon_prv([event], delta), delta + apart))
        if pairs[-1][0] == 0:  # a larger delta says less
            break
    return Claim(tuple(pairs))
