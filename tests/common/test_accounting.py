"""What noise costs: against Rényi accounting, closed forms, Opacus' own numbers, and the rules of the ledger's filter.

Against dp-accounting: test_accounting_pld. Noise for a wish, and patients of several sites: test_accounting_uses.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fedrad_common.accounting import GaussianEvent, epsilon_prv, epsilon_rdp, filter_budget, filter_order, rdp
from fedrad_common.accounting.events import merged
from fedrad_common.accounting.prv import upper_bound
from fedrad_common.errors import MisuseError

STEP = GaussianEvent(1.1, 0.02, 500)


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    """What a spoiled accountant said must not outlive its test."""
    yield
    upper_bound.cache_clear()


def test_prv_is_opacus_own_estimate_with_a_smaller_error_added() -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(STEP.noise_multiplier, STEP.sampling_rate, STEP.steps)]
    upper = accountant.get_epsilon(1e-5, eps_error=0.01)

    assert upper - 0.01 <= epsilon_prv([STEP], 1e-5) <= upper


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


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("Discrete mean differs significantly from continuous mean.")


@pytest.mark.parametrize("answer", [math.nan, math.inf, -1.0, 0.0, fail], ids=["nan", "inf", "negative", "zero", "raises"])
def test_a_failing_prv_falls_back_to_renyi_never_to_less(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    from opacus.accountants.analysis.prv import DiscretePRV

    events, delta = [GaussianEvent(1.3, 0.07, 123)], 1e-5
    good = epsilon_prv(events, delta)
    upper_bound.cache_clear()
    monkeypatch.setattr(DiscretePRV, "compute_epsilon", answer if callable(answer) else lambda *_: (answer, answer, answer))

    assert epsilon_prv(events, delta) == epsilon_rdp(events, delta) > good


@pytest.mark.parametrize("spoil", [lambda pmf: pmf / 2, np.zeros_like, lambda pmf: pmf * math.nan], ids=["half", "0", "nan"])
def test_a_composition_that_is_no_distribution_falls_back_to_renyi(monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., object]) -> None:
    from opacus.accountants.analysis import prv

    def spoiled(*args: object, **kwargs: object) -> object:
        composed = real(*args, **kwargs)
        return prv.DiscretePRV(pmf=spoil(composed.pmf), domain=composed.domain)

    real = prv.compose_heterogeneous
    upper_bound.cache_clear()
    monkeypatch.setattr(prv, "compose_heterogeneous", spoiled)

    assert epsilon_prv([STEP], 1e-5) == epsilon_rdp([STEP], 1e-5)


def test_a_mesh_that_cannot_be_fine_enough_falls_back_to_renyi() -> None:
    event = GaussianEvent(0.5, 0.5, 10_000_000)

    assert epsilon_prv([event], 1e-5) == epsilon_rdp([event], 1e-5)


def test_events_are_merged_when_equal_to_the_bit() -> None:
    nearly = GaussianEvent(1.1, math.nextafter(0.02, 1), 500)

    assert merged([STEP] * 3) == (GaussianEvent(1.1, 0.02, 1500),)
    assert len(merged([STEP, nearly])) == 2
    assert epsilon_prv([STEP, nearly], 1e-5) == pytest.approx(epsilon_prv([STEP, STEP], 1e-5), rel=0.005)


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


@pytest.mark.parametrize(
    "values", [(-1.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.5, 1), (1.0, 0.1, -1), (math.nan, 0.1, 1), (math.inf, 0.1, 1), (1.0, 0.1, 1.5)]
)
def test_an_impossible_event_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(MisuseError, match="accounting: event"):
        GaussianEvent(*values)


def test_noise_for_a_very_small_epsilon_is_found_in_seconds() -> None:
    """Where the secant ends on a plateau, far from the answer: 60 patients, 100 rounds, epsilon 0.1 once took minutes."""
    from fedrad_common.accounting.calibration import _least_multiple

    looked: list[int] = []

    def enough(multiple: int) -> bool:
        looked.append(multiple)
        return multiple >= 188_853

    assert [_least_multiple(enough, near) for near in (1, 188_852, 188_853, 188_854, 5_000_000)] == [188_853] * 5
    assert len(looked) < 5 * 60
    assert _least_multiple(lambda multiple: False, 7) is None
    assert _least_multiple(lambda multiple: True, 9_000) == 1
