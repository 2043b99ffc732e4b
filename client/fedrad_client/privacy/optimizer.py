"""Opacus' DP optimizer for patients: the clip holds in floating point, the noise comes from our own source, rounded to a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from opacus.optimizers import DPOptimizer

if TYPE_CHECKING:
    from torch import Tensor

    from fedrad_client.privacy.gradients.parts import Parts
    from fedrad_client.privacy.noise import NoiseSource

Floats = npt.NDArray[np.float64]
LARGE = 1 << 20  # weights, whose noise takes 15 ms
_PART = 1 << 15  # numbers at a time that stay in the processor's cache
GRID = 2.0**-24  # times the clip norm: released sums are multiples of it
SLACK = 1e-4  # of the clip norm: see `PatientOptimizer`


class PatientOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus is untyped
    """Release of a step: round(sum of clipped gradients) + round(noise), in multiples of the grid, over the expected batch. The noise is
    drawn once a step, for parameters in their order; with no patient at all it is the whole release.

    What one patient changes in that sum is at most `max_grad_norm`, the sensitivity that the accountant is told, in floating point too
    (privacy.md, rules 7 and 8), because a gradient is clipped to the lower `bound`. The difference pays for:

    1. Rounding: with and without the patient each weight of the sum is rounded by half a step at most: sqrt(d) steps.
    2. `SLACK`, for two things. The norm's error: 1e-5 of it (`gradients.parts`). And what is left, for any change in the last bits of the
       others' gradients: `batches` gives every micro-batch one constant shape so that there is none on a processor; the share stands for
       kernels that nobody has tried. Sums are made in float64, whose errors are below 1e-9 bounds for any number of patients that fits.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, noise_multiplier: float, clip_norm: float, expected_batch: float
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=clip_norm, expected_batch_size=expected_batch, loss_reduction="mean"
        )
        self._noise = noise
        self._drawer: ThreadPoolExecutor | None = None
        self._ahead: Future[list[Floats]] | None = None  # the next step's noise, by parameter
        self.n_parameters = sum(parameter.numel() for parameter in self.params)
        self.bound = clip_norm * (1 - SLACK - math.sqrt(self.n_parameters) * GRID)

    def accumulate(self, parts: Parts) -> None:
        """Clip and add one micro-batch of whole patients, all of it or, out of memory, nothing.

        Args:
            parts: of some weights; one that is missing had no part in any loss.
        """
        squares = parts.squares()
        finite = torch.isfinite(squares)
        factors = (self.bound / squares.sqrt().clamp(min=1e-300)).clamp(max=1.0) / (self.max_grad_norm * GRID)
        factors = torch.where(finite, factors, torch.zeros_like(factors))
        totals: list[tuple[Any, Tensor]] = list(parts.weighted(factors))
        for parameter, total in totals:  # only now, and in place: nothing here can run out of memory
            if parameter.summed_grad is None:
                parameter.summed_grad = total.view(parameter.shape)
            else:
                parameter.summed_grad.add_(total.view(parameter.shape))

    def draw_ahead(self) -> None:
        """Begin to draw the next step's noise beside whatever comes before it: the same draws, for they depend on nothing else.

        Where torch has one thread to itself, or the weights are few, nothing happens: two threads of Python cost each other more than that.
        """
        worth_it = self.n_parameters >= LARGE and torch.get_num_threads() > 1
        if self._ahead is None and self.noise_multiplier > 0 and worth_it:
            self._drawer = self._drawer or ThreadPoolExecutor(1, thread_name_prefix="noise")
            self._ahead = self._drawer.submit(lambda: [self._drawn(parameter.numel()) for parameter in self.params])

    def _drawn(self, count: int) -> Floats:
        out = np.empty(count)
        for where, noise in self._draws(count):
            out[where] = noise
        return out

    def _draws(self, count: int) -> Iterator[tuple[slice, Floats]]:
        return self._noise.grid_normal_parts(count, scale=self.noise_multiplier / GRID)

    def add_noise(self) -> None:
        ahead, self._ahead = self._ahead, None
        drawn = None if ahead is None else ahead.result()
        for number, parameter in enumerate(self.params):
            total = parameter.summed_grad.cpu().flatten().numpy()
            released = np.empty(total.shape, dtype=np.float64 if parameter.dtype == torch.float64 else np.float32)
            for where, noise in self._noise_parts(len(total), None if drawn is None else drawn[number]):
                steps = np.rint(total[where])
                steps += noise  # whole numbers, exact below 2⁵³; what was -0 is 0 now
                np.multiply(steps, self.max_grad_norm * GRID, out=released[where], casting="same_kind")
            parameter.grad = torch.from_numpy(released).view(parameter.shape).to(parameter.device, parameter.dtype)

    def _noise_parts(self, count: int, drawn: Floats | None) -> Iterator[tuple[slice, Floats]]:
        """Draws in steps of the grid, and where they belong; zeros where a simulation wants no noise."""
        if drawn is None and self.noise_multiplier > 0:
            yield from self._draws(count)
            return
        for start in range(0, count, _PART):
            where = slice(start, min(start + _PART, count))
            yield where, np.zeros(where.stop - start) if drawn is None else drawn[where]

    def pre_step(self, closure: None = None) -> bool:
        """Noise is added once, whatever the number of micro-batches, and also to none."""
        for parameter in self.params:
            if parameter.summed_grad is None:
                parameter.summed_grad = torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
        self.add_noise()
        self.scale_grad()
        return True

    @property
    def accumulated_iterations(self) -> int:
        return 1  # micro-batches are summed before the division
