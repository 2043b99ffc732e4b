"""What a round leaves for the next one: model, released model, the aggregation's state, each by its hash."""

from pathlib import Path
from typing import TypedDict

from fedrad_common.files import atomic_stream, sha256_file, write_atomic
from fedrad_common.packing import Vector, rounded, vector_hash, wire_bytes
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Sent
from fedrad_server.aggregation import State, released, write_state


class Checkpoint(TypedDict):
    model: str
    released: str
    state: str
    sent: Sent


def write_checkpoint(folder: Path, protocol: TrainingProtocol, state: State) -> Checkpoint:
    """Model, released model where it differs, state; returns their hashes, as the manifest names them."""
    outcome = released(state)
    write_atomic(folder / "model.f32", wire_bytes(state.model))
    if protocol.aggregation.ema:
        write_atomic(folder / "released.f32", wire_bytes(outcome))
    with atomic_stream(folder / "state.npz") as stream:
        write_state(state, stream)
    trained = _hashes(state.model, protocol)
    given = trained if outcome is state.model else _hashes(outcome, protocol)
    sent, stored = Sent(train=trained[1], evaluate=given[1]), sha256_file(folder / "state.npz")
    return {"model": trained[0], "released": given[0], "state": stored, "sent": sent}


def _hashes(vector: Vector, protocol: TrainingProtocol) -> tuple[str, str]:
    """As it is stored, and as it travels."""
    stored, dtype = vector_hash(vector), protocol.rounds.dtype
    return stored, stored if dtype == "float32" else vector_hash(rounded(vector, dtype), dtype)
