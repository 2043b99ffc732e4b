"""What happened, as values: the noisy releases that the accountants put a price on. Never an epsilon (privacy.md, rule 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrad_common.errors import MisuseError

NUMERIC_SHARE = 1e-6  # of a ledger's delta: set aside for what the noise's arithmetic leaves to chance


@dataclass(frozen=True)
class GaussianEvent:
    """`steps` releases of a Poisson-sampled sum of clipped vectors plus Gaussian noise: the sampled Gaussian mechanism."""

    noise_multiplier: float  # standard deviation over the L2 sensitivity; 0 is no privacy
    sampling_rate: float  # 0 < q ≤ 1; 1 is the plain Gaussian mechanism
    steps: int  # ≥ 0

    def __post_init__(self) -> None:
        fine = 0 <= self.noise_multiplier < math.inf and 0 < self.sampling_rate <= 1 and 0 <= self.steps < math.inf
        if not fine or self.steps != int(self.steps):
            raise MisuseError(
                f"accounting: event of noise {self.noise_multiplier}, rate {self.sampling_rate}, {self.steps} steps",
                hint="expected finite noise ≥ 0, 0 < rate ≤ 1, whole steps ≥ 0",
            )


def merged(events: Sequence[GaussianEvent]) -> tuple[GaussianEvent, ...]:
    """Events equal to the bit as one; all full-batch events as one, for Gaussians compose to a Gaussian: less work, the same cost."""
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
    whole = [GaussianEvent(sigma, rate, count) for (sigma, rate), count in sorted(steps.items())]
    if precision:
        whole.append(GaussianEvent(precision**-0.5, 1.0, 1))
    return tuple(whole)


def without_noise(events: Sequence[GaussianEvent]) -> bool:
    """Whether there is no bound at all, of merged events."""
    return any(event.noise_multiplier == 0 for event in events)


def check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise MisuseError(f"accounting: delta {delta} is not between 0 and 1")


def exact_delta(delta: float) -> float:
    """What is left of a ledger's delta for exact noise: every epsilon is computed at it."""
    return delta - NUMERIC_SHARE * delta


def rounded_up(epsilon: float) -> float:
    """To three decimals, never down: an epsilon that is shown is a promise."""
    return epsilon if math.isinf(epsilon) else math.ceil(epsilon * 1000) / 1000
