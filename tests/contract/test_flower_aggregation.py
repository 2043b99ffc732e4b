"""Our fold and Flower's strategies agree: a reader who knows FedAvg, FedAdam, FedMedian or Krum from Flower knows ours."""

import numpy as np
import pytest
from fakes.coordinator import numbers
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.supercore.task_identity import TaskIdentity

from fedrad_common.protocol import Aggregation
from fedrad_server import robust
from fedrad_server.aggregation import fold, initial

WEIGHTS = {0: 17.0, 1: 120.0, 2: 64.0}
ROUNDS = 4


def replies(model: np.ndarray, number: int, weights: dict[int, float]) -> list[Message]:
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
        for (_, weight), difference in zip(weights.items(), differences(number, weights), strict=True)
    ]


def differences(number: int, weights: dict[int, float]) -> list[np.ndarray]:
    return [0.1 * numbers(site, number, size=200) for site in weights]


def theirs(strategy: FedAvg, model: np.ndarray, weights: dict[int, float]) -> np.ndarray:
    model = model.astype(np.float64)
    for number in range(1, ROUNDS + 1):
        if isinstance(strategy, FedAdam):
            strategy.current_arrays = {"model": model}  # what its configure_train does
        elif isinstance(strategy, FedAvgM):
            strategy.current_arrays = ArrayRecord({"model": Array(model)})
        arrays, _ = strategy.aggregate_train(number, replies(model, number, weights))
        assert arrays is not None
        model = arrays["model"].numpy()
    return model


def ours(aggregation: Aggregation, model: np.ndarray, weights: dict[int, float]) -> np.ndarray:
    state = initial(aggregation, model)
    for number in range(1, ROUNDS + 1):
        state = fold(aggregation, state, zip(differences(number, weights), weights.values(), strict=True))
    return state.model


@pytest.fixture(autouse=True)
def _inside_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)  # a Message cannot be made outside a task


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
def test_our_fold_gives_flowers_model(strategy: FedAvg, aggregation: Aggregation) -> None:
    model = numbers("initial", size=200)
    np.testing.assert_allclose(ours(aggregation, model, WEIGHTS), theirs(strategy, model, WEIGHTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "aggregation"),
    [
        (FedMedian(), Aggregation(strategy="median")),
        (FedTrimmedAvg(beta=0.25), Aggregation(strategy="trimmed-mean", trim=0.25)),
        (Krum(num_malicious_nodes=2), Aggregation(strategy="krum", byzantine=2)),
        (MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4), Aggregation(strategy="multi-krum", byzantine=2, keep=4)),
    ],
    ids=["median", "trimmed-mean", "krum", "multi-krum"],
)
@pytest.mark.parametrize("sites", [8, 9, 10])
def test_our_robust_folds_give_flowers_models(strategy: FedAvg, aggregation: Aggregation, sites: int) -> None:
    model, weights = numbers("initial", size=200), dict.fromkeys(range(sites), 1.0)
    np.testing.assert_allclose(ours(aggregation, model, weights), theirs(strategy, model, weights), rtol=0, atol=1e-6)


def test_krum_keeps_whom_flowers_krum_keeps_where_the_scores_are_close() -> None:
    """In few dimensions every neighbour counts: one more or one less in a score keeps other sites."""
    for seed in range(40):
        updates = [numbers(seed, site, size=2).astype(np.float64) for site in range(9)]
        contents = [RecordDict({"arrays": ArrayRecord({"model": Array(update)})}) for update in updates]
        kept = select_multikrum(contents, num_malicious_nodes=2, num_nodes_to_select=3)
        found = robust.select(updates, byzantine=2, keep=3)
        assert found == sorted(next(i for i, one in enumerate(contents) if one is content) for content in kept)


def test_flowers_multikrum_believes_the_number_of_examples_and_ours_does_not() -> None:
    model, weights = numbers("initial", size=200), {**dict.fromkeys(range(9), 1.0), 3: 1e9}
    settings = Aggregation(strategy="multi-krum", byzantine=2, keep=5)
    even = ours(settings, model, dict.fromkeys(weights, 1.0))
    assert np.array_equal(ours(settings, model, weights), even)
    flowers = theirs(MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5), model, weights)
    assert np.abs(flowers - even).max() > 1e-2
