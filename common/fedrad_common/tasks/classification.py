"""Findings of an image, each present or absent, independent of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def n_outputs(labels: Sequence[str]) -> int:
    return len(labels)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the labels that the image has; NaN is unlabelled. (n, L), (n, L) -> (n,)."""
    labelled = ~torch.isnan(targets)
    safe = torch.where(labelled, targets, torch.zeros_like(targets))
    each = functional.binary_cross_entropy_with_logits(outputs, safe, reduction="none")
    each = torch.where(labelled, each, torch.zeros_like(each))
    return each.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)


def score(outputs: Tensor) -> Tensor:
    return torch.sigmoid(outputs)
