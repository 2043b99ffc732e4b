"""The metrics agree with scikit-learn, never crash on a poor histogram, and their intervals cover what they say."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtr
from sklearn.metrics import brier_score_loss, roc_auc_score

from fedrad_common import metrics

COUNTS = arrays(np.int64, (2, 32), elements=st.integers(0, 20))


def expand(histogram):
    counts = histogram.astype(int)
    scores = np.concatenate([np.repeat(metrics.CENTRES, counts[c]) for c in (0, 1)])
    return scores, np.repeat([0.0, 1.0], counts.sum(axis=1))


def histogram(scores, labels):
    """(2, 32) whole numbers, one patient each."""
    counts = np.zeros((2, 32))
    np.add.at(counts, (labels.astype(int), np.minimum((scores * 32).astype(int), 31)), 1)
    return counts


def cohort(generator, n_negative, n_positive, shift):
    """One score and label a patient; the true AUC of the scores before binning is Phi(shift / sqrt 2)."""
    values = np.concatenate([generator.normal(0, 1, n_negative), generator.normal(shift, 1, n_positive)])
    return ndtr(values - shift / 2), np.repeat([0.0, 1.0], [n_negative, n_positive])


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_auc_and_brier_of_a_histogram_are_those_of_its_bin_centres(histogram):
    if min(histogram.sum(axis=1)) == 0:
        assert metrics.auc(histogram) is None
        assert metrics.brier(histogram) is None
        return
    scores, labels = expand(histogram)
    assert metrics.auc(histogram) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.brier(histogram) == pytest.approx(brier_score_loss(labels, scores))


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_flipping_the_scores_turns_the_auc_and_its_interval_round(histogram):
    there, back = metrics.auc(histogram), metrics.auc(histogram[:, ::-1])
    if there is None or back is None:
        assert there == back
        return
    assert back == pytest.approx(1 - there)
    low, high = metrics.auc_interval(histogram, noise=0.4, least=0) or (0.0, 1.0)
    flipped_low, flipped_high = metrics.auc_interval(histogram[:, ::-1], noise=0.4, least=0) or (0.0, 1.0)
    assert (flipped_low, flipped_high) == pytest.approx((1 - high, 1 - low), abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 32), elements=st.floats(-30, 30)), st.floats(0, 20))
def test_no_histogram_however_noised_crashes_or_leaves_the_range(histogram, noise):
    for value in (metrics.auc(histogram, noise=noise), metrics.brier(histogram, noise=noise)):
        assert value is None or 0 <= value <= 1
    for interval in (metrics.auc_interval(histogram, noise=noise), metrics.brier_interval(histogram, noise=noise)):
        assert interval is None or 0 <= interval[0] <= interval[1] <= 1
    assert np.isfinite(metrics.roc_points(histogram)).all()
    assert np.isfinite(metrics.reliability_points(histogram, noise=noise)).all()


def test_one_class_alone_has_no_number():
    histogram = np.zeros((2, 32))
    histogram[1, 4:9] = 100
    assert metrics.auc(histogram) is None
    assert metrics.brier(histogram) is None
    assert metrics.auc_interval(histogram) is None
    assert metrics.roc_points(histogram).shape == (0, 2)
    assert metrics.auc_scores(np.array([0.1, 0.9]), np.ones(2)) is None
    assert metrics.auc_scores(np.zeros(0), np.zeros(0)) is None
    assert metrics.brier_scores(np.array([0.1]), np.array([np.nan])) is None


def test_suppression_looks_at_the_noised_total_and_asks_more_of_a_noisier_one():
    histogram = np.full((2, 32), 20 / 32)
    assert metrics.auc_interval(histogram, noise=1.0) is not None
    assert metrics.auc_interval(histogram, noise=2.0) is None


def test_noise_of_pooled_sites_adds_in_quadrature():
    histogram, noise = metrics.pool([np.ones((2, 32)), 2 * np.ones((2, 32))], [3.0, 4.0])
    assert noise == 5.0
    assert histogram.sum() == 3 * 64


def test_estimates_from_noised_cells_are_centred_on_the_exact_ones():
    generator = np.random.default_rng(3)
    exact = histogram(*cohort(generator, 300, 200, 1.5))
    noised = [exact + np.rint(generator.normal(0, 2, exact.shape)) for _ in range(400)]
    assert np.mean([metrics.auc(cells, noise=2) for cells in noised]) == pytest.approx(metrics.auc(exact), abs=0.004)
    assert np.mean([metrics.brier(cells, noise=2) for cells in noised]) == pytest.approx(metrics.brier(exact), abs=0.004)


@pytest.mark.parametrize(
    ("n_negative", "n_positive", "noise"), [(60, 40, 0.0), (60, 40, 1.0), (400, 60, 2.5), (150, 150, 4.0), (300, 30, 0.0)]
)
@pytest.mark.parametrize("shift", [0.0, 1.2, 2.8])
def test_the_interval_covers_the_true_auc_in_about_95_of_100_cohorts(n_negative, n_positive, noise, shift):
    generator = np.random.default_rng(n_positive + int(10 * shift))
    truth = metrics.auc(histogram(*cohort(generator, 200_000, 200_000, shift)))
    covered = []
    for _ in range(300):
        cells = histogram(*cohort(generator, n_negative, n_positive, shift))
        interval = metrics.auc_interval(cells + np.rint(generator.normal(0, noise, cells.shape)), noise=noise)
        if interval is not None:
            covered.append(interval[0] <= truth <= interval[1])
    assert len(covered) > 200
    assert 0.90 <= np.mean(covered) <= 0.995


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_brier_interval_covers_too(noise):
    generator = np.random.default_rng(5)
    truth = metrics.brier(histogram(*cohort(generator, 200_000, 100_000, 1.5)))
    covered = []
    for _ in range(300):
        cells = histogram(*cohort(generator, 160, 80, 1.5))
        interval = metrics.brier_interval(cells + np.rint(generator.normal(0, noise, cells.shape)), noise=noise)
        assert interval is not None
        covered.append(interval[0] <= truth <= interval[1])
    assert 0.90 <= np.mean(covered) <= 0.995


def test_an_interval_that_forgot_the_noise_would_not_cover():
    generator = np.random.default_rng(8)
    truth = metrics.auc(histogram(*cohort(generator, 200_000, 200_000, 1.2)))
    covered = []
    for _ in range(300):
        cells = histogram(*cohort(generator, 150, 150, 1.2))
        low, high = metrics.auc_interval(cells + np.rint(generator.normal(0, 4, cells.shape)))
        covered.append(low <= truth <= high)
    assert np.mean(covered) < 0.85


def test_roc_points_rise_from_corner_to_corner_and_their_area_is_the_auc():
    counts = histogram(*cohort(np.random.default_rng(1), 500, 400, 1.0))
    points = metrics.roc_points(counts)
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(metrics.auc(counts))
    noisy = metrics.roc_points(counts + np.random.default_rng(2).normal(0, 20, counts.shape))
    assert (np.diff(noisy, axis=0) >= 0).all()


def test_reliability_of_a_calibrated_score_lies_on_the_diagonal():
    generator = np.random.default_rng(4)
    scores = generator.uniform(size=50_000)
    labels = (generator.uniform(size=scores.shape) < scores).astype(float)
    points = metrics.reliability_points(histogram(scores, labels))
    assert points.shape == (8, 3)
    assert points[:, 1] == pytest.approx(points[:, 0], abs=0.02)
    assert points[:, 2].sum() == pytest.approx(50_000)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=60))
def test_auc_and_brier_of_scores_agree_with_scikit_learn_ties_and_weights_included(rows):
    scores, labels, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    scores /= 10
    ours = metrics.auc_scores(scores, labels, weights)
    if ours is None:
        assert min(weights[labels == 0].sum(), weights[labels == 1].sum()) == 0
    else:
        assert ours == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    if weights.sum():
        assert metrics.brier_scores(scores, labels, weights) == pytest.approx(np.average((scores - labels) ** 2, weights=weights))


def test_resampling_patients_is_wider_than_resampling_images_of_the_same_patients():
    generator = np.random.default_rng(6)
    scores, labels = cohort(generator, 60, 60, 1.0)
    scores, labels = np.repeat(scores, 8), np.repeat(labels, 8)
    by_patient = metrics.patient_bootstrap(scores, labels, np.repeat(np.arange(120), 8), metrics.auc_scores)
    by_image = metrics.patient_bootstrap(scores, labels, np.arange(960), metrics.auc_scores)
    assert by_patient[1] - by_patient[0] > 2 * (by_image[1] - by_image[0])


def test_a_bootstrap_is_repeatable_and_its_seed_matters():
    scores, labels = cohort(np.random.default_rng(7), 40, 40, 1.0)
    patients = np.array([f"p{index:02}" for index in range(80)])
    first, again, other = (metrics.patient_bootstrap(scores, labels, patients, metrics.auc_scores, n=200, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_one_patient_or_one_class_has_no_interval():
    scores, labels = np.array([0.1, 0.9]), np.array([0.0, 1.0])
    assert metrics.patient_bootstrap(scores, labels, np.zeros(2), metrics.auc_scores, n=50) is None
    assert metrics.patient_bootstrap(scores, np.ones(2), np.arange(2), metrics.auc_scores, n=50) is None


def test_a_paired_difference_is_narrower_than_the_two_intervals_apart():
    generator = np.random.default_rng(9)
    scores, labels = cohort(generator, 100, 100, 1.5)
    worse = scores + generator.normal(0, 0.15, 200)
    patients = np.arange(200)
    low, high = metrics.paired_bootstrap(scores, worse, labels, patients, metrics.auc_scores, n=400)
    alone = metrics.patient_bootstrap(scores, labels, patients, metrics.auc_scores, n=400)
    assert high - low < alone[1] - alone[0]
    assert low <= metrics.auc_scores(scores, labels) - metrics.auc_scores(worse, labels) <= high


def test_a_model_against_the_mean_of_itself_differs_by_nothing():
    scores, labels = cohort(np.random.default_rng(2), 30, 30, 1.0)
    others = np.stack([scores, scores])
    low, high = metrics.paired_bootstrap(scores, others, labels, np.arange(60), metrics.auc_scores, n=100)
    assert (low, high) == pytest.approx((0, 0), abs=1e-12)


def test_four_thousand_images_are_resampled_a_thousand_times_without_a_sort_of_python_objects():
    scores, labels = cohort(np.random.default_rng(0), 3000, 1000, 1.0)
    start = time.process_time()
    metrics.patient_bootstrap(scores, labels, np.arange(4000) // 2, metrics.auc_scores, n=1000)
    assert time.process_time() - start < 15  # about one second; this catches a quadratic slip only
