"""A site's own privacy parameters for one protocol, fixed at approval from its declared size; the coordinator sends none of them."""

from __future__ import annotations

from typing import Annotated, Literal

from fedrad_common.canonical import Sha256
from fedrad_common.config import Section
from pydantic import Field, PositiveInt


class Plan(Section):
    """Constants of a run at this site. `noise_multiplier` 0 means: no privacy, every release is marked."""

    format: Literal["fedrad-plan-1"] = "fedrad-plan-1"
    protocol: Sha256
    declared_size: PositiveInt  # N, patients, as typed; never the count
    sampling_rate: Annotated[float, Field(gt=0, le=1)]  # q = min(1, B / N), of each step
    expected_batch: Annotated[float, Field(gt=0)]  # q × N, the divisor of every step's noisy sum
    noise_multiplier: Annotated[float, Field(ge=0)]  # sigma: the noise's standard deviation over the clip norm
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon: Annotated[float, Field(gt=0)] | None  # of the whole run (PRV, upper); None is no bound
    evaluation_noise: Annotated[float, Field(ge=0)]  # standard deviation of each histogram cell, in patients; 0 is exact
