"""Folding: what one round makes of a state and its updates."""

import io

import numpy as np
import pytest
from fakes.coordinator import numbers

from fedrad_common.errors import FedradError, FormatError
from fedrad_common.protocol import Aggregation
from fedrad_server.aggregation import State, decode_state, fold, initial, released, same, warm_decay, write_state

ADAM = Aggregation(strategy="fedadam", learning_rate=0.1, ema=0.9)


def encode_state(state: State) -> bytes:
    stream = io.BytesIO()
    write_state(state, stream)
    return stream.getvalue()


def updates(n: int = 3, number: int = 1) -> list[tuple[np.ndarray, float]]:
    return [(numbers(site, number, size=5), 10.0 * (site + 1)) for site in range(n)]


def folded(aggregation: Aggregation, rounds: int) -> State:
    state = initial(aggregation, numbers("initial", size=5))
    for number in range(rounds):
        state = fold(aggregation, state, updates(number=number))
    return state


def test_fedavg_adds_the_mean_difference_weighted_by_declared_size() -> None:
    state = initial(Aggregation(), np.zeros(2, np.float32))

    after = fold(Aggregation(), state, [(np.float32([1, 0]), 30.0), (np.float32([0, 1]), 10.0)])

    assert after.model.tolist() == [0.75, 0.25]
    assert after.model.dtype == np.float32


def test_the_servers_learning_rate_scales_the_step() -> None:
    state = initial(Aggregation(), np.ones(1, np.float32))
    assert fold(Aggregation(learning_rate=0.5), state, [(np.float32([1]), 3.0)]).model.tolist() == [1.5]


def test_momentum_carries_earlier_rounds_on() -> None:
    aggregation = Aggregation(momentum=0.5)
    state = initial(aggregation, np.zeros(1, np.float32))
    for _ in range(2):
        state = fold(aggregation, state, [(np.float32([1]), 1.0)])
    assert state.model.tolist() == [1 + 1.5]


def test_the_sum_is_kept_in_double_precision() -> None:
    """In float32 the second update would vanish beside the first."""
    after = fold(Aggregation(), initial(Aggregation(), np.zeros(1, np.float32)), [(np.float32([v]), 1.0) for v in (1e8, 3.0, -1e8)])
    assert after.model.tolist() == [1.0]


def test_the_moving_average_warms_up_and_is_what_gets_released() -> None:
    aggregation = Aggregation(ema=0.9)
    state = fold(aggregation, initial(aggregation, np.zeros(1, np.float32)), [(np.float32([1]), 1.0)])

    assert warm_decay(0.9, 1) == pytest.approx(2 / 11)
    assert warm_decay(0.9, 10_000) == 0.9
    assert released(state).tolist() == pytest.approx([9 / 11])
    assert state.model.tolist() == [1.0]


def test_without_a_moving_average_the_model_itself_is_released() -> None:
    state = folded(Aggregation(), 2)
    assert released(state) is state.model


@pytest.mark.parametrize("aggregation", [Aggregation(), Aggregation(momentum=0.9), ADAM])
def test_a_stored_state_goes_on_as_if_it_had_never_left_memory(aggregation: Aggregation) -> None:
    before = folded(aggregation, 2)
    stored = decode_state(encode_state(before), before.model, what="state.npz")

    assert same(stored, before)
    assert same(fold(aggregation, stored, updates()), fold(aggregation, before, updates()))


def test_a_state_without_its_moments_would_go_on_differently() -> None:
    before = folded(ADAM, 3)
    forgotten = State(before.model, before.step, initial(ADAM, before.model).slots)
    assert not same(fold(ADAM, forgotten, updates()), fold(ADAM, before, updates()))


def test_the_same_state_gives_the_same_bytes() -> None:
    assert encode_state(folded(ADAM, 2)) == encode_state(folded(ADAM, 2))


@pytest.mark.parametrize("content", [b"", b"no zip", encode_state(initial(ADAM, np.zeros(4, np.float32)))[:-9]])
def test_a_damaged_state_is_refused(content: bytes) -> None:
    with pytest.raises(FormatError, match=r"state\.npz"):
        decode_state(content, np.zeros(4, np.float32), what="state.npz")


def test_a_state_of_another_models_length_is_refused() -> None:
    with pytest.raises(FormatError, match="another length"):
        decode_state(encode_state(initial(ADAM, np.zeros(4, np.float32))), np.zeros(5, np.float32), what="state.npz")


def test_an_overflowing_step_stops_the_fold() -> None:
    aggregation = Aggregation(learning_rate=1e38)
    with pytest.raises(FedradError, match="round 1: the folded model is not finite"):
        fold(aggregation, initial(aggregation, np.zeros(1, np.float32)), [(np.float32([1e6]), 1.0)])


def test_a_round_of_nobody_is_no_round() -> None:
    with pytest.raises(ValueError, match="no update"):
        fold(Aggregation(), folded(Aggregation(), 1), [])
