"""A site's own privacy parameters for one protocol, fixed at approval from its declared size; the coordinator sends none of them."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from fedrad_common.canonical import Sha256
from fedrad_common.config import Section
from fedrad_common.protocol import TrainingProtocol

# A site whose declared size leaves fewer validation patients than this does not evaluate: its histogram would be noise, or a person.
LEAST_VALIDATION_PATIENTS = 10


class Plan(Section):
    """Constants of a run at this site. `noise_multiplier` 0 means: no privacy, every release is marked."""

    format: Literal["fedrad-plan-1"] = "fedrad-plan-1"
    protocol: Sha256
    n_parameters: PositiveInt  # that are trained and sent, so that an order for another network is refused before it costs anything
    n_whole: PositiveInt | None = None  # of the whole network, where a part of it is trained
    declared_size: PositiveInt  # N, patients, as typed; never the count
    sampling_rate: Annotated[float, Field(gt=0, le=1)]  # q = min(1, B / N), of each step
    expected_batch: Annotated[float, Field(gt=0)]  # q × N, the divisor of every step's noisy sum
    noise_multiplier: Annotated[float, Field(ge=0)]  # sigma: the noise's standard deviation over the clip norm
    delta: Annotated[float, Field(gt=0, lt=1)]  # of the ledger
    epsilon: Annotated[float, Field(gt=0)] | None  # of the whole run (PRV, upper); None is no bound
    evaluation: Literal["noised", "exact", "none"]
    evaluation_noise: Annotated[float, Field(ge=0)]  # standard deviation of each histogram cell, in patients; 0 is exact

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The plan of a network that is trained whole keeps the bytes that it had before the key existed."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if (key, value) != ("n_whole", None)}


def make_plan(
    protocol: TrainingProtocol,
    *,
    n_parameters: int,
    declared_size: int,
    delta: float,
    numeric_delta: float,
    least_noise: float,
    validation_fraction: float,
) -> Plan:
    """Compute q and sigma for one site. Depends on the declared size alone, never on the data (privacy.md, rules 2 and 3).

    Args:
        numeric_delta: the part of `delta` that is set aside for the noise's arithmetic.
    """
    from fedrad_common.accounting import GaussianEvent, calibrate, epsilon_prv

    privacy = protocol.privacy
    sampling_rate = min(1.0, privacy.expected_batch / declared_size)
    exact_delta = delta - numeric_delta
    noise_multiplier, epsilon = 0.0, None
    if privacy.epsilon is not None:
        enough = calibrate(epsilon=privacy.epsilon, delta=exact_delta, sampling_rate=sampling_rate, steps=privacy.steps)
        noise_multiplier = max(enough, least_noise)
        epsilon = epsilon_prv([GaussianEvent(noise_multiplier, sampling_rate, privacy.steps)], exact_delta)
    evaluation = protocol.evaluation.release if protocol.evaluation.rounds else "none"
    if declared_size * validation_fraction < LEAST_VALIDATION_PATIENTS:
        evaluation = "none"
    return Plan(
        protocol=protocol.hash,
        n_parameters=n_parameters,
        declared_size=declared_size,
        sampling_rate=sampling_rate,
        expected_batch=sampling_rate * declared_size,
        noise_multiplier=noise_multiplier,
        delta=delta,
        epsilon=epsilon,
        evaluation=evaluation,
        evaluation_noise=histogram_noise(protocol, exact_delta) if evaluation == "noised" else 0.0,
    )


def histogram_noise(protocol: TrainingProtocol, delta: float) -> float:
    """Standard deviation of each cell so that all evaluation rounds together cost `evaluation.epsilon`.

    One patient moves one cell per label: L2 sensitivity sqrt(n_labels). zCDP of the discrete Gaussian (Canonne, Kamath, Steinke 2020):
    rho = releases × n_labels / (2 sigma²), and epsilon = rho + 2 sqrt(rho ln(1/delta)) (Bun and Steinke 2016).
    """
    assert protocol.evaluation.epsilon is not None
    log_inverse_delta = math.log(1 / delta)
    rho = (math.sqrt(log_inverse_delta + protocol.evaluation.epsilon) - math.sqrt(log_inverse_delta)) ** 2
    return math.sqrt(len(protocol.evaluation.rounds) * len(protocol.task.labels) / (2 * rho))
