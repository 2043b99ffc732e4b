"""Noise that a wish needs, and what somebody bears who is a patient at two sites."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedrad_common.accounting import GaussianEvent, SiteAccount, at_several_sites, calibrate, epsilon_prv
from fedrad_common.errors import MisuseError

NORTH = SiteAccount(8.0, 1e-6, (GaussianEvent(3.5, 0.4, 80), GaussianEvent(2.0, 0.02, 200)))
SOUTH = SiteAccount(3.0, 1e-5, (GaussianEvent(10.0, 1.0, 50), GaussianEvent(2.0, 0.02, 100)))


@settings(max_examples=3, deadline=None)
@example(epsilon=0.01, delta=1e-6, sampling_rate=0.001, steps=1)
@example(epsilon=8.0, delta=1e-6, sampling_rate=0.1, steps=100)
@given(
    epsilon=st.floats(0.5, 10.0),
    delta=st.sampled_from([1e-8, 1e-6, 1e-5, 1e-3]),
    sampling_rate=st.one_of(st.floats(0.01, 1.0), st.just(1.0)),
    steps=st.integers(1, 500),
)
def test_calibrated_noise_is_enough_and_one_ten_thousandth_less_is_not(
    epsilon: float, delta: float, sampling_rate: float, steps: int
) -> None:
    sigma = calibrate(epsilon=epsilon, delta=delta, sampling_rate=sampling_rate, steps=steps)
    less = round(sigma - 1e-4, 4)

    assert sigma == round(sigma, 4)
    assert epsilon_prv([GaussianEvent(sigma, sampling_rate, steps)], delta) <= epsilon
    assert epsilon_prv([GaussianEvent(less, sampling_rate, steps)], delta) > epsilon


@pytest.mark.parametrize(
    "changed",
    [
        {"delta": 0.0}, {"delta": 1.0}, {"delta": math.nan}, {"epsilon": 0.0}, {"epsilon": -1.0}, {"epsilon": 1e-4}, {"epsilon": math.nan},
        {"epsilon": math.inf}, {"sampling_rate": 0.0}, {"sampling_rate": 1.1}, {"sampling_rate": math.nan}, {"steps": 0}, {"steps": 1.5},
        {"epsilon": 0.001, "sampling_rate": 1.0, "steps": 10**9},
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_calibration_is_refused(changed: dict[str, float]) -> None:
    wish = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "steps": 10} | changed

    with pytest.raises(MisuseError, match="accounting"):
        calibrate(**wish)


def test_somebody_at_two_sites_bears_at_most_the_sum_of_the_ceilings() -> None:
    together = at_several_sites([NORTH, SOUTH])

    assert together.ceiling == 11.0
    assert together.delta == pytest.approx(1.1e-5)


def test_what_was_planned_at_two_sites_is_the_union_of_the_events() -> None:
    together = at_several_sites([NORTH, SOUTH])
    alone = [at_several_sites([account]).planned for account in (NORTH, SOUTH)]

    assert together.planned == epsilon_prv([*NORTH.events, *SOUTH.events], 1.1e-5)
    assert max(alone) < together.planned <= sum(alone)


def test_one_site_is_its_own_account_and_the_noises_share_of_delta_is_kept_out() -> None:
    kept = SiteAccount(8.0, 1e-6, NORTH.events, numeric_delta=5e-7)

    assert at_several_sites([NORTH]).planned == epsilon_prv(NORTH.events, 1e-6)
    assert at_several_sites([kept]).planned == epsilon_prv(NORTH.events, 5e-7)


def test_a_run_without_noise_at_either_site_has_no_planned_bound() -> None:
    unbounded = SiteAccount(3.0, 1e-6, (GaussianEvent(0.0, 1.0, 1),))

    assert at_several_sites([NORTH, unbounded]).planned == math.inf


@pytest.mark.parametrize("accounts", [[], [SiteAccount(0.0, 1e-6, ())], [SiteAccount(1.0, 0.0, ())], [SiteAccount(1.0, 0.6, ())] * 2])
def test_impossible_accounts_are_refused(accounts: list[SiteAccount]) -> None:
    with pytest.raises(MisuseError, match="accounting"):
        at_several_sites(accounts)
