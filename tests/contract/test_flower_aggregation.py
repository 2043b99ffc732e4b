"""Our fold and Flower's strategies agree: a reader who knows FedAvg and FedAdam from Flower knows ours."""

import numpy as np
import pytest
from fakes.coordinator import numbers
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM
from flwr.supercore.task_identity import TaskIdentity

from fedrad_common.protocol import Aggregation
from fedrad_server.aggregation import fold, initial

WEIGHTS = {0: 17.0, 1: 120.0, 2: 64.0}
ROUNDS = 4


def replies(model: np.ndarray, number: int) -> list[Message]:
    """What sites would send to a stock Flower strategy: whole models and their sizes."""
    return [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"model": Array(model.astype(np.float64) + difference)}),
                    "metrics": MetricRecord({"num-examples": weight}),
                }
            ),
            dst_node_id=1,
            message_type="train",
        )
        for (_, weight), difference in zip(WEIGHTS.items(), differences(number), strict=True)
    ]


def differences(number: int) -> list[np.ndarray]:
    return [0.1 * numbers(site, number, size=200) for site in WEIGHTS]


def theirs(strategy: FedAvg, model: np.ndarray) -> np.ndarray:
    model = model.astype(np.float64)
    for number in range(1, ROUNDS + 1):
        if isinstance(strategy, FedAdam):
            strategy.current_arrays = {"model": model}  # what its configure_train does
        elif isinstance(strategy, FedAvgM):
            strategy.current_arrays = ArrayRecord({"model": Array(model)})
        arrays, _ = strategy.aggregate_train(number, replies(model, number))
        assert arrays is not None
        model = arrays["model"].numpy()
    return model


def ours(aggregation: Aggregation, model: np.ndarray) -> np.ndarray:
    state = initial(aggregation, model)
    for number in range(1, ROUNDS + 1):
        state = fold(aggregation, state, zip(differences(number), WEIGHTS.values(), strict=True))
    return state.model


@pytest.mark.parametrize(
    ("strategy", "aggregation"),
    [
        (FedAvg(), Aggregation()),
        (FedAvgM(server_learning_rate=0.7, server_momentum=0.8), Aggregation(learning_rate=0.7, momentum=0.8)),
        (
            FedAdam(eta=0.05, beta_1=0.8, beta_2=0.95, tau=1e-2),
            Aggregation(strategy="fedadam", learning_rate=0.05, beta1=0.8, beta2=0.95, tau=1e-2),
        ),
    ],
    ids=["fedavg", "fedavg-momentum", "fedadam"],
)
def test_our_fold_gives_flowers_model(strategy: FedAvg, aggregation: Aggregation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)  # a Message cannot be made outside a task
    model = numbers("initial", size=200)
    np.testing.assert_allclose(ours(aggregation, model), theirs(strategy, model), rtol=0, atol=1e-6)
