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
_NORM_ERROR = 1e-6  # relative, of a norm summed in float64 and of the factor, with room to spare
_COLUMNS = 8192  # of a matrix product in float64, so that the widened rows stay in the processor's cache


class PatientOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus is untyped
    """`grad_sample` of every parameter holds one row a patient: the gradient of the mean over the patient's images.

    Release of a step: (round(sum of clipped rows) + round(noise)) / expected batch, in multiples of the grid before the division. The
    noise is drawn once a step, for parameters in their order; with no row at all it is the whole release.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise: NoiseSource, noise_multiplier: float, clip_norm: float, expected_batch: float
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=clip_norm, expected_batch_size=expected_batch, loss_reduction="mean"
        )
        self._noise = noise
        n_parameters = sum(parameter.numel() for parameter in self.params)
        # Clipped so much below the bound that neither the norm's error nor the sum's rounding to the grid, a whole step for each
        # parameter at worst, takes one patient's share past it (privacy.md, rules 7 and 8): nothing is left to charge.
        self.bound = clip_norm * (1 - _NORM_ERROR - math.sqrt(n_parameters) * GRID)

    def accumulate(self, gradients: dict[Tensor, Tensor]) -> None:
        """Clip and add one micro-batch of whole patients; a parameter without gradient had no part in any loss."""
        for parameter in self.params:
            rows = gradients.get(parameter)
            if rows is None:
                n_patients = len(next(iter(gradients.values()))) if gradients else 0
                rows = parameter.new_zeros((n_patients, *parameter.shape))
            parameter.grad_sample = rows
        self.clip_and_accumulate()
        for parameter in self.params:
            parameter.grad_sample = None

    def clip_and_accumulate(self) -> None:
        rows = [parameter.grad_sample.flatten(1) for parameter in self.params]
        squares = torch.stack([_squared_norms(each) for each in rows]).sum(0)
        finite = torch.isfinite(squares)
        if not bool(finite.all()):  # by selection: 0 × NaN is NaN
            rows, squares = [each[finite] for each in rows], squares[finite]
        factors = (self.bound / squares.sqrt().clamp(min=1e-300)).clamp(max=1.0)
        for parameter, each in zip(self.params, rows, strict=True):
            total = _weighted_sum(factors, each).view(parameter.shape)
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    def add_noise(self) -> None:
        unit = self.max_grad_norm * GRID
        for parameter in self.params:
            released = torch.round(parameter.summed_grad / unit)
            if self.noise_multiplier > 0:
                standard = self._noise.normal(tuple(parameter.shape)).to(parameter.device)
                released = released + torch.round(standard * (self.noise_multiplier / GRID))
            parameter.grad = (released * unit).to(parameter.dtype)

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


def _squared_norms(rows: Tensor) -> Tensor:
    """(n, d) float32 -> (n,) float64; infinite or NaN where a row is."""
    # In float64 throughout: a float32 square of an element below 1e-22 is 0, and a hostile model with a tiny clip norm would hide there.
    return torch.stack([part.double().square().sum(1) for part in torch.split(rows, _COLUMNS, dim=1)]).sum(0)


def _weighted_sum(factors: Tensor, rows: Tensor) -> Tensor:
    """(n,) float64, (n, d) float32 -> (d,) float64: in float32 the sum's error would grow with everybody else in the batch."""
    return torch.cat([factors @ part.double() for part in torch.split(rows, _COLUMNS, dim=1)])
