"""Findings of an image, each present or absent, independent of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_VECTOR = 64  # float32 numbers: two vectors of the widest processors


def n_outputs(labels: Sequence[str]) -> int:
    return len(labels)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the labels that the image has; NaN is unlabelled. (n, L), (n, L) -> (n,)."""
    labelled = ~torch.isnan(targets)
    safe = torch.where(labelled, targets, torch.zeros_like(targets))
    n_labels = outputs.shape[1]
    each = functional.binary_cross_entropy_with_logits(_whole_vectors(outputs), _whole_vectors(safe), reduction="none")[:, :n_labels]
    each = torch.where(labelled, each, torch.zeros_like(each))
    return each.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)


def score(outputs: Tensor) -> Tensor:
    return torch.sigmoid(_whole_vectors(outputs))[:, : outputs.shape[1]]


def _whole_vectors(rows: Tensor) -> Tensor:
    """Filled up with zeros to whole vectors of the processor: an exponential's last bit differs where it ends in the middle of one, and
    then with an image's place in the batch, that is, with who else is there (privacy.md, rules 5 and 7)."""
    return functional.pad(rows, (0, -rows.shape[1] % _VECTOR))
