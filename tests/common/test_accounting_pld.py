"""The printed epsilon against Google's dp-accounting, in both directions; the whole grid: `simulations/benchmarks/accounting.py`.

True epsilon lies between PLD's optimistic and pessimistic estimates, the larger of a patient removed and a patient added.
"""

import importlib.util
import math
import re
from pathlib import Path

import pytest

from fedrad_common.accounting import GaussianEvent, epsilon_prv, epsilon_rdp

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("accounting_benchmark", ROOT / "simulations" / "benchmarks" / "accounting.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

DELTA = 1e-6
SAMPLE = {
    "policy's least noise": [GaussianEvent(0.5, 0.01, 5)],
    "rare": [GaussianEvent(0.7, 0.01, 20)],
    "pneumonia": [GaussianEvent(3.5, 0.4, 80)],
    "full batch": [GaussianEvent(6.0, 1.0, 20)],
    "little": [GaussianEvent(10.0, 0.1, 100)],
    "large epsilon": [GaussianEvent(1.0, 0.3, 50)],
    "two runs": [GaussianEvent(2.0, 0.2, 30), GaussianEvent(1.5, 0.05, 20)],
}


@pytest.mark.parametrize("events", SAMPLE.values(), ids=SAMPLE)
def test_prv_is_at_least_the_true_epsilon_and_within_two_percent(events: list[GaussianEvent]) -> None:
    printed = epsilon_prv(events, DELTA)
    interval = min(1e-3, 0.016 * printed / sum(event.steps for event in events))
    removed, added = benchmark.pld_epsilons(events, DELTA, interval)
    lower = max(benchmark.pld_epsilons(events, DELTA, interval, optimistic=True))

    assert lower <= max(removed, added) <= 1.01 * lower  # the bracket itself is narrow
    assert added <= removed * (1 + 1e-9)  # the direction that Opacus computes is the worse one
    assert max(removed, added) - 1e-5 <= printed <= 1.02 * lower


@pytest.mark.parametrize("event", [GaussianEvent(0.5, 0.01, 1000), GaussianEvent(1.5, 0.05, 10_000), GaussianEvent(30.0, 0.01, 10_000)])
def test_thousands_of_steps_are_counted_as_precisely(event: GaussianEvent) -> None:
    upper = max(benchmark.pld_epsilons([event], DELTA, benchmark.fine_interval(event)))

    assert upper <= epsilon_prv([event], DELTA) <= 1.02 * upper


def test_renyi_accounting_is_above_both_directions_too() -> None:
    for events in (SAMPLE["rare"], SAMPLE["two runs"]):
        assert epsilon_rdp(events, DELTA) > max(benchmark.pld_epsilons(events, DELTA, 1e-3))


def gaussian_dp(event: GaussianEvent, delta: float) -> float:
    from opacus.accountants import GaussianAccountant

    with pytest.warns(UserWarning, match="underestimate"):
        accountant = GaussianAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps)]
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize("event", [GaussianEvent(0.7, 0.01, 20), GaussianEvent(1.1, 0.02, 100)])
def test_the_gdp_accountant_counts_less_than_the_least_that_is_true(event: GaussianEvent) -> None:
    lower = max(benchmark.pld_epsilons([event], DELTA, 1e-3, optimistic=True))

    assert gaussian_dp(event, DELTA) < 0.9 * lower
    assert epsilon_prv([event], DELTA) >= lower


def test_no_part_names_the_gdp_accountant() -> None:
    named = re.compile(r"GaussianAccountant|analysis\.gdp|analysis import gdp|compute_(eps|mu)_poisson|create_accountant|[\"']gdp[\"']")
    houses = ("client", "common", "server", "simulations")
    files = [path for house in houses for path in (ROOT / house).rglob("*.py")]

    assert len(files) > 50
    assert not [path.name for path in files if named.search(path.read_text())]
    assert named.search(Path(__file__).read_text())


@pytest.mark.parametrize("ceiling", benchmark.CEILINGS)
@pytest.mark.parametrize("shape", ["pneumonia", "sparse"])
def test_what_the_filter_admits_costs_at_most_15_percent_less_than_the_ceiling(ceiling: float, shape: str) -> None:
    event = benchmark.admitted(ceiling, DELTA, *benchmark.SHAPES[shape])

    assert ceiling / 1.15 <= epsilon_prv([event], DELTA) <= ceiling
    assert math.isfinite(epsilon_rdp([event], DELTA))
