"""What an attack's outcome proves, with confidence: lower limits on epsilon. Statistics alone: no training, no account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedrad_sim.audits import gaussian

Floats = npt.NDArray[np.float64]
_STEPS = 40  # of a bisection


def rate_limit(hits: int, n: int, confidence: float) -> float:
    """Upper limit of a rate of which `hits` of `n` were seen (Clopper and Pearson 1934, one-sided)."""
    return 1.0 if hits >= n else float(stats.beta.ppf(confidence, hits + 1, n - hits))


def rate_least(hits: int, n: int, confidence: float) -> float:
    """Lower limit of such a rate."""
    return 1 - rate_limit(n - hits, n, confidence)


@dataclass(frozen=True)
class Decision:
    """A decision between the worlds, fixed before the runs that it is judged by."""

    threshold: float
    high: bool  # alarm is a value above the threshold, that the canary is there; else one below, that it is not

    def errors(self, out: Floats, inside: Floats) -> tuple[int, int]:
        """(false alarms, misses) among runs without and with the canary; in the other order where the alarm is that it is not there."""
        above, below = int((out > self.threshold).sum()), int((inside <= self.threshold).sum())
        return (above, below) if self.high else (below, above)

    def limit(self, out: Floats, inside: Floats, *, delta: float, confidence: float) -> float:
        """Of epsilon, without any assumption: 1 - delta <= misses + e^epsilon × alarms, of every test and in both directions (Kairouz,
        Oh and Viswanath 2015); each rate at half of the error that the confidence leaves."""
        each = 1 - (1 - confidence) / 2
        judged, other = (out, inside) if self.high else (inside, out)
        alarms, misses = self.errors(out, inside)
        return _epsilon(rate_limit(alarms, len(judged), each), rate_limit(misses, len(other), each), delta)


def best_decision(out: Floats, inside: Floats, *, delta: float, confidence: float) -> Decision:
    """The one whose limit is largest on these runs; it must be judged by others."""
    candidates = np.unique(np.quantile(np.concatenate([out, inside]), np.linspace(0.001, 0.999, 250)))
    choices = [Decision(float(threshold), high) for threshold in candidates for high in (True, False)]
    return max(choices, key=lambda choice: choice.limit(out, inside, delta=delta, confidence=confidence))


@dataclass(frozen=True)
class Fit:
    """One step's shift by the canary over the noise's standard deviation: the only unknown of a sampled Gaussian."""

    best: float
    least: float  # at the confidence that was asked for

    def epsilon(self, *, least: bool, rate: float, steps: int, delta: float) -> float:
        """By a computation of our own: the accountant that calibrated the noise would confirm its own mistakes."""
        mu = self.least if least else self.best
        return gaussian.epsilon(mu, rate=rate, steps=steps, delta=delta) if mu > 1e-3 else 0.0


def fit(out: Floats, inside: Floats, *, rate: float, confidence: float) -> Fit:
    """Of releases (runs, steps) in both worlds, which are normal, and in the one with the canary shifted in a share `rate` of the steps.

    The shift's limit is Welch's, over whole runs; the deviation's is chi-squared's, over all steps without the canary; each takes half
    of the error that the confidence leaves.
    """
    each = 1 - (1 - confidence) / 2
    means = out.mean(axis=1), inside.mean(axis=1)
    squares = [float(values.var(ddof=1)) / len(values) for values in means]
    freedom = sum(squares) ** 2 / sum(square**2 / (len(values) - 1) for square, values in zip(squares, means, strict=True))
    shift = float(means[1].mean() - means[0].mean()) / rate
    least_shift = shift - float(stats.t.ppf(each, freedom)) * math.sqrt(sum(squares)) / rate
    deviation = float(out.std(ddof=1))
    most_deviation = deviation * math.sqrt((out.size - 1) / float(stats.chi2.ppf(1 - each, out.size - 1)))
    return Fit(shift / deviation, max(0.0, least_shift) / most_deviation)


def guessing_limit(right: int, guesses: int, *, canaries: int, delta: float, error: float) -> float:
    """Of epsilon, from one run with many canaries, `right` of `guesses` made about them (Steinke, Nasr and Jagielski 2023, theorem 5.2)."""
    low, high = 0.0, 1.0
    while guessing_chance(right, guesses, canaries=canaries, epsilon=high, delta=delta) < error:
        low, high = high, high + 1
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = guessing_chance(right, guesses, canaries=canaries, epsilon=middle, delta=delta) >= error
        low, high = (low, middle) if enough else (middle, high)
    return low


def guessing_chance(right: int, guesses: int, *, canaries: int, epsilon: float, delta: float) -> float:
    """At most so likely are `right` right guesses or more where (epsilon, delta) holds (their appendix D)."""
    one = 1 / (1 + math.exp(-epsilon))
    fewer = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, one))  # P(right > W >= right - i), i = 1 …
    share = float((fewer / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, float(stats.binom.sf(right - 1, guesses, one)) + 2 * canaries * delta * share)


def area(scores: Floats, member: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Mean AUC over models, and its standard error with patients as units (DeLong et al. 1988, summed over models by patient).

    Args:
        scores, member: (models, patients); each row has patients of both kinds.
    """
    areas, moved = [], np.zeros(scores.shape[1])
    for values, inside in zip(scores, member, strict=True):
        ours, others = np.sort(values[inside]), np.sort(values[~inside])
        below = (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))
        above = 1 - (np.searchsorted(ours, values, "left") + np.searchsorted(ours, values, "right")) / (2 * len(ours))
        areas.append(float(below[inside].mean()))
        moved += np.where(inside, (below - areas[-1]) / len(ours), (above - areas[-1]) / len(others))
    return float(np.mean(areas)), math.sqrt(float((moved**2).sum())) / len(areas)


def found_at(scores: Floats, member: npt.NDArray[np.bool_], alarms: float) -> float:
    """Mean over models of the members found where a share `alarms` of the others is taken for members."""
    found = [(values[inside] > np.quantile(values[~inside], 1 - alarms)).mean() for values, inside in zip(scores, member, strict=True)]
    return float(np.mean(found))


def curve(out: Floats, inside: Floats, points: int = 80) -> tuple[Sequence[float], Sequence[float]]:
    """(false alarms, hits) of thresholds from the highest score down, dense where alarms are few, for drawing."""
    thresholds = np.quantile(np.concatenate([out, inside]), 1 - np.logspace(-4, 0, points))
    alarms = [0.0, *((out > value).mean() for value in thresholds), 1.0]
    hits = [0.0, *((inside > value).mean() for value in thresholds), 1.0]
    return [round(float(value), 5) for value in alarms], [round(float(value), 5) for value in hits]


def _epsilon(alarms: float, misses: float, delta: float) -> float:
    return max(0.0, math.log((1 - delta - misses) / alarms)) if misses < 1 - delta else 0.0
