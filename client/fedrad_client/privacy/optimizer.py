"""Opacus' DP optimizer for patients: the clip holds in floating point, the noise comes from our own source, rounded to a grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

if TYPE_CHECKING:
    from fedrad_client.privacy.noise import NoiseSource

GRID = 2.0**-24  # times the clip norm: released sums are multiples of it
SLACK = 1e-4  # of the clip norm: see `PatientOptimizer`
_COLUMNS = 8192  # widened to float64 at a time, so that they stay in the processor's cache; the same for any number of rows


class PatientOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus is untyped
    """`grad_sample` of every parameter holds one row a patient: the gradient of the mean over the patient's images.

    Release of a step: (sum of round(clipped row) + round(noise)) / expected batch, in multiples of the grid before the division. The
    noise is drawn once a step, for parameters in their order; with no row at all it is the whole release.

    What one patient changes in that sum is at most `max_grad_norm`, the sensitivity that the accountant is told, in floating point too
    (privacy.md, rules 7 and 8), because a row is clipped to the lower `bound`. The difference pays for:

    1. Rounding: each patient's clipped row is rounded to the grid by itself, at most half a step for each of d weights: sqrt(d) / 2 steps.
    2. `SLACK`, for the norm's and the factor's own error, (d + 4) × 2⁻⁵³ of it in float64, below 1e-8 for 50 million weights; and for
       what is left of it: any change that the patient makes in the last bits of the others' gradients. `batches` gives every micro-batch
       one constant shape so that there is none on a processor; the share stands for kernels that nobody has tried.
    3. Nothing for the sum: `summed_grad` counts steps of the grid, at most 2²⁴ a patient, and float64 adds whole numbers without any
       error, in any order and any micro-batches, up to 2²⁹ patients a step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, noise_multiplier: float, clip_norm: float, expected_batch: float
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=clip_norm, expected_batch_size=expected_batch, loss_reduction="mean"
        )
        self._noise = noise
        n_parameters = sum(parameter.numel() for parameter in self.params)
        self.bound = clip_norm * (1 - SLACK - math.sqrt(n_parameters) * GRID / 2)

    def accumulate(self, gradients: dict[Tensor, Tensor]) -> None:
        """Clip and add one micro-batch of whole patients, all of it or, out of memory, nothing.

        Args:
            gradients: (n_patients, *shape) by parameter; one that is missing had no part in any loss.
        """
        n_patients = len(next(iter(gradients.values()))) if gradients else 0
        try:
            for parameter in self.params:
                rows = gradients.get(parameter)
                parameter.grad_sample = parameter.new_zeros((n_patients, *parameter.shape)) if rows is None else rows
            self.clip_and_accumulate()
        finally:
            for parameter in self.params:
                parameter.grad_sample = None

    def clip_and_accumulate(self) -> None:
        rows = [parameter.grad_sample.flatten(1) for parameter in self.params]
        squares = torch.zeros(len(rows[0]), dtype=torch.float64, device=rows[0].device)
        for each in rows:
            squares = _with_squares(squares, each)
        finite = torch.isfinite(squares)
        if not bool(finite.all()):  # by selection: 0 × NaN is NaN
            rows, squares = [each[finite] for each in rows], squares[finite]
        factors = (self.bound / squares.sqrt().clamp(min=1e-300)).clamp(max=1.0)
        factors /= self.max_grad_norm * GRID
        totals = [_rounded_sum(factors, each) for each in rows]
        for parameter, total in zip(self.params, totals, strict=True):  # only now, and in place: nothing here can run out of memory
            if parameter.summed_grad is None:
                parameter.summed_grad = total.view(parameter.shape)
            else:
                parameter.summed_grad.add_(total.view(parameter.shape))

    def add_noise(self) -> None:
        unit = self.max_grad_norm * GRID
        for parameter in self.params:
            # Added as whole numbers: in floats a sum that rounds to -0.0 would keep its sign where the noise is -0.0 too.
            released = parameter.summed_grad.to(torch.int64)
            if self.noise_multiplier > 0:
                noise = self._noise.grid_normal(tuple(parameter.shape), scale=self.noise_multiplier / GRID)
                released += noise.to(released.device)
            parameter.grad = (released.double() * unit).to(parameter.dtype)

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


def _with_squares(squares: Tensor, rows: Tensor) -> Tensor:
    """(n,) float64, (n, d) float32 -> (n,) float64: each row's squares added; infinite or NaN where a row is.

    One part after the other: torch's sum over a first dimension adds in another order for the last few columns than for the others, so
    that a patient's norm would differ with how many patients there are.
    """
    # In float64 throughout: a float32 square of an element below 1e-22 is 0, and a hostile model with a tiny clip norm would hide there.
    for part in torch.split(rows, _COLUMNS, dim=1):
        squares = squares + part.double().square().sum(1)
    return squares


def _rounded_sum(factors: Tensor, rows: Tensor) -> Tensor:
    """(n,) float64, (n, d) float32 -> (d,) float64, whole numbers: each row's products rounded by themselves, the sum exact."""
    parts = torch.split(rows, max(1, min(_COLUMNS, 8 * _COLUMNS // max(1, len(rows)))), dim=1)
    return torch.cat([part.double().mul_(factors[:, None]).round_().sum(0) for part in parts])
