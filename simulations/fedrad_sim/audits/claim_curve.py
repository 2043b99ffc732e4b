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
)  # enough for an area that is at most 0.4 % above the exact one (0.32 % of a Gaussian's, whatever its shift)


@dataclass(frozen=True)
class Claim:
    """Pairs (epsilon, delta) that all hold for the same run, by the accountant: upper bounds, so that what they permit is too."""

    pairs: tuple[tuple[float, float], ...]

    def hits(self, alarms: Floats) -> Floats:
        """The greatest share of members found at each share of false alarms (Dong, Roth and Su 2022, proposition 2.5): of one patient
        who is there or not."""
        epsilon, delta = np.array(self.pairs).T[:, :, None]
        one, other = delta + np.exp(epsilon) * alarms, 1 - np.exp(-epsilon) * (1 - delta - alarms)
        return np.asarray(np.minimum(1.0, np.minimum(one, other).min(axis=0)), dtype=np.float64)

    def swapped(self, alarms: Floats) -> Floats:
        """The same where a fixed number of patients is there: with another in one's place, which is two steps of adjacency."""
        return self.hits(self.hits(alarms))

    @property
    def area(self) -> float:
        """Of the ROC curve of a model's members and others, a fixed number of each, that no attacker can be above.

        Let a member score higher than another with chance p where neither of the two is there. With the one there it is at most hits(p),
        with the other there at least 1 - hits(1 - p). Both are as likely, so the area is at most [hits(p) + hits(1 - p)] / 2, and that at
        most hits(1/2), for hits is concave. Of pure epsilon above ln 2 it is 1 - e^-epsilon / 2.
        """
        return float(self.hits(np.array([0.5]))[0])


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
