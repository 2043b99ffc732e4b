"""A step's images in micro-batches of whole patients: one constant shape, fewer images where memory runs out, the drawn set untouched.

Why one shape: kernels are chosen by the batch's size, so in float32 the last bits of a patient's gradient would differ with who else is
drawn, and weights chosen by an adversary can make much of last bits: the clip scales them up to the whole bound. A batch that the drawn
patients do not fill is therefore filled with blank images, whose gradients are thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedrad_client.work.tensors import to_unit_range
from fedrad_common.augmentation import DRAWS, augment

if TYPE_CHECKING:
    from fedrad_client.cohort.dataset import Dataset
    from fedrad_client.privacy.noise import NoiseSource

_CACHED_IMAGES = 64  # at a time on a CPU: more leave its cache and cost time
_LEAST_VIEWS = 16  # and a multiple of it: of other numbers, kernels were seen whose last bits depend on an image's place in the batch
# How allocators of memory say no where they have no exception of their own: torch's on a CPU, cuBLAS and cuDNN.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


@dataclass(frozen=True)
class Draw:
    """A step's images, fixed before any of them is computed."""

    rows: npt.NDArray[np.int64]  # (n,) of the data set, ascending
    owner: npt.NDArray[np.int64]  # (n,) the patient, ascending
    weights: npt.NDArray[np.float32]  # (n,) those of one patient add up to 1
    views: npt.NDArray[np.float32]  # (n, views, augmentation.DRAWS) in [-1, 1): what each view is made with


@dataclass(frozen=True)
class Batch:
    """Whole patients of one step, or some images of one; blank images at the end are patients of their own, without weight or label."""

    images: Tensor  # (n × views, 1, H, W) float32 in [0, 1], or their features; an image's views follow each other
    targets: Tensor  # (n × views, n_labels); NaN is unlabelled
    weights: Tensor  # (n × views,); those of one patient add up to 1
    owner: Tensor  # (n,) ascending from 0 without gaps
    n_patients: int  # without the blank ones
    views: int

    def to(self, device: torch.device) -> Batch:
        images, targets, weights, owner = (part.to(device) for part in (self.images, self.targets, self.weights, self.owner))
        return replace(self, images=images, targets=targets, weights=weights, owner=owner)

    def cut(self, chunk: slice, *, filled_to: int = 0) -> Batch:
        """The images of `chunk`, and blank ones up to `filled_to`."""
        blank, each = max(0, filled_to - (chunk.stop - chunk.start)), slice(chunk.start * self.views, chunk.stop * self.views)
        owner = self.owner[chunk] - self.owner[chunk.start]
        n_patients = int(owner[-1]) + 1
        return Batch(
            images=_filled(self.images[each], blank * self.views, 0.0),
            targets=_filled(self.targets[each], blank * self.views, math.nan),
            weights=_filled(self.weights[each], blank * self.views, 0.0),
            owner=torch.cat([owner, torch.arange(n_patients, n_patients + blank)]),
            n_patients=n_patients,
            views=self.views,
        )


Work = Callable[[Iterator[Batch]], None]  # on whole patients: all of their batches


@dataclass(frozen=True)
class Source:
    """What batches are made from: data set and augmentation, or features computed before."""

    dataset: Dataset
    augmentation: str
    views: int
    features: Tensor | None

    def batch(self, draw: Draw, part: slice) -> Batch:
        """The images of `part`, in the views that were drawn for them."""
        rows = draw.rows[part]
        patients, owner = np.unique(draw.owner[part], return_inverse=True)
        return Batch(
            images=self._views_of(rows, draw.views[part]),
            targets=torch.from_numpy(self.dataset.labels[rows]).repeat_interleave(self.views, dim=0),
            weights=torch.from_numpy(draw.weights[part] / np.float32(self.views)).repeat_interleave(self.views),
            owner=torch.from_numpy(owner.astype(np.int64)),
            n_patients=len(patients),
            views=self.views,
        )

    def _views_of(self, rows: npt.NDArray[np.int64], drawn: npt.NDArray[np.float32]) -> Tensor:
        if self.features is not None:
            return self.features[torch.from_numpy(rows)]
        images = to_unit_range(self.dataset.pixels[rows]).repeat_interleave(self.views, dim=0)
        return augment(self.augmentation, images, torch.from_numpy(drawn).flatten(0, 1))


def draw_images(
    owner: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], *, at_most: int, views: int, noise: NoiseSource
) -> Draw:  # fmt: skip
    """The given patients' images and views; of a patient with more than `at_most` images, that many at random."""
    rows = drawn_images(owner, patients, at_most=at_most, noise=noise)
    _, place, counts = np.unique(owner[rows], return_inverse=True, return_counts=True)
    return Draw(rows, owner[rows], (1.0 / counts[place]).astype(np.float32), noise.uniform((len(rows), views, DRAWS)))


def drawn_images(
    owner: npt.NDArray[np.int64], patients: npt.NDArray[np.int64], *, at_most: int, noise: NoiseSource
) -> npt.NDArray[np.int64]:
    """Row numbers of the given patients' images, ascending; of a patient with more than `at_most`, that many at random."""
    first, last = np.searchsorted(owner, patients, side="left"), np.searchsorted(owner, patients, side="right")
    kept = []
    for start, stop in zip(first.tolist(), last.tolist(), strict=True):
        rows = np.arange(start, stop)
        if len(rows) > at_most:
            rows = np.sort(rows[np.argsort(noise.integers(2**62, len(rows)))[:at_most]])
        kept.append(rows)
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def images_at_a_time(micro_batch: int, *, expected_batch: float, views: int, device: str, most_of_a_patient: int = 1) -> int:
    """Of constants alone, within what fits: the larger, the less each image costs, but half of it on average is blanks.

    Measured on a CPU, one part more costs about as much as 8 images; the least of that and of the blanks is at 4 √images, and twice that
    where patients may bring so many images that whole ones would leave much room. A GPU takes a step at once.
    """
    step = max(1.0, expected_batch * views)
    if device == "cpu":
        wanted, most = 1 << round(math.log2(4 * math.sqrt(step))), min(micro_batch, _CACHED_IMAGES)
        wanted *= 2 if 4 * most_of_a_patient * views > wanted else 1
    else:
        wanted, most = 1 << math.ceil(math.log2(step * most_of_a_patient)), micro_batch
    return in_whole_vectors(min(wanted, most) // views, views)


def in_whole_vectors(images: int, views: int) -> int:
    """At most so many images, but at least the least: a number whose views are a multiple of `_LEAST_VIEWS`."""
    least = _LEAST_VIEWS // math.gcd(_LEAST_VIEWS, views)
    return max(1, images // least) * least


def in_parts(source: Source, draw: Draw, work: Work, *, at_most: int, filled: bool) -> int:
    """Give all images to `work`, whole patients at a time: in one batch, or in several where one patient has more than `at_most` images.

    Where memory runs out, those patients and all later ones are done with half as many at a time, of the same draw: whoever is computed
    again has the same images and views. `work` leaves nothing behind when it fails.

    Args:
        filled: give every batch one shape, with blank images.

    Returns:
        how many images fitted: for the steps to come.

    Raises:
        the allocator's error, when not even the least number of images fits.
    """
    for part in split_by_patient(draw.owner, at_most=at_most):
        whole, owner, begin = source.batch(draw, part), draw.owner[part], 0
        while begin < len(owner):
            piece = next(split_by_patient(owner[begin:], at_most=at_most))
            cuts = [slice(begin + cut.start, begin + cut.stop) for cut in chunks(piece, at_most)]
            batches = (whole.cut(cut, filled_to=at_most if filled else 0) for cut in cuts)
            smaller = in_whole_vectors(at_most // 2, source.views)
            if _fits(work, batches, last=smaller == at_most):
                begin = cuts[-1].stop
            else:
                at_most = smaller
    return at_most


def split_by_patient(owner: npt.NDArray[np.int64], *, at_most: int) -> Iterator[slice]:
    """Consecutive parts of at most `at_most` images, or of one patient where that one has more; nobody is in two parts."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.append(starts[1:], len(owner)) if len(owner) else starts
    begin = end = 0
    for stop in ends.tolist():
        if stop - begin > at_most and end > begin:
            yield slice(begin, end)
            begin = end
        end = stop
    if end > begin:
        yield slice(begin, end)


def chunks(part: slice, at_most: int) -> Iterator[slice]:
    """Images of a part, `at_most` at a time: more than one chunk only where one patient has more, whose mean is a sum over chunks."""
    for start in range(part.start, part.stop, at_most):
        yield slice(start, min(start + at_most, part.stop))


def out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _fits(work: Work, batches: Iterator[Batch], *, last: bool) -> bool:
    try:
        work(batches)
    except Exception as error:
        if last or not out_of_memory(error):
            raise
    else:
        return True
    torch.cuda.empty_cache()  # only here, after the exception, has the failed part let go of its memory; without CUDA it does nothing
    return False


def _filled(part: Tensor, blank: int, value: float) -> Tensor:
    return part if blank == 0 else torch.cat([part, part.new_full((blank, *part.shape[1:]), value)])
