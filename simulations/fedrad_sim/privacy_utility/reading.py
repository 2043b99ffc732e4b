"""What an epsilon means: the best that any attack can do, and what several images of one patient cost by images."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedrad_common.accounting import GaussianEvent, epsilon_prv, exact_delta
from fedrad_server.report.privacy import group_epsilon
from fedrad_sim.privacy_utility.points import SitePlan

Guarantee = tuple[float, float]  # epsilon and delta that hold together
_DELTAS = (1e-3, 1e-2, 0.05, 0.1, 0.2, 0.35)  # at which a plan's own noise is read besides its ledger's delta


@dataclass(frozen=True)
class Attack:
    """The most that anybody reaches who guesses from everything that was sent whether one patient was in the training."""

    advantage: float  # hits minus false alarms, at the threshold that suits the attacker best; 0 is guessing, 1 is certainty
    auc: float  # 0.5 is guessing, 1 is certainty


def best_attack(guarantees: Sequence[Guarantee]) -> Attack:
    """The region of hits and false alarms that guarantees leave open together (Kairouz, Oh and Viswanath 2015, theorem 2.1).

    Under (epsilon, delta) no test with x false alarms has more hits than δ + e^ε x, nor than 1 - e^-ε (1 - δ - x). The least of such lines
    is concave with corners where two of them meet, so area and greatest distance from the diagonal are exact.
    """
    lines = [(0.0, 1.0)]  # slope, value at 0
    for epsilon, delta in guarantees:
        lines += [(math.exp(epsilon), delta), (math.exp(-epsilon), 1 - math.exp(-epsilon) * (1 - delta))]
    meeting = [(b - d) / (c - a) for (a, b), (c, d) in itertools.combinations(lines, 2) if a != c]
    alarms = np.array(sorted({0.0, 1.0, *(x for x in meeting if 0 < x < 1)}))
    hits = np.min([slope * alarms + start for slope, start in lines], axis=0)
    area = float(((hits[1:] + hits[:-1]) / 2) @ np.diff(alarms))
    return Attack(advantage=float((hits - alarms).max()), auc=area)


def by_epsilon(plan: SitePlan) -> Attack:
    """What (epsilon, delta) alone leaves open: nothing is known of how the noise is made."""
    return best_attack([(plan.epsilon, plan.delta)])


def by_plan(plan: SitePlan) -> Attack:
    """What this plan's noise leaves open: its epsilon at several deltas, each of which holds. Never more than by epsilon alone."""
    reserve = plan.delta - exact_delta(plan.delta)  # what the noise's arithmetic may leave to chance, at every delta
    others = [(epsilon_prv([event_of(plan)], delta), delta + reserve) for delta in _DELTAS if delta > plan.delta]
    return best_attack([(plan.epsilon, plan.delta), *others])


def images_epsilon(plan: SitePlan, images: int) -> float:
    """Epsilon of a patient with so many images, had the plan's epsilon been promised to an image: each drawn and clipped on its own.

    At the plan's delta, rounded up to 0.1; more than `images` × epsilon.
    """
    return group_epsilon(event_of(plan), exact_delta(plan.delta), images)


def event_of(plan: SitePlan) -> GaussianEvent:
    """The whole run at this hospital."""
    return GaussianEvent(plan.noise_multiplier, plan.sampling_rate, plan.steps)
