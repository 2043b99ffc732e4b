"""How many bytes a protocol moves, both ways: what the policy limits, and what a preview shows."""

from dataclasses import dataclass

from fedrad_common.packing import BYTES
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import dtype_of


@dataclass(frozen=True)
class RoundBytes:
    """Of one site's largest round, in bytes; signatures, evidence and Flower's framing come on top, a few thousand."""

    model_in: int  # of each order: to train from, and once more to evaluate
    update_out: int
    histogram_out: int  # 0 where the protocol evaluates after no round
    evaluated: int  # rounds that are evaluated
    rounds: int

    @property
    def largest(self) -> int:
        """Both ways, in a round that is evaluated if there is one."""
        return self.model_in + self.update_out + (self.model_in + self.histogram_out if self.evaluated else 0)

    @property
    def whole_run(self) -> int:
        """Both ways, over all rounds, each of them once."""
        return self.rounds * (self.model_in + self.update_out) + self.evaluated * (self.model_in + self.histogram_out)


def bytes_a_round(protocol: TrainingProtocol, n_parameters: int, *, evaluates: bool = True) -> RoundBytes:
    """By the dtypes in which the protocol lets models and answers travel.

    Args:
        evaluates: whether this site answers the protocol's evaluations at all.
    """
    cells = len(protocol.task.labels) * 2 * protocol.evaluation.bins
    evaluated = len(protocol.evaluation.rounds) if evaluates else 0
    return RoundBytes(
        model_in=BYTES[protocol.rounds.dtype] * n_parameters,
        update_out=BYTES[dtype_of("train", protocol)] * n_parameters,
        histogram_out=BYTES[dtype_of("evaluate", protocol)] * cells if evaluated else 0,
        evaluated=evaluated,
        rounds=protocol.privacy.rounds,
    )
