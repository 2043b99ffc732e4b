"""What the audits' statistics promise, on samples whose truth is known: a limit is below it as often as it says."""

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from fedrad_client.privacy.plan import Plan
from fedrad_common.accounting import GaussianEvent, epsilon_prv
from fedrad_sim.audits import bounds, gaussian, one_run
from fedrad_sim.audits.claim_curve import Claim, claim_of
from fedrad_sim.audits.setting import make_setting

DELTA, MU = 1e-5, 1.0
EPSILON = epsilon_prv([GaussianEvent(1 / MU, 1.0, 1)], DELTA)


def worlds(seed: int, *, runs: int = 400, steps: int = 1, mu: float = MU, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shift = mu * (rng.random((runs, steps)) < rate)
    return rng.normal(size=(runs, steps)), rng.normal(size=(runs, steps)) + shift


def test_a_rates_limit_is_the_one_of_clopper_and_pearson() -> None:
    assert bounds.rate_limit(0, 100, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert bounds.rate_limit(100, 100, 0.95) == 1.0
    assert stats.binom.cdf(7, 100, bounds.rate_limit(7, 100, 0.95)) == pytest.approx(0.05)


@pytest.mark.parametrize(("steps", "rate"), [(1, 1.0), (8, 0.25)])
def test_the_gaussian_limit_is_below_the_truth_as_often_as_it_says_and_close_to_it(steps: int, rate: float) -> None:
    found = [bounds.fit(*worlds(seed, steps=steps, rate=rate), rate=rate, confidence=0.95) for seed in range(300)]

    assert np.mean([one.least > MU for one in found]) <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert np.mean([one.best for one in found]) == pytest.approx(MU, rel=0.03)
    assert np.median([one.least for one in found]) > 0.6 * MU


def test_a_fits_epsilon_is_the_mechanisms() -> None:
    assert bounds.Fit(MU, MU / 2).epsilon(least=False, rate=1.0, steps=1, delta=DELTA) == pytest.approx(EPSILON, abs=1e-3)
    assert bounds.Fit(MU, 0.0).epsilon(least=True, rate=1.0, steps=1, delta=DELTA) == 0


def test_the_audits_epsilon_is_computed_without_the_account() -> None:
    for module in (bounds, gaussian):
        source = Path(str(module.__file__)).read_text()
        imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert [ast.unparse(node) for node in imported if "accounting" in ast.unparse(node) or "fedrad_client" in ast.unparse(node)] == []


@pytest.mark.parametrize(
    ("mu", "rate", "steps"),
    [(1.0, 1.0, 1), (0.46, 1.0, 4), (8.0, 1.0, 4), (0.83, 0.25, 8), (3.3, 0.25, 8), (6.6, 0.25, 8), (0.3, 0.1, 50), (0.01, 0.25, 8)],
)
def test_two_computations_of_what_a_shift_costs_agree(mu: float, rate: float, steps: int) -> None:
    """The account's is an upper bound, rounded up; this one is a lower one."""
    upper = epsilon_prv([GaussianEvent(1 / mu, rate, steps)], DELTA)

    assert upper - 0.005 - 5e-4 * upper < gaussian.epsilon(mu, rate=rate, steps=steps, delta=DELTA) <= upper


def test_a_sampled_step_costs_what_an_integral_says() -> None:
    mu, rate, delta = 2.0, 0.25, 1e-3
    found = gaussian.epsilon(mu, rate=rate, steps=1, delta=delta)

    def excess(x: float) -> float:
        without = stats.norm.pdf(x)
        return max(0.0, float((1 - rate) * without + rate * stats.norm.pdf(x - mu) - np.exp(found) * without))

    assert integrate.quad(excess, -10, 15, limit=500)[0] == pytest.approx(delta, rel=1e-3)


def test_the_assumption_free_limit_is_below_the_truth_as_often_as_it_says() -> None:
    above, limits = 0, []
    for seed in range(60):
        out, inside = (values[:, 0] for values in worlds(seed, runs=800))
        choice = bounds.best_decision(out[:400], inside[:400], delta=DELTA, confidence=0.95)
        limits.append(choice.limit(out[400:], inside[400:], delta=DELTA, confidence=0.95))
        above += limits[-1] > EPSILON

    assert above <= 0.05 * 60 + 3 * (0.05 * 0.95 * 60) ** 0.5
    assert np.median(limits) > 0.1 * EPSILON


def test_both_directions_of_a_decision_are_counted() -> None:
    out, inside = np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 3.5, 4.5, 0.5])

    assert bounds.Decision(2.2, high=True).errors(out, inside) == (1, 1)
    assert bounds.Decision(0.8, high=False).errors(out, inside) == (1, 3)


def test_worlds_that_are_alike_prove_nothing() -> None:
    out, inside = (values[:, 0] for values in worlds(1, mu=0.0))
    choice = bounds.best_decision(out[:200], inside[:200], delta=DELTA, confidence=0.95)

    assert choice.limit(out[200:], inside[200:], delta=DELTA, confidence=0.95) == 0
    assert bounds.fit(out[:, None], inside[:, None], rate=1.0, confidence=0.95).least == 0


def test_guesses_of_randomised_response_never_prove_more_than_it_spends() -> None:
    """Each of 1,000 coins is told truly with the chance that epsilon allows: the tightest mechanism there is."""
    epsilon, rng = 1.5, np.random.default_rng(0)
    right = rng.binomial(1000, 1 / (1 + np.exp(-epsilon)), 200)
    limits = np.array([bounds.guessing_limit(int(one), 1000, canaries=1000, delta=0.0, error=0.05) for one in right])

    assert (limits > epsilon).mean() <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert np.median(limits) > 0.85 * epsilon


def test_guessings_chance_without_delta_is_the_binomials_and_delta_adds_to_it() -> None:
    plain = bounds.guessing_chance(80, 100, canaries=1000, epsilon=1.0, delta=0.0)

    assert plain == pytest.approx(stats.binom.sf(79, 100, 1 / (1 + np.exp(-1.0))))
    assert plain < bounds.guessing_chance(80, 100, canaries=1000, epsilon=1.0, delta=1e-5) < 1
    assert bounds.guessing_limit(50, 100, canaries=1000, delta=1e-7, error=0.05) == pytest.approx(0, abs=1e-3)


def test_many_guesses_of_a_known_mechanism_stay_below_it_with_delta() -> None:
    coins = np.random.default_rng(1).random(2000) < 0.5
    limits = []
    for seed in range(40):
        scores = np.random.default_rng(seed + 10).normal(size=2000) + MU * coins
        limits.append(one_run.limit(scores, coins, delta=1e-7, confidence=0.95)[0])

    assert max(limits) <= epsilon_prv([GaussianEvent(1 / MU, 1.0, 1)], 1e-7)
    assert np.median(limits) > 0.5


def test_an_areas_error_is_what_repetition_shows() -> None:
    rng = np.random.default_rng(0)
    member = np.array([half for half in [rng.random(400) < 0.5] for half in (half, ~half)])
    found = [bounds.area(rng.normal(size=(2, 400)) + 0.5 * member, member) for _ in range(200)]
    areas, errors = np.array(found).T

    assert areas.mean() == pytest.approx(stats.norm.cdf(0.5 / 2**0.5), abs=0.01)
    assert areas.std() == pytest.approx(errors.mean(), rel=0.2)


def test_finds_at_few_alarms_are_counted_on_their_own_threshold() -> None:
    member = np.array([[True] * 100 + [False] * 100])
    scores = np.concatenate([np.linspace(0.5, 2, 100), np.linspace(0, 1, 100)])[None]

    assert bounds.found_at(scores, member, 0.01) == pytest.approx((scores[0, :100] > np.quantile(scores[0, 100:], 0.99)).mean())
    assert bounds.found_at(scores, member, 1.0) == 1.0


def test_a_claims_curve_is_that_of_its_pairs_and_its_area_grows_with_epsilon() -> None:
    plain = Claim(((1.0, 0.0),))
    alarms = np.array([0.0, 0.1, 0.5, 1.0])

    np.testing.assert_allclose(plain.hits(alarms), np.minimum(1, np.minimum(np.e * alarms, 1 - (1 - alarms) / np.e)))
    deltas = (1e-6, 1e-4, 1e-2, 0.1, 0.2, 0.3)
    gaussian = Claim(tuple((epsilon_prv([GaussianEvent(1 / MU, 1.0, 1)], delta), delta) for delta in deltas))
    exact = stats.norm.cdf(stats.norm.ppf([0.01, 0.1, 0.5]) + MU)
    assert (gaussian.hits(np.array([0.01, 0.1, 0.5])) >= exact).all()
    assert stats.norm.cdf(MU) <= gaussian.area < stats.norm.cdf(MU) + 0.01


def test_the_area_of_a_fixed_number_of_members_is_bounded_for_whoever_sees_both_move() -> None:
    """A mechanism within epsilon whose score of the one rises when it is there and falls when the other is: the worst there is."""
    for epsilon in (0.7, 1.0, 3.0):
        claim = Claim(((epsilon, 0.0),))
        first_in, neither, second_in = 1 - np.exp(-epsilon) / 2, 0.5, np.exp(-epsilon) / 2  # chance that the first scores higher

        for one, other in ((first_in, neither), (neither, second_in)):
            assert max(one / other, other / one, (1 - one) / (1 - other), (1 - other) / (1 - one)) <= np.exp(epsilon) * (1 + 1e-12)
        assert claim.area == pytest.approx((first_in + 1 - second_in) / 2)
        assert claim.area > 1 / (1 + np.exp(-epsilon))  # what one patient, there or not, would permit


def test_a_swap_is_two_steps() -> None:
    gaussian = Claim(tuple((epsilon_prv([GaussianEvent(1 / MU, 1.0, 1)], delta), delta) for delta in (1e-6, 1e-4, 1e-2, 0.05, 0.1, 0.3)))
    exact = stats.norm.cdf(stats.norm.ppf([0.001, 0.01, 0.1]) + 2 * MU)

    found = gaussian.swapped(np.array([0.001, 0.01, 0.1]))
    assert (found >= exact).all()
    assert found == pytest.approx(exact, rel=0.15)


def test_what_a_claim_permits_is_at_most_four_thousandths_above_the_exact_area() -> None:
    for mu in (0.1, 0.5, 1.0, 1.5, 2.0, 3.0):
        plan = plan_of(1 / mu)
        assert 1 <= claim_of(plan, steps=1).area / stats.norm.cdf(mu) <= 1.004


def plan_of(noise_multiplier: float) -> Plan:
    return make_setting(epsilon=4.0, patients=8, rate=1.0, rounds=1, side=8).plan.model_copy(update={"noise_multiplier": noise_multiplier})
