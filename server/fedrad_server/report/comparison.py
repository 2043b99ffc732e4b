"""A simulation's comparison of arms (each hospital alone, federated, pooled), as its `result/comparison.json` holds it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fedrad_common.config import Section

Unit = Annotated[float, Field(ge=0, le=1)]
Bounds = tuple[float, float]


class Arm(Section):
    """One way of training and what its model reached on patients that none of the arms saw."""

    model_config = ConfigDict(extra="ignore")  # a newer simulation may know more of an arm than this page shows

    name: str
    kind: Literal["local", "federated", "pooled"]
    private: bool
    site: str | None = None  # of a local arm
    n: Annotated[int, Field(ge=0)]  # cases that it was scored on
    auc: float | None = None
    auc_ci: Bounds | None = None  # 95 %
    brier: float | None = None
    brier_ci: Bounds | None = None
    epsilon: float | None = None  # the largest of its sites; None is no bound
    delta: float | None = None
    steps: Annotated[int, Field(ge=0)] = 0
    bytes_out: Annotated[int, Field(ge=0)] = 0  # of all sites, over the whole run
    roc: tuple[tuple[float, float], ...] = ()  # (false positive rate, true positive rate), rising
    reliability: tuple[tuple[float, float, float], ...] = ()  # (mean score, observed share, images or patients)


class Comparison(Section):
    model_config = ConfigDict(extra="ignore")

    format: Literal["fedrad-comparison-1"] = "fedrad-comparison-1"
    unit: Literal["patient", "image"]  # what a record of privacy and of every interval is
    arms: Annotated[tuple[Arm, ...], Field(max_length=1000)]
    seeded: bool = False
