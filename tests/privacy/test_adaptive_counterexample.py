"""Why the ceiling is a filter: a second run chosen by the first's outcome costs more than any plan that PRV accepts (privacy.md, rule 4).

The first release is one Gaussian of a patient's value, 0 or 1. Where it came out high, much privacy is lost already, and a plain Gaussian
adds the most to it; everywhere else a rare, loud, sampled release does. Either pair, planned in advance, costs at most 8 at 1e-6.
"""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_ndtr, ndtr

from fedrad_client.approval import approve
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Site, open_site
from fedrad_common.accounting import GaussianEvent, epsilon_prv, filter_budget, filter_order, rdp
from fedrad_common.errors import BudgetError
from fedrad_common.protocol import TrainingProtocol, parse_protocol, replace_settings

CEILING, DELTA = 8.0, 1e-6
FIRST = GaussianEvent(0.74, 1.0, 1)
HIGH = 3.52  # of the first release, from which the plain Gaussian follows
PLAIN, RARE = GaussianEvent(1.3881, 1.0, 1), GaussianEvent(0.5, 0.02209, 1)
Array = npt.NDArray[np.float64]


def delta_of(event: GaussianEvent, epsilon: Array) -> Array:
    """The exact delta of one step at each epsilon, also below 0, when a patient is removed (Balle and Wang 2018, for q = 1)."""
    sigma, rate = event.noise_multiplier, event.sampling_rate
    above = np.exp(epsilon) - (1 - rate)  # where not positive, every outcome loses more than epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        outcome = sigma**2 * np.log(above / rate) + 0.5  # from here on more than epsilon is lost
    with_patient = (1 - rate) * ndtr(-outcome / sigma) + rate * ndtr((1 - outcome) / sigma)
    without = np.exp(epsilon + log_ndtr(-outcome / sigma))
    return np.where(above > 0, with_patient - without, -np.expm1(epsilon))


def adaptive_delta(epsilon: float, *, high: GaussianEvent, low: GaussianEvent) -> float:
    """The delta of releasing `FIRST` and then `high` or `low` by its outcome, integrated over the outcome."""
    sigma = FIRST.noise_multiplier
    outcome = np.linspace(-12 * sigma, 1 + 12 * sigma, 20_001)
    density = np.exp(-(((outcome - 1) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    lost = (2 * outcome - 1) / (2 * sigma**2)
    follows = np.where(outcome >= HIGH, delta_of(high, epsilon - lost), delta_of(low, epsilon - lost))
    return float((density * follows).sum() * (outcome[1] - outcome[0]))


def test_a_check_by_prv_accepts_either_second_event() -> None:
    assert epsilon_prv([FIRST, PLAIN], DELTA) <= CEILING
    assert epsilon_prv([FIRST, RARE], DELTA) <= CEILING


@pytest.mark.parametrize("second", [PLAIN, RARE], ids=["plain", "rare"])
def test_the_integral_agrees_with_prv_where_nothing_is_chosen(second: GaussianEvent) -> None:
    epsilon = epsilon_prv([FIRST, second], DELTA)

    assert 0.98 * DELTA < adaptive_delta(epsilon, high=second, low=second) <= DELTA


def test_the_choice_costs_more_than_the_ceiling_that_both_paths_keep() -> None:
    assert adaptive_delta(CEILING, high=PLAIN, low=RARE) > 1.8 * DELTA
    assert adaptive_delta(8.24, high=PLAIN, low=RARE) > DELTA


def test_the_filter_refuses_both_second_events_after_the_first() -> None:
    order = filter_order(CEILING, DELTA)
    left = filter_budget(CEILING, DELTA, order) - rdp(FIRST, order)

    assert left > 0
    assert rdp(PLAIN, order) > left
    assert rdp(RARE, order) > left


def test_the_same_choice_among_what_the_filter_admits_keeps_the_ceiling() -> None:
    order = filter_order(CEILING, DELTA)
    left = filter_budget(CEILING, DELTA, order) - rdp(FIRST, order)
    plain = GaussianEvent(2.02, 1.0, 1)
    rare = GaussianEvent(0.5, 0.0033, 1)

    assert 0.95 * left < rdp(plain, order) <= left
    assert 0.95 * left < rdp(rare, order) <= left
    assert adaptive_delta(CEILING, high=plain, low=rare) <= DELTA


def reserve(site: Site, run: str, event: GaussianEvent, *, protocol: TrainingProtocol, plan: Plan) -> None:
    chosen = plan.model_copy(update={"noise_multiplier": event.noise_multiplier, "sampling_rate": event.sampling_rate})
    site.ledger.reserve_run(run, protocol=protocol, plan=chosen, generation=1)


def test_the_sites_ledger_refuses_the_path_after_any_outcome(make_site, protocol_bytes: bytes) -> None:
    home = make_site(epsilon=CEILING, delta=DELTA)
    one_step = {"privacy.rounds": 1, "privacy.steps_per_round": 1, "evaluation.rounds": [], "evaluation.release": "none"}
    protocol = replace_settings(parse_protocol(protocol_bytes), one_step)
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
        _, plan = site.approved(parse_protocol(protocol_bytes).hash)
        reserve(site, "run-00000001", FIRST, protocol=protocol, plan=plan)
        spent = site.ledger.account.training
        for second in (PLAIN, RARE):
            with pytest.raises(BudgetError, match="training"):
                reserve(site, "run-00000002", second, protocol=protocol, plan=plan)

        assert site.ledger.account.training == spent
        reserve(site, "run-00000002", GaussianEvent(3.0, 1.0, 1), protocol=protocol, plan=plan)  # what fits is not refused
