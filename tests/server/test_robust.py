"""Robust aggregation: what a minority sends moves nothing, and the numbers do not depend on how they are cut into slices."""

from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import World, numbers, protocol, unsynced

from fedrad_common.errors import ConfigError
from fedrad_common.protocol import Aggregation, parse_protocol
from fedrad_server import robust
from fedrad_server.aggregation import FoldError, fold, initial
from fedrad_server.replay import Replay, replay

MEDIAN = Aggregation(strategy="median")
TRIMMED = Aggregation(strategy="trimmed-mean", trim=0.2)
KRUM = Aggregation(strategy="krum", byzantine=2)
MULTI_KRUM = Aggregation(strategy="multi-krum", byzantine=2, keep=6)
ROBUST = [MEDIAN, TRIMMED, KRUM, MULTI_KRUM]
SIZE = 50

__all__ = ["unsynced"]  # a fixture that every test here uses


def honest(n: int) -> list[np.ndarray]:
    """Updates of sites that agree, each with its own small noise."""
    return [1.0 + np.float32(0.1) * numbers("honest", site, size=SIZE) for site in range(n)]


def moved(aggregation: Aggregation, updates: list[np.ndarray], weights: list[float] | None = None) -> np.ndarray:
    start = initial(aggregation, np.zeros(updates[0].size, np.float32))
    return fold(aggregation, start, zip(updates, weights or [1.0] * len(updates), strict=True)).model


ATTACKS = {
    "sign flip": lambda update: -update,
    "scaled": lambda update: 1e6 * update,
    "noise": lambda update: 1e3 * numbers("noise", update[0], size=SIZE),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("aggregation", ROBUST, ids=lambda a: a.strategy)
def test_two_poisoned_sites_of_ten_move_the_model_no_further_than_the_honest_differ(aggregation: Aggregation, attack: str) -> None:
    good = honest(10)
    poisoned = [ATTACKS[attack](update).astype(np.float32) for update in good[:2]] + good[2:]
    low, high = np.min(good[2:], axis=0), np.max(good[2:], axis=0)

    after = moved(aggregation, poisoned)

    assert ((low <= after) & (after <= high)).all()
    mean = moved(Aggregation(), poisoned)
    assert not ((low <= mean) & (mean <= high)).all()  # the control: the plain mean is dragged away


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    updates = [np.float32([value]) for value in (5.0, 1.0, 2.0, -9.0)]
    assert moved(MEDIAN, updates).tolist() == [1.5]
    assert moved(MEDIAN, updates[:3]).tolist() == [2.0]


def test_the_trimmed_mean_cuts_the_same_number_on_each_side() -> None:
    updates = [np.float32([value]) for value in (1000.0, 1.0, 2.0, 3.0, -1000.0)]
    assert moved(TRIMMED, updates).tolist() == [2.0]


def test_krum_keeps_one_sites_own_update() -> None:
    updates = honest(10)
    assert any(np.array_equal(moved(KRUM, updates), update) for update in updates)


def test_of_equal_scores_the_first_sites_update_is_kept() -> None:
    assert robust.select([np.float32([1.0])] * 9, byzantine=2, keep=3) == [0, 1, 2]


def test_twins_far_from_the_origin_are_still_told_apart() -> None:
    """Norms minus products would cancel: in float32, 1e8 - 1e8 says nothing of a difference of 1."""
    distances = robust.squared_distances([np.float32([1e4, 0]), np.float32([1e4, 1]), np.float32([1e4, 1])])
    assert distances.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("aggregation", ROBUST, ids=lambda a: a.strategy)
def test_a_declared_size_buys_no_weight(aggregation: Aggregation) -> None:
    updates = honest(10)
    assert np.array_equal(moved(aggregation, updates), moved(aggregation, updates, [1e9, *range(1, 10)]))


@pytest.mark.parametrize("aggregation", ROBUST, ids=lambda a: a.strategy)
def test_the_slices_in_memory_change_no_bit(aggregation: Aggregation, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = honest(10)
    whole = moved(aggregation, updates)
    monkeypatch.setattr(robust, "SLICE", 7)
    assert moved(aggregation, updates).tobytes() == whole.tobytes()


def test_no_sign_of_a_zero_depends_on_the_sort() -> None:
    zeros = [np.float32([value]) for value in (-0.0, 0.0, -0.0)]
    changes = [robust.median(MEDIAN, [zeros[i] for i in order]) for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1))]
    assert {change.tobytes() for change in changes} == {np.float64([0.0]).tobytes()}


def test_the_servers_momentum_and_average_apply_to_the_robust_difference() -> None:
    aggregation = Aggregation(strategy="median", momentum=0.5, learning_rate=2.0, ema=0.9)
    state = initial(aggregation, np.zeros(1, np.float32))
    for _ in range(2):
        state = fold(aggregation, state, [(np.float32([value]), 1.0) for value in (1, 1, 99)])
    assert state.model.tolist() == [2 + 2 * 1.5]
    assert state.slots.keys() == {"momentum", "ema"}


@pytest.mark.parametrize(("aggregation", "least"), [(MEDIAN, 3), (TRIMMED, 5), (KRUM, 7), (MULTI_KRUM, 10)])
def test_fewer_updates_than_the_promise_needs_are_not_folded(aggregation: Aggregation, least: int) -> None:
    assert aggregation.least_updates == least
    moved(aggregation, honest(least))
    with pytest.raises(FoldError, match=f"{least - 1} updates are fewer than the {least}"):
        moved(aggregation, honest(least - 1))


@pytest.mark.parametrize(
    ("aggregation", "quorum", "said"),
    [
        ('strategy = "median"', 2, "rounds.quorum 2 is too few: strategy 'median' needs 3 updates"),
        ('strategy = "trimmed-mean", trim = 0.1', 9, "needs 10 updates"),
        ('strategy = "krum", byzantine = 2', 6, "needs 7 updates"),
        ('strategy = "multi-krum", byzantine = 2, keep = 7', 10, "needs 11 updates"),
        ('strategy = "trimmed-mean"', 9, "trim is required with strategy 'trimmed-mean'"),
        ('strategy = "multi-krum", byzantine = 2', 9, "keep is required with strategy 'multi-krum'"),
        ('strategy = "median", byzantine = 2', 9, "byzantine is forbidden with strategy 'median'"),
    ],
)
def test_a_protocol_that_cannot_keep_the_promise_is_refused(aggregation: str, quorum: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_protocol(protocol(quorum=quorum, aggregation=aggregation))


SETTINGS = [
    'strategy = "median", momentum = 0.9',
    'strategy = "trimmed-mean", trim = 0.34, ema = 0.9',
    'strategy = "krum", byzantine = 1',
    'strategy = "multi-krum", byzantine = 1, keep = 2',
]


@pytest.mark.parametrize("aggregation", SETTINGS)
def test_a_robust_run_replays_bit_for_bit(tmp_path: Path, aggregation: str) -> None:
    world = World(tmp_path / "echo", names=("ankara", "bergen", "cadiz", "delft", "evora"))
    world.finish(protocol(rounds=3, quorum=5, aggregation=aggregation))
    assert replay(world.directory) == Replay(start=0, rounds=3, equal=True)
