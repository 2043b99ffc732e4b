"""What noise costs: against Rényi accounting, closed forms, Opacus' own numbers, and the rules of the ledger's filter."""

import math

import pytest

from fedrad_common.accounting import GaussianEvent, calibrate, epsilon_prv, epsilon_rdp, filter_budget, filter_order, rdp
from fedrad_common.errors import MisuseError

STEP = GaussianEvent(1.1, 0.02, 500)


def test_prv_gives_opacus_own_upper_bound() -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(STEP.noise_multiplier, STEP.sampling_rate, STEP.steps)]

    assert epsilon_prv([STEP], 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), abs=0.002)


@pytest.mark.parametrize("event", [STEP, GaussianEvent(4.0, 1.0, 50), GaussianEvent(0.7, 0.005, 2000), GaussianEvent(60.0, 0.1, 10)])
def test_prv_is_never_above_renyi_accounting(event: GaussianEvent) -> None:
    assert 0 < epsilon_prv([event], 1e-5) <= epsilon_rdp([event], 1e-5)


def test_a_full_batch_costs_what_the_analytic_gaussian_costs() -> None:
    # Balle and Wang 2018: sensitivity 1, sigma 1, epsilon 1 has delta 0.12693674
    assert epsilon_prv([GaussianEvent(1.0, 1.0, 1)], 0.126936737507) == pytest.approx(1.0, abs=0.0011)


def test_full_batches_compose_to_one_gaussian_also_beside_sampled_steps() -> None:
    one, four = [GaussianEvent(5.0, 1.0, 1)], [GaussianEvent(10.0, 1.0, 3), GaussianEvent(10.0, 1.0, 1)]

    assert epsilon_prv(one, 1e-5) == epsilon_prv(four, 1e-5)
    assert epsilon_prv([*one, STEP], 1e-5) == pytest.approx(epsilon_prv([*four, STEP], 1e-5), abs=0.002)


def test_more_events_cost_more() -> None:
    assert epsilon_prv([STEP], 1e-5) < epsilon_prv([STEP, GaussianEvent(2.0, 0.1, 10)], 1e-5) < epsilon_prv([STEP, STEP], 1e-5)


def test_no_noise_is_no_bound_and_no_step_is_free() -> None:
    assert epsilon_prv([STEP, GaussianEvent(0.0, 0.1, 1)], 1e-5) == math.inf
    assert epsilon_rdp([GaussianEvent(0.0, 1.0, 1)], 1e-5) == math.inf
    assert epsilon_prv([GaussianEvent(0.0, 0.1, 0)], 1e-5) == 0.0
    assert epsilon_prv([], 1e-5) == 0.0


def test_a_failing_prv_falls_back_to_renyi_never_to_less(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.accountants.analysis import prv

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr(prv, "discretize", fail)
    event = GaussianEvent(1.3, 0.07, 123)

    assert epsilon_prv([event], 1e-5) == epsilon_rdp([event], 1e-5)


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(8.0, 0.1, 100), (3.0, 0.5, 60), (1.0, 0.05, 300), (8.0, 1.0, 50)])
def test_calibrated_noise_is_enough_and_hardly_more(epsilon: float, rate: float, steps: int) -> None:
    sigma = calibrate(epsilon=epsilon, delta=1e-5, sampling_rate=rate, steps=steps)

    assert sigma == round(sigma, 4)
    assert epsilon_prv([GaussianEvent(sigma, rate, steps)], 1e-5) <= epsilon
    assert epsilon_prv([GaussianEvent(sigma - 0.001, rate, steps)], 1e-5) > epsilon - 0.001


@pytest.mark.parametrize("order", [2, 3.5, 8, 32])
def test_rdp_is_opacus_own(order: float) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp

    assert rdp(STEP, order) == pytest.approx(500 * compute_rdp(q=0.02, noise_multiplier=1.1, steps=1, orders=float(order)), rel=1e-9)
    assert rdp(GaussianEvent(2.0, 1.0, 3), order) == pytest.approx(3 * order / 8)


@pytest.mark.parametrize(("epsilon", "least", "most"), [(8.0, 3, 4), (3.0, 6, 8), (1.0, 15, 22)])
def test_the_filters_order_falls_with_the_ceiling(epsilon: float, least: int, most: int) -> None:
    assert least <= filter_order(epsilon, 1e-6) <= most
    assert least <= filter_order(epsilon, 1e-5) <= most


def test_what_the_filter_admits_keeps_the_ceiling_and_the_price_is_small() -> None:
    order = filter_order(8.0, 1e-5)
    budget = filter_budget(8.0, 1e-5, order)
    run = GaussianEvent(1.5, 0.1, 10)
    n_runs = math.floor(budget / rdp(run, order))

    spent = epsilon_prv([GaussianEvent(1.5, 0.1, 10 * n_runs)], 1e-5)
    assert 6.5 < spent <= 8.0


def test_the_budget_grows_with_epsilon_and_delta() -> None:
    assert filter_budget(8.0, 1e-5, 4.0) > filter_budget(7.0, 1e-5, 4.0)
    assert filter_budget(8.0, 1e-5, 4.0) > filter_budget(8.0, 1e-6, 4.0)
    assert filter_budget(1.0, 1e-6, 2.0) < 0


@pytest.mark.parametrize("values", [(-1.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.5, 1), (1.0, 0.1, -1), (math.nan, 0.1, 1)])
def test_an_impossible_event_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(MisuseError, match="accounting: event"):
        GaussianEvent(*values)


@pytest.mark.parametrize("changed", [{"delta": 0.0}, {"epsilon": 0.0}, {"epsilon": 1e-4}, {"sampling_rate": 0.0}, {"steps": 0}])
def test_an_impossible_calibration_is_refused(changed: dict[str, float]) -> None:
    wish = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "steps": 10} | changed

    with pytest.raises(MisuseError, match="accounting"):
        calibrate(**wish)
