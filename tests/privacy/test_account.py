"""What a ledger has charged is what its events cost: over many runs, over restarts, and by somebody else's accountant."""

import math

import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

from fedrad_client.approval import approve
from fedrad_client.privacy.account import epsilon_in_advance
from fedrad_client.privacy.ledger import Ledger
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Home, open_site
from fedrad_common.accounting import GaussianEvent, rdp
from fedrad_common.protocol import TrainingProtocol, parse_protocol

N_RUNS = 4


@pytest.fixture
def north(make_site, protocol_bytes: bytes) -> Home:
    home = make_site(epsilon=10.0, delta=1e-6)
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    return home


@pytest.fixture
def approved(north: Home, protocol_bytes: bytes) -> tuple[TrainingProtocol, Plan]:
    return north.approved(parse_protocol(protocol_bytes).hash)


@pytest.fixture
def charged(north: Home, approved: tuple[TrainingProtocol, Plan]) -> list[float]:
    """What the training line stood at after each of the runs, the site restarted and its cohort new before each."""
    protocol, plan = approved
    stood = []
    for number in range(N_RUNS):
        with open_site(north.path) as site:
            site.ledger.reserve_run(f"run-{number:08}", protocol=protocol, plan=plan, generation=number + 1)
            stood.append(site.ledger.account.training)
    return stood


def test_each_run_adds_every_step_of_its_protocol_over_restarts_and_cohorts(
    north: Home, approved: tuple[TrainingProtocol, Plan], charged: list[float]
) -> None:
    protocol, plan = approved
    with open_site(north.path) as site:
        run = rdp(GaussianEvent(plan.noise_multiplier, plan.sampling_rate, protocol.privacy.steps), site.ledger.opening.order)

    assert protocol.privacy.steps == protocol.privacy.rounds * protocol.privacy.steps_per_round == 6
    assert charged == pytest.approx([run * (number + 1) for number in range(N_RUNS)])


def test_the_printed_epsilon_is_what_pld_says_of_all_steps(
    north: Home, approved: tuple[TrainingProtocol, Plan], charged: list[float]
) -> None:
    protocol, plan = approved
    with open_site(north.path) as site:
        ledger: Ledger = site.ledger
        printed = epsilon_in_advance(ledger.opening, ledger.account)
        delta, budget = ledger.opening.filter_delta, ledger.opening.budget
    step = from_gaussian_mechanism(plan.noise_multiplier, sampling_prob=plan.sampling_rate, value_discretization_interval=1e-4)
    upper = step.self_compose(N_RUNS * protocol.privacy.steps).get_epsilon_for_delta(delta)

    assert upper - 1e-4 <= printed <= 1.02 * upper
    assert math.isfinite(printed)
    assert charged[-1] <= budget
