"""What an epsilon lets an attacker do, and what several images cost: against closed forms and a second accountant."""

import math

import numpy as np
import pytest

from fedrad_common.accounting import GaussianEvent, calibrate, epsilon_prv, exact_delta
from fedrad_server.report.privacy import group_epsilon
from fedrad_sim.privacy_utility.points import SitePlan
from fedrad_sim.privacy_utility.reading import best_attack, by_epsilon, by_plan, images_epsilon


def plan(epsilon: float, *, size: int = 400, batch: float = 80.0, steps: int = 40) -> SitePlan:
    delta, rate = 1 / (10 * size), batch / size
    sigma = calibrate(epsilon=epsilon, delta=exact_delta(delta), sampling_rate=rate, steps=steps)
    cost = epsilon_prv([GaussianEvent(sigma, rate, steps)], exact_delta(delta))
    return SitePlan(
        site="north", declared_size=size, sampling_rate=rate, steps=steps, noise_multiplier=sigma, delta=delta, epsilon=cost
    )  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
def test_pure_epsilon_leaves_open_what_its_closed_forms_say(epsilon: float) -> None:
    found = best_attack([(epsilon, 0.0)])

    assert found.advantage == pytest.approx(math.tanh(epsilon / 2), abs=1e-12)
    assert found.auc == pytest.approx(1 / (1 + math.exp(-epsilon)), abs=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 0.01), (3.0, 1e-4), (8.0, 0.1)])
def test_with_delta_the_advantage_is_that_of_kairouz_and_others(epsilon: float, delta: float) -> None:
    expected = (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)

    assert best_attack([(epsilon, delta)]).advantage == pytest.approx(expected, abs=1e-12)


def test_no_privacy_bounds_nothing() -> None:
    found = best_attack([(60.0, 0.0)])

    assert (found.advantage, found.auc) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_known_gaussian_attack_stays_below_the_bound_of_the_plan() -> None:
    """Full batches: the best attack on one Gaussian shifted by mu is known exactly."""
    full = plan(3.0, batch=400.0)
    mu = math.sqrt(full.steps) / full.noise_multiplier
    advantage = math.erf(mu / 2 / math.sqrt(2))
    auc = (1 + math.erf(mu / 2)) / 2
    found = by_plan(full)

    assert advantage <= found.advantage <= advantage + 0.05
    assert auc <= found.auc <= auc + 0.05


def test_less_epsilon_leaves_less_open_and_the_plan_never_more_than_its_epsilon() -> None:
    plans = [plan(epsilon) for epsilon in (0.5, 3.0, 8.0)]
    wide, narrow = [by_epsilon(each) for each in plans], [by_plan(each) for each in plans]

    assert wide[0].advantage < wide[1].advantage < wide[2].advantage
    assert narrow[0].auc < narrow[1].auc < narrow[2].auc
    for by, close in zip(wide, narrow, strict=True):
        assert 0 < close.advantage <= by.advantage
        assert 0.5 < close.auc <= by.auc


@pytest.mark.parametrize("images", [2, 3])
def test_several_images_cost_what_a_second_accountant_says_or_a_little_more(images: int) -> None:
    """PLD of the mixture of Gaussians: each step, a binomial number of the person's images is drawn."""
    pytest.importorskip("dp_accounting")
    from dp_accounting.pld import privacy_loss_distribution as pld

    chosen = plan(8.0)
    rate = chosen.sampling_rate
    drawn = [math.comb(images, j) * rate**j * (1 - rate) ** (images - j) for j in range(images + 1)]
    one = pld.from_mixture_gaussian_mechanism(
        chosen.noise_multiplier, list(np.arange(images + 1.0)), drawn, value_discretization_interval=1e-3
    )  # fmt: skip
    exact = one.self_compose(chosen.steps).get_epsilon_for_delta(exact_delta(chosen.delta))
    found = images_epsilon(chosen, images)

    assert exact <= found <= 1.25 * exact
    assert found > images * chosen.epsilon


def test_several_images_cost_what_the_run_report_prints() -> None:
    chosen = plan(3.0)
    event = GaussianEvent(chosen.noise_multiplier, chosen.sampling_rate, chosen.steps)
    costs = [images_epsilon(chosen, count) for count in (1, 2, 3, 4)]

    assert costs == [group_epsilon(event, exact_delta(chosen.delta), count) for count in (1, 2, 3, 4)]
    assert chosen.epsilon < costs[0] < costs[1] < costs[2] < costs[3]
