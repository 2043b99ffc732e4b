"""What is learned, by name. One file a task, the same functions in each; loaded when asked for, so that `echo` never needs torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from fedrad_common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TASKS: dict[str, str] = {
    "classification": "fedrad_common.tasks.classification",
    "echo": "fedrad_common.tasks.echo",
}


class Task(Protocol):
    """The functions of a task's module."""

    def n_outputs(self, labels: Sequence[str]) -> int: ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, n_outputs), (n, n_labels) with NaN for unlabelled -> (n,) loss of each image by itself; 0 without any label."""
        ...

    def score(self, outputs: Tensor) -> Tensor:
        """(n, n_outputs) -> (n, n_labels) in [0, 1]."""
        ...


def task(kind: str) -> Task:
    if kind not in TASKS:
        raise ConfigError(f"task.kind: {kind!r} is not known", hint=f"known tasks: {', '.join(TASKS)}")
    return cast("Task", importlib.import_module(TASKS[kind]))
