"""Opacus' DP optimizer for patients: the clip holds in floating point, the noise comes from our own source, rounded to a grid."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from opacus.optimizers import DPOptimizer

if TYPE_CHECKING:
    from torch import Tensor

    from fedrad_client.privacy.gradients.parts import Parts
    from fedrad_client.privacy.noise import NoiseSource

Floats = npt.NDArray[np.float64]
Clipping = Literal["flat", "normalised"]
_PART = 1 << 15  # numbers at a time that stay in the processor's cache
GRID = 2.0**-24  # times the clip norm: released sums are multiples of it
_STABILITY = 0.01  # of AUTO-S, beside norms: gradients far below it stay short, so that a mislabelled rest does not count like the others
SLACK = 1e-4  # of the clip norm: see `PatientOptimizer`


class PatientOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus is untyped
    """Release of a step: round(sum of clipped gradients) + round(noise), in multiples of the grid, over the expected batch. The noise is
    drawn once a step, for all weights in their order; with no patient at all it is the whole release.

    What one patient changes in that sum is at most `max_grad_norm`, the sensitivity that the accountant is told, in floating point too
    (privacy.md, rules 7 and 8), because a gradient is clipped to the lower `bound`. The difference pays for:

    1. Rounding: with and without the patient each weight of the sum is rounded by half a step at most: sqrt(d) steps.
    2. `SLACK`, for two things. The norm's error: 1e-5 of it (`gradients.parts`). And what is left, for any change in the last bits of the
       others' gradients: `batches` gives every micro-batch one constant shape so that there is none on a processor; the share stands for
       kernels that nobody has tried. Sums are made in float64, whose errors are below 1e-9 bounds for any number of patients that fits.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, noise_multiplier: float, clip_norm: float, expected_batch: float,
        clipping: Clipping = "flat",
    ) -> None:  # fmt: skip
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=clip_norm, expected_batch_size=expected_batch, loss_reduction="mean"
        )
        self._noise, self._clipping = noise, clipping
        self._places, self.n_parameters = _places(self.params)
        self._sums = _Sums(self.n_parameters, self.params[0].device)
        self._released: npt.NDArray[np.floating[Any]] | None = None
        self.bound = clip_norm * (1 - SLACK - math.sqrt(self.n_parameters) * GRID)

    def accumulate(self, parts: Parts) -> None:
        """Clip and add one micro-batch of whole patients, all of it or, out of memory, nothing.

        Args:
            parts: of some weights; one that is missing had no part in any loss.
        """
        factors = shares(parts.squares(), bound=self.bound, clipping=self._clipping) / (self.max_grad_norm * GRID)
        with self._sums.more() as into:
            rest = dict(self._places)
            for parameter, part in parts.by_weight.items():
                part.weighted(factors, out=into[rest.pop(parameter)])
            for place in rest.values():
                into[place].zero_()
        self._show_sums()

    def add_noise(self) -> None:
        """Gradients are views of one buffer, which the next step uses again."""
        total = self._sums.total.cpu().numpy()
        if self._released is None:
            self._released = np.empty(len(total), dtype=np.float64 if self.params[0].dtype == torch.float64 else np.float32)
        for where, noise in self._noise_parts():
            steps = np.rint(total[where])
            steps += noise  # whole numbers, exact below 2⁵³; what was -0 is 0 now
            np.multiply(steps, self.max_grad_norm * GRID, out=self._released[where], casting="same_kind")
        released = torch.from_numpy(self._released).to(self._sums.total.device)
        for parameter, place in self._places.items():
            parameter.grad = released[place].view(parameter.shape)

    def _noise_parts(self) -> Iterator[tuple[slice, Floats]]:
        """Draws in steps of the grid, and where they belong; zeros where a simulation wants no noise."""
        if self.noise_multiplier > 0:
            scale = self.noise_multiplier / GRID
            yield from self._noise.grid_normal_parts(self.n_parameters, scale=scale, threads=torch.get_num_threads())
            return
        for start in range(0, self.n_parameters, _PART):
            where = slice(start, min(start + _PART, self.n_parameters))
            yield where, np.zeros(where.stop - start)

    def pre_step(self, closure: None = None) -> bool:
        """Noise is added once, whatever the number of micro-batches, and also to none."""
        if self._sums.empty:
            with self._sums.more() as into:
                into.zero_()
            self._show_sums()
        self.add_noise()
        self.scale_grad()
        return True

    @property
    def accumulated_iterations(self) -> int:
        return 1  # micro-batches are summed before the division

    def zero_grad(self, set_to_none: bool = False) -> None:
        super().zero_grad(set_to_none)
        self._sums.empty = True

    def _show_sums(self) -> None:
        """To Opacus, whose name for them this is."""
        parameter: Any
        for parameter, place in self._places.items():
            parameter.summed_grad = self._sums.total[place].view(parameter.shape)


class _Sums:
    """One flat vector for all weights, (d,) float64: kept from step to step, for fresh memory costs as much as the sum."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.empty = True
        self.total = torch.empty(size, dtype=torch.float64, device=device)
        self._one: Tensor | None = None

    @contextlib.contextmanager
    def more(self) -> Iterator[Tensor]:
        """(d,) to be overwritten with what one micro-batch adds. If that fails, it has added nothing."""
        if self.empty:
            yield self.total
        else:
            self._one = torch.empty_like(self.total) if self._one is None else self._one
            yield self._one
            self.total.add_(self._one)
        self.empty = False


def shares(squares: Tensor, *, bound: float, clipping: Clipping) -> Tensor:
    """By what each gradient is multiplied, so that no norm is above `bound`: (n_patients,) float64; 0 for one that is not finite.

    Args:
        squares: (n_patients,) float64, of the norms.
        clipping: "flat": bound / norm, and 1 below the bound (Abadi et al. 2016). "normalised": bound / (norm + 0.01), which makes nearly
            all of one length and needs no other clip norm than 1 (AUTO-S, Bu et al., NeurIPS 2023).
    """
    norms = squares.sqrt()
    each = bound / (norms + _STABILITY) if clipping == "normalised" else (bound / norms.clamp(min=1e-300)).clamp(max=1.0)
    return torch.where(torch.isfinite(squares), each, torch.zeros_like(each))


def _places(parameters: Sequence[Tensor]) -> tuple[dict[Tensor, slice], int]:
    """Where each parameter lies in one flat vector, and how long that is."""
    places, end = {}, 0
    for parameter in parameters:
        places[parameter] = slice(end, end := end + parameter.numel())
    return places, end
