"""State in, state out: folds a round's stored updates, in site order, in float64, so that a replay gives the same bits.

Flower's strategies are not called: they average models where ours are differences, want every update in memory at once, and keep
their moments in attributes. The rules are theirs, though, and `tests/contract` holds both to the same numbers.
"""

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import FedradError, FormatError
from fedrad_common.packing import Vector
from fedrad_common.protocol import Aggregation
from fedrad_server.robust import RULES, SLICE, Update

FORMAT = "fedrad-state-1"

Slot = npt.NDArray[np.float64]  # (n_parameters,)
Slots = dict[str, Slot]


class FoldError(FedradError):
    """These updates make no model; the run pauses rather than guess."""


@dataclass(frozen=True)
class State:
    """All that the next round depends on."""

    model: Vector  # (n_parameters,) float32: what the sites train from
    step: int = 0  # rounds folded so far
    slots: Mapping[str, Slot] = field(default_factory=dict)  # momentum | m, v | ema, as the protocol asks


def initial(aggregation: Aggregation, model: Vector) -> State:
    """The state before the first round: zero moments, and the moving average at the initial model."""
    names = ("m", "v") if aggregation.strategy == "fedadam" else ("momentum",) if aggregation.momentum else ()
    slots: Slots = {name: np.zeros(model.shape, np.float64) for name in names}
    if aggregation.ema:
        slots["ema"] = model.astype(np.float64)
    return State(np.array(model, np.float32), 0, slots)


def fold(aggregation: Aggregation, state: State, updates: Iterable[tuple[Update, float]]) -> State:
    """One round: the weighted mean of the differences, or their robust middle, in which all weigh the same; the server's step; the average.

    Args:
        updates: (difference, weight) in site order; differences (n_parameters,), may be memory maps: a mean reads one at a time, a robust
            strategy a slice of all; weights are declared sizes.

    Raises:
        FoldError: too few updates for the strategy, or the new model is not finite.
    """
    change = _combined(aggregation, updates, n_parameters=state.model.size)
    step = state.step + 1
    decay = warm_decay(aggregation.ema, step)
    model, slots = np.empty_like(state.model), {name: np.empty_like(slot) for name, slot in state.slots.items()}
    for start in range(0, model.size, SLICE):  # so that what is in between stays in the processor's cache
        part = slice(start, start + SLICE)
        before = {name: slot[part] for name, slot in state.slots.items()}
        moved, after = STRATEGIES[aggregation.strategy](aggregation, step, change[part], before)
        with np.errstate(over="ignore"):
            model[part] = state.model[part] + moved
        if aggregation.ema:
            after["ema"] = decay * before["ema"] + (1 - decay) * model[part]
        for name, slot in after.items():
            slots[name][part] = slot
    if not np.isfinite(model).all():
        raise FoldError(f"round {step}: the folded model is not finite", hint="lower aggregation.learning_rate or training.learning_rate")
    return State(model, step, slots)


def _combined(aggregation: Aggregation, updates: Iterable[tuple[Update, float]], *, n_parameters: int) -> Slot:
    rule = RULES.get(aggregation.strategy)
    if rule is None:
        return weighted_mean(updates, n_parameters=n_parameters)
    differences = [difference for difference, _ in updates]
    if len(differences) < aggregation.least_updates:
        raise FoldError(
            f"strategy '{aggregation.strategy}': {len(differences)} updates are fewer than the {aggregation.least_updates} that it needs",
            hint="raise rounds.quorum, or choose a strategy for fewer sites",
        )
    return rule(aggregation, differences)


def released(state: State) -> Vector:
    """What is evaluated and given out: the moving average where there is one, else the model."""
    return state.slots["ema"].astype(np.float32) if "ema" in state.slots else state.model


def weighted_mean(updates: Iterable[tuple[Update, float]], *, n_parameters: int) -> Slot:
    """(n_parameters,) float64. Raises ValueError when there is nothing to average."""
    total, weights = np.zeros(n_parameters, np.float64), 0.0
    for difference, weight in updates:
        for start in range(0, n_parameters, SLICE):
            part = slice(start, start + SLICE)
            total[part] += np.multiply(difference[part], weight, dtype=np.float64)
        weights += weight
    if weights <= 0:
        raise ValueError("no update to fold")
    total /= weights
    return total


def warm_decay(ema: float, step: int) -> float:
    """The average leaves the initial model fast and grows slow later: min(ema, (1 + t) / (10 + t)).

    The rule of TensorFlow's ExponentialMovingAverage with `num_updates`; its weights sum to 1 at every step, so nothing is left to correct.
    """
    return min(ema, (1 + step) / (10 + step))


# A slice of the coordinates, which are independent of each other.
Strategy = Callable[[Aggregation, int, Slot, Mapping[str, Slot]], tuple[Slot, Slots]]


def fedavg(aggregation: Aggregation, step: int, change: Slot, slots: Mapping[str, Slot]) -> tuple[Slot, Slots]:
    """The step of every strategy but fedadam. McMahan et al. 2017; with server momentum, Hsu et al. 2019 (Flower's FedAvgM)."""
    del step
    if not aggregation.momentum:
        return aggregation.learning_rate * change, {}
    momentum = aggregation.momentum * slots["momentum"] + change
    return aggregation.learning_rate * momentum, {"momentum": momentum}


def fedadam(aggregation: Aggregation, step: int, change: Slot, slots: Mapping[str, Slot]) -> tuple[Slot, Slots]:
    """Reddi et al. 2021, algorithm 2, with the bias-corrected rate of Flower's FedAdam (its exponent is the round plus one)."""
    m = aggregation.beta1 * slots["m"] + (1 - aggregation.beta1) * change
    v = aggregation.beta2 * slots["v"] + (1 - aggregation.beta2) * change**2
    corrected = math.sqrt(1 - aggregation.beta2 ** (step + 1)) / (1 - aggregation.beta1 ** (step + 1))
    return aggregation.learning_rate * corrected * m / (np.sqrt(v) + aggregation.tau), {"m": m, "v": v}


STRATEGIES: dict[str, Strategy] = {"fedadam": fedadam, **dict.fromkeys(("fedavg", *RULES), fedavg)}


def write_state(state: State, stream: BinaryIO) -> None:
    """Everything but the model, which lies beside it, as an .npz; the same state gives the same bytes."""
    slots: dict[str, Any] = {f"slot_{name}": slot for name, slot in state.slots.items()}
    np.savez(stream, format=np.array(FORMAT), step=np.array(state.step), **slots)


def decode_state(content: bytes, model: Vector, *, what: str) -> State:
    """Raises FormatError when `content` is no state of this format, or of a model of another length."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if str(arrays["format"]) != FORMAT:
                raise FormatError(f"{what}: format {str(arrays['format'])!r} is not {FORMAT!r}", hint="another version of fedrad wrote it")
            slots = {name.removeprefix("slot_"): arrays[name] for name in arrays.files if name.startswith("slot_")}
            step = int(arrays["step"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise FormatError(f"{what}: is not an aggregation state", hint="restore it from a backup, or replay the run") from None
    if any(slot.shape != model.shape or slot.dtype != np.float64 for slot in slots.values()):
        raise FormatError(f"{what}: belongs to a model of another length than {model.size}")
    return State(model, step, slots)


def same(one: State, other: State) -> bool:
    """Equal to the last bit, the sign of zero included."""
    return (
        one.step == other.step
        and one.model.tobytes() == other.model.tobytes()
        and one.slots.keys() == other.slots.keys()
        and all(one.slots[name].tobytes() == other.slots[name].tobytes() for name in one.slots)
    )
