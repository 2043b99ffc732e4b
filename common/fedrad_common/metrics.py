"""Discrimination and calibration from score histograms or raw scores, with intervals that take patients as units and include release noise.

A histogram counts validation patients by label, class (0 negative, 1 positive) and bin of score, on the fixed grid of 32 bins over [0, 1].
What a site releases carries noise on every cell (privacy.md, rule 11): cells may be fractional or negative and are never clipped, because
clipping each cell would bias every sum. Only a final number is brought back into its range, which can but move it nearer to the truth.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Histogram = npt.NDArray[np.float64] | npt.NDArray[np.float32] | npt.NDArray[np.int64]  # one label's: (2 classes, 32 bins)
Interval = tuple[float, float]
Statistic = Callable[[Floats, Floats, Floats], float | None]  # of (scores, labels, weights), each (n_images,)

N_BINS = 32
CENTRES: Floats = (np.arange(N_BINS) + 0.5) / N_BINS
MIN_PATIENTS = 5.0  # estimated, in each class: below, no number is given
_NOISE_MULTIPLE = 3.0  # a class total has to stand this many of its own standard deviations of noise above zero
_Z = 1.959963984540054  # 97.5 % point of the standard normal
_GRID: Floats = np.linspace(0, 1, 4001)  # candidates of an interval
_WINS: Floats = np.tri(N_BINS, k=-1) + 0.5 * np.eye(N_BINS)  # [i, j]: what a positive in bin i scores against a negative in bin j


def pool(histograms: Sequence[Histogram], noise: Sequence[float]) -> tuple[Floats, float]:
    """The histogram of all sites' patients, and the standard deviation of each cell's noise (independent, so in quadrature)."""
    total = np.sum([np.asarray(histogram, dtype=np.float64) for histogram in histograms], axis=0)
    return total, float(np.sqrt(np.sum(np.square(noise))))


def totals(histogram: Histogram) -> tuple[float, float]:
    """Estimated number of negative and of positive patients."""
    negative, positive = np.asarray(histogram, dtype=np.float64).sum(axis=1)
    return float(negative), float(positive)


def enough(histogram: Histogram, *, noise: float = 0.0, least: float = MIN_PATIENTS) -> bool:
    """Whether both classes hold enough patients to speak of; looks at noised numbers only, so it costs no privacy."""
    floor = max(least, _NOISE_MULTIPLE * noise * float(np.sqrt(N_BINS)))
    return min(totals(histogram)) >= floor


def auc(histogram: Histogram, *, noise: float = 0.0, least: float = 1.0) -> float | None:
    """Area under the ROC curve, half credit inside a bin; None where a class has too few patients.

    Args:
        histogram: (2, 32) counts, exact or noised.
        noise: standard deviation of the noise on each cell, in patients.
        least: estimated patients that each class needs.
    """
    if not enough(histogram, noise=noise, least=least):
        return None
    negative, positive = np.asarray(histogram, dtype=np.float64)
    wins = float(positive @ _WINS @ negative)  # unbiased under independent noise of mean zero
    return _unit(wins / (positive.sum() * negative.sum()))


def auc_interval(histogram: Histogram, *, noise: float = 0.0, least: float = MIN_PATIENTS) -> Interval | None:
    """95 % interval of the AUC: every value that the histogram does not contradict.

    A candidate A is kept while |estimate - A| is at most 1.96 standard errors *at A*. The squared error has two parts.
    Patients: A(1-A)[1 + n(1-A)/(2-A) + nA/(1+A)]/(n1 n0) with n = (n1+n0)/2 - 1 (Newcombe 2006, Statistics in Medicine 25:559,
    method 5, after Hanley & McNeil 1982): it needs no single cell, so noise cannot upset it, and it has width at A = 1.
    Noise of variance s² on each cell of x (positives) and y (negatives): T = x'(K - A)y has mean 0 at the true A and variance
    s²(|(K-A)y|² + |(K-A)'x|²) + s⁴|K-A|²; with the noised x and y for the true ones the last sign turns (their squares carry one
    s⁴|K-A|² each). Taking T over n1 n0 at each candidate is Fieller's way with a noisy denominator. Nothing is drawn: no seed.
    """
    point = auc(histogram, noise=noise, least=least)
    if point is None:
        return None
    negative, positive = np.asarray(histogram, dtype=np.float64)
    n_negative, n_positive = negative.sum(), positive.sum()
    a, pairs = _GRID, n_negative * n_positive
    half = (n_negative + n_positive) / 2 - 1
    sampling = a * (1 - a) * (1 + half * (1 - a) / (2 - a) + half * a / (1 + a)) / pairs
    kernel = _squares(_WINS, a) * noise**4
    spread = _squares(_WINS @ negative, a * n_negative) + _squares(positive @ _WINS, a * n_positive)
    release = np.maximum(noise**2 * spread - kernel, kernel) / pairs**2
    estimate = positive @ _WINS @ negative / pairs
    return _kept(np.abs(estimate - a) <= _Z * np.sqrt(sampling + release), point)


def brier(histogram: Histogram, *, noise: float = 0.0, least: float = 1.0) -> float | None:
    """Mean squared error of the score, from bin centres; None where a class has too few patients."""
    if not enough(histogram, noise=noise, least=least):
        return None
    counts = np.asarray(histogram, dtype=np.float64)
    return _unit(float((counts * _losses()).sum() / counts.sum()))


def brier_interval(histogram: Histogram, *, noise: float = 0.0, least: float = MIN_PATIENTS) -> Interval | None:
    """95 % interval of the Brier score, by the same test as the AUC's: of each candidate b, the sum of (loss - b) has mean 0,
    variance sum(count (loss - b)²) from patients (at most n b(1-b), losses being in [0, 1]) and s² sum((loss - b)²) from noise.
    """
    point = brier(histogram, noise=noise, least=least)
    if point is None:
        return None
    counts = np.asarray(histogram, dtype=np.float64)
    losses, n_patients = _losses(), counts.sum()
    squares = (counts * losses**2).sum() - 2 * (counts * losses).sum() * _GRID + n_patients * _GRID**2
    sampling = np.clip(squares, 0, n_patients * _GRID * (1 - _GRID))
    deviation = np.sqrt(sampling + noise**2 * _squares(losses, _GRID)) / n_patients
    estimate = float((counts * losses).sum() / n_patients)
    return _kept(np.abs(estimate - _GRID) <= _Z * deviation, point)


def roc_points(histogram: Histogram) -> Floats:
    """(33, 2) false and true positive rates, from (0, 0) to (1, 1), for drawing: a noised curve is made to rise. Empty for one class."""
    counts = np.asarray(histogram, dtype=np.float64)
    if min(totals(counts)) <= 0:
        return np.zeros((0, 2))
    rates = np.cumsum(counts[:, ::-1], axis=1) / counts.sum(axis=1, keepdims=True)
    rising = np.clip(np.maximum.accumulate(rates, axis=1), 0, 1)
    return np.vstack([[0.0, 0.0], rising.T[:-1], [1.0, 1.0]])


def reliability_points(histogram: Histogram, *, noise: float = 0.0, groups: int = 8) -> Floats:
    """(k, 3) mean score, observed share of positives, estimated patients; bins are taken together into at most `groups`.

    A group is left out where fewer than `MIN_PATIENTS`, or no more than its own noise, would stand behind it.
    """
    counts = np.asarray(histogram, dtype=np.float64).reshape(2, groups, N_BINS // groups)
    n_patients = counts.sum(axis=(0, 2))
    floor = max(MIN_PATIENTS, _NOISE_MULTIPLE * noise * float(np.sqrt(2 * N_BINS // groups)))
    kept = n_patients >= floor
    centres = CENTRES.reshape(groups, -1)
    weights = np.maximum(counts.sum(axis=0), 0)[kept]  # where in its group the mean lies is for drawing only
    score = (weights * centres[kept]).sum(axis=1) / weights.sum(axis=1)
    observed = np.clip(counts[1].sum(axis=1)[kept] / n_patients[kept], 0, 1)
    return np.column_stack([score, observed, n_patients[kept]])


def auc_scores(scores: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Area under the ROC curve of raw scores (Mann–Whitney, half credit for ties); None for one class only.

    Args:
        scores: (n,) finite; any scale.
        labels: (n,) 0 or 1; NaN is left out.
        weights: (n,) how often each image counts; all once by default.
    """
    scores, labels, weights = _labelled(scores, labels, weights)
    order = np.argsort(scores, kind="stable")
    first = np.concatenate([[True], np.diff(scores[order]) != 0])[: len(order)]
    value = np.cumsum(first) - 1  # index of the distinct score
    n_values = int(value[-1]) + 1 if len(value) else 0
    positive = np.bincount(value, weights=(weights * labels)[order], minlength=n_values)
    negative = np.bincount(value, weights=(weights * (1 - labels))[order], minlength=n_values)
    pairs = positive.sum() * negative.sum()
    if pairs <= 0:
        return None
    return _unit(float(positive @ (np.cumsum(negative) - 0.5 * negative) / pairs))


def brier_scores(scores: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Mean squared error of scores in [0, 1]; None when nothing is labelled."""
    scores, labels, weights = _labelled(scores, labels, weights)
    total = weights.sum()
    return float(weights @ (scores - labels) ** 2 / total) if total > 0 else None


def patient_bootstrap(
    scores: Floats, labels: Floats, patients: npt.NDArray[np.generic], statistic: Statistic, *, n: int = 1000, seed: int = 0
) -> Interval | None:
    """95 % percentile interval of a statistic, over `n` resamples of whole patients.

    Args:
        scores: (n_images,).
        labels: (n_images,) 0 or 1; NaN is left out.
        patients: (n_images,) whose image each is; any sortable type.
        statistic: of scores, labels and weights, such as `auc_scores`; a patient drawn twice has weight 2.

    Returns:
        None with fewer than two patients, or when the statistic has a value in less than half of the resamples.
    """
    return _bootstrap(lambda weights: statistic(scores, labels, weights), patients, n=n, seed=seed)


def paired_bootstrap(
    scores: Floats,
    others: Floats,
    labels: Floats,
    patients: npt.NDArray[np.generic],
    statistic: Statistic,
    *,
    n: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """95 % interval of a statistic's difference: of one model minus the mean of others, on the same resampled patients.

    Args:
        scores: (n_images,) of the one.
        others: (n_images,) of the other, or (k, n_images) of several.
    """
    rivals = np.atleast_2d(others)

    def difference(weights: Floats) -> float | None:
        one = statistic(scores, labels, weights)
        rest = [statistic(rival, labels, weights) for rival in rivals]
        known = [value for value in rest if value is not None]
        return None if one is None or len(known) < len(rest) else one - float(np.mean(known))

    return _bootstrap(difference, patients, n=n, seed=seed)


def _bootstrap(statistic: Callable[[Floats], float | None], patients: npt.NDArray[np.generic], *, n: int, seed: int) -> Interval | None:
    names, owner = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return None
    generator = np.random.default_rng(seed)
    draws = (generator.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(np.float64) for _ in range(n))
    values = [value for counts in draws if (value := statistic(counts[owner])) is not None]
    if len(values) < n / 2:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _labelled(scores: Floats, labels: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    weights = np.ones(scores.shape) if weights is None else weights
    known = np.isfinite(labels)
    return scores[known], labels[known], weights[known]


def _squares(values: Floats, centre: Floats) -> Floats:
    """Sum of (values - c)² for every candidate c, without a table of values by candidates."""
    return np.asarray((values**2).sum() - 2 * values.sum() * centre + values.size * centre**2)


def _losses() -> Floats:
    return np.stack([CENTRES**2, (1 - CENTRES) ** 2])


def _kept(kept: npt.NDArray[np.bool_], point: float) -> Interval:
    inside = _GRID[kept]
    step = float(_GRID[1])
    if not len(inside):  # narrower than the grid
        return max(0.0, point - step), min(1.0, point + step)
    return max(0.0, min(float(inside[0]) - step, point)), min(1.0, max(float(inside[-1]) + step, point))


def _unit(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
