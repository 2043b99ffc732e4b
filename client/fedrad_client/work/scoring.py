"""Forward passes that want no gradient: fixed features and validation scores, always so many images at a time.

Kernels are chosen by the batch's size. In a last, shorter batch the last bits of a patient's score were seen to differ with how many
patients there are, and one patient more could move another into the next cell of the histogram (privacy.md, rules 5 and 11). A batch is
therefore filled up with blank images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedrad_client.work.tensors import choose_device, to_unit_range

if TYPE_CHECKING:
    from fedrad_client.cohort.dataset import Dataset, Pixels
    from fedrad_client.config import Resources

_AT_A_TIME = 16  # images, on a CPU; of fewer than 8, kernels were seen whose last bits depend on an image's place in the batch
Forward = Callable[[Tensor], Tensor]


def fixed_front(network: nn.Module) -> Forward | None:
    """The part of a network that is not learned and comes before `from_features`; None without one."""
    return cast("Forward | None", getattr(network, "features", None))


def n_features(network: nn.Module, *, height: int, width: int) -> int:
    """How many numbers the fixed front makes of one image; 0 without one."""
    front = fixed_front(network)
    with torch.no_grad():
        return 0 if front is None else front(torch.zeros(1, 1, height, width)).numel()


def features_of(pixels: Pixels, front: Forward) -> Tensor:
    """(n, H, W) stored values, n ≥ 1, to what the fixed front makes of each, on the CPU."""
    with torch.no_grad():
        parts = (to_unit_range(pixels[start : start + _AT_A_TIME]) for start in range(0, len(pixels), _AT_A_TIME))
        return torch.cat([_filled(front, part, _AT_A_TIME) for part in parts])


def patient_scores(
    dataset: Dataset, network: nn.Module, *, score: Forward, resources: Resources, features: Tensor | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """(n_patients, n_labels) scores, the mean over each patient's images, and classes, the most over them; NaN is unlabelled."""
    device = choose_device(resources.device)
    size = _AT_A_TIME if device.type == "cpu" else max(1, resources.micro_batch // _AT_A_TIME) * _AT_A_TIME
    network.eval().to(device)
    forward = network if features is None else cast("Forward", network.from_features)
    n_labels = dataset.labels.shape[1]
    totals = np.zeros((dataset.n_patients, n_labels))
    with torch.no_grad():
        for start in range(0, len(dataset.owner), size):
            rows = slice(start, start + size)
            images = (to_unit_range(dataset.pixels[rows]) if features is None else features[rows]).to(device)
            # The score of blank images too: of a shorter vector the last elements go another way through the processor.
            found = _filled(lambda batch: score(forward(batch)), images, size)
            np.add.at(totals, dataset.owner[rows], found.double().cpu().numpy())
    counts = np.bincount(dataset.owner, minlength=dataset.n_patients)
    classes = np.full((dataset.n_patients, n_labels), np.nan, dtype=np.float32)
    np.fmax.at(classes, dataset.owner, dataset.labels)
    return totals / np.maximum(counts, 1)[:, None], classes


def _filled(forward: Forward, images: Tensor, size: int) -> Tensor:
    """`forward` of a batch that blank images fill up to `size`, without what it made of these."""
    return forward(torch.cat([images, images.new_zeros((size - len(images), *images.shape[1:]))]))[: len(images)]
