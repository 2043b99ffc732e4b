"""Folds the stored updates of the signed manifests once more and compares bit for bit: the run's model is what its sites made."""

from dataclasses import dataclass
from pathlib import Path

from fedrad_common.errors import FormatError
from fedrad_server.aggregation import State, fold, initial, same
from fedrad_server.history import RunRecords, read_run, weighted_updates


@dataclass(frozen=True)
class Replay:
    start: int  # the checkpoint that was begun from; 0, unless updates were deleted to bound the disk
    rounds: int  # folded and equal
    equal: bool
    first_difference: int | None = None  # a round
    reason: str = ""  # why that round differs


def replay(directory: Path) -> Replay:
    """A run that is being played meanwhile may delete what was just about to be folded: then from where it now begins.

    Raises:
        FormatError: the launch or the chain of manifests itself is not what was signed.
        MisuseError: it is no run.
    """
    while True:
        records = read_run(directory, files=False)
        outcome = _replayed(records)
        if outcome.equal or read_run(directory, files=False).deleted == records.deleted:
            return outcome


def _replayed(records: RunRecords) -> Replay:
    start = number = records.deleted.through
    try:
        state = records.state(start)
        if start == 0:
            _compare(state, initial(records.protocol.aggregation, records.model(0)))
        for number in range(start + 1, records.round + 1):
            state = _fold_again(records, state, number)
    except FormatError as error:
        return Replay(start, max(number - start - 1, 0), equal=False, first_difference=number, reason=str(error))
    return Replay(start, records.round - start, equal=True)


def _fold_again(records: RunRecords, state: State, number: int) -> State:
    envelopes = records.envelopes(number, "train")
    state = fold(records.protocol.aggregation, state, weighted_updates(records.directory, envelopes))
    _compare(state, records.state(number))
    records.released(number)
    return state


def _compare(state: State, stored: State) -> None:
    if not same(state, stored):
        raise FormatError("the folded updates do not give the stored model")
