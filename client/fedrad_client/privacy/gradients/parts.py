"""What one weight tensor has of every patient's gradient: its squared norms, and the sum over patients under a factor each.

Two forms. `Rows` has the gradients themselves: the norm is of the very numbers that are added. `Products` never forms them: a layer's
gradient of one patient is a product of two thin matrices, so its norm follows from two small Gram matrices, and the weighted sum over
patients is one product of all of them (Bu et al., "Differentially Private Optimization on Large Model at Small Cost", ICML 2023). Both
products are made in float64: in float32 the norm, and worse the sum, would hold only as long as a patient's terms do not cancel, and
weights of an adversary make them cancel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_LINE = 16  # numbers, 64 bytes of float32
_BLOCK = 4096  # numbers whose squares are added in float32: 256 for each of 16 lanes, so that a norm errs by 2e-5 of itself at most
_LARGEST = 1e15  # of a block's norm in float32, whose square leaves its range further up
_CANCELLED = 1e-6  # of a Gram norm's square: below it float64 has too few digits left, and the gradient itself is formed
_LOST = 1e-12  # below it also the sum: then the very numbers of the norm are added


class Part(Protocol):
    """Of one weight tensor."""

    @property
    def squares(self) -> Tensor:
        """(n_patients,) float64; infinite or NaN where a gradient is."""
        ...

    def weighted(self, factors: Tensor, *, out: Tensor) -> None:
        """Args: factors: (n_patients,) float64; 0 for whom nothing is added, whatever its gradient. out: (d,) float64, overwritten."""
        ...

    def rows(self) -> Tensor:
        """(n_patients, *shape)."""
        ...


@dataclass(frozen=True)
class Owners:
    """Whose the maps of a pass are."""

    image: Tensor  # (n,) int64, ascending from 0 without gaps: the patient of each image
    views: int  # of each image, which follow each other

    @functools.cached_property
    def map(self) -> Tensor:
        """(n × views,)."""
        return self.image if self.views == 1 else self.image.repeat_interleave(self.views)

    @functools.cached_property
    def n_patients(self) -> int:
        return int(self.image[-1]) + 1


@dataclass(frozen=True)
class Order:
    """In which order a gradient's numbers lie as it is made, where that is not the weights': `shape`, whose `axes` give theirs."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def restored(self, made: Tensor) -> Tensor:
        """(n, d) -> (n, d) in the weights' order."""
        return made.view(-1, *self.shape).permute(0, *(1 + axis for axis in self.axes)).flatten(1)


@dataclass(frozen=True)
class Rows:
    """Every patient's gradient."""

    gradients: Tensor  # (n_patients, d)
    shape: torch.Size  # of the weights
    order: Order | None = None

    @functools.cached_property
    def squares(self) -> Tensor:
        return squared_norms(self.gradients)

    def weighted(self, factors: Tensor, *, out: Tensor) -> None:
        flat, counted = self.gradients, factors != 0
        if not bool(counted.all()):  # by selection: 0 × NaN is NaN
            flat, factors = flat[counted], factors[counted]
        into = out if self.order is None else torch.empty_like(out)
        _sum_under(factors, flat, out=into)
        if self.order is not None:
            out.copy_(self.order.restored(into)[0])

    def rows(self) -> Tensor:
        flat = self.gradients if self.order is None else self.order.restored(self.gradients)
        return flat.view(-1, *self.shape)


@dataclass(frozen=True)
class Products:
    """Gradients leftᵀ @ right, added over a patient's maps."""

    left: Tensor  # (n_maps, T, d) float64, at the layer's output
    right: Tensor  # (n_maps, T, p) float64, at its input, unfolded
    owner: Tensor  # (n_maps,) ascending from 0 without gaps: whose
    shape: torch.Size  # of the weights: d × p numbers
    order: Order | None = None

    apart: dict[int, Tensor] = field(default_factory=dict)  # (d × p,) float64, of patients whose terms cancel nearly altogether

    @functools.cached_property
    def squares(self) -> Tensor:
        left, right = self.left, self.right
        counts = torch.bincount(self.owner)
        squares = torch.zeros(len(counts), dtype=torch.float64, device=left.device)
        for count in sorted(set(counts.tolist())):
            patients = (counts == count).nonzero()[:, 0]
            maps = (torch.searchsorted(self.owner, patients)[:, None] + torch.arange(count, device=left.device)).flatten()
            grams = [_gram(part if len(maps) == len(part) else part[maps], count) for part in (left, right)]
            traces = [gram.diagonal(dim1=1, dim2=2).sum(1) for gram in grams]
            squares[patients] = self._looked_at(patients, (grams[0] * grams[1]).sum((1, 2)), traces[0] * traces[1])
        return squares

    def _looked_at(self, patients: Tensor, squares: Tensor, terms: Tensor) -> Tensor:
        """Squares, of which those that cancellation has left too few digits are made from the gradient itself."""
        for place in (squares < _CANCELLED * terms).nonzero()[:, 0].tolist():
            patient = int(patients[place])
            row = self._row(patient)
            squares[place] = row.square().sum()
            if float(squares[place]) < _LOST * float(terms[place]):
                self.apart[patient] = row
        return squares

    def _row(self, patient: int) -> Tensor:
        """(d × p,) float64."""
        left, right = (part[self.owner == patient].flatten(0, 1) for part in (self.left, self.right))
        return (left.T @ right).flatten()

    def weighted(self, factors: Tensor, *, out: Tensor) -> None:
        left, right = self.left, self.right
        _ = self.squares  # which tells whose gradient is to be added as it was formed
        shared = factors.clone()
        for patient in self.apart:
            shared[patient] = 0
        counted = (shared != 0)[self.owner]
        if not bool(counted.all()):
            left, right = left[counted], right[counted]
        scaled = left * shared[self.owner[counted]][:, None, None]
        into = out if self.order is None else torch.empty_like(out)
        torch.mm(scaled.flatten(0, 1).T, right.flatten(0, 1), out=into.view(left.shape[2], right.shape[2]))
        for patient, row in self.apart.items():
            if float(factors[patient]) != 0:
                into += factors[patient] * row
        if self.order is not None:
            out.copy_(self.order.restored(into)[0])

    def rows(self) -> Tensor:
        each = sum_by_owner(batched_product(self.left.transpose(1, 2), self.right).flatten(1), self.owner)
        return (each if self.order is None else self.order.restored(each)).view(-1, *self.shape)


@dataclass(frozen=True)
class Parts:
    """All that one pass has of its patients' gradients."""

    by_weight: dict[Tensor, Part]  # by parameter, which is told by its identity
    n_patients: int
    spoilt: Tensor | None = None  # (n_patients,) whose gradient is not finite

    @staticmethod
    def of_rows(gradients: dict[Tensor, Tensor]) -> Parts:
        """(n_patients, *shape) by parameter."""
        n_patients = len(next(iter(gradients.values()))) if gradients else 0
        return Parts({parameter: Rows(rows.flatten(1), parameter.shape) for parameter, rows in gradients.items()}, n_patients)

    def squares(self) -> Tensor:
        """(n_patients,) float64; NaN or infinite where a gradient is not finite."""
        parts = [part.squares for part in self.by_weight.values()]
        total = torch.stack(parts).sum(0) if parts else torch.zeros(self.n_patients, dtype=torch.float64)
        return total if self.spoilt is None else total.masked_fill(self.spoilt, torch.nan)

    def rows(self) -> dict[Tensor, Tensor]:
        """(n_patients, *shape) by parameter; all NaN for whom it is not finite."""
        found = {parameter: part.rows() for parameter, part in self.by_weight.items()}
        if self.spoilt is not None:
            for rows in found.values():
                rows[self.spoilt] = torch.nan
        return found


def squared_norms(rows: Tensor) -> Tensor:
    """(n, d) -> (n,) float64, each row by itself; infinite or NaN where a row is.

    In blocks of float32, which is four times as fast as widening every number, wherever their squares stay in its range.
    """
    if rows.dtype == torch.float64 or rows.shape[1] == 0:
        return rows.double().square().sum(1)
    whole = rows.shape[1] // _BLOCK * _BLOCK
    blocks = [torch.linalg.vector_norm(rows[:, :whole].view(len(rows), -1, _BLOCK), dim=2)] if whole else []
    if whole < rows.shape[1]:
        blocks.append(torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True))
    norms = torch.cat(blocks, 1).double()
    squares = norms.square().sum(1)
    # A square beyond float32 is infinite; one below it, 0, hides at most 1e-19 of a norm: least clip norms are far above.
    for row in (~(norms < _LARGEST).all(1)).nonzero()[:, 0].tolist():
        squares[row] = _wide_square(rows[row])
    return squares


def _wide_square(row: Tensor) -> Tensor:
    return torch.stack([part.double().square().sum() for part in torch.split(row, 2 * _BLOCK)]).sum()


def widened(maps: Tensor) -> Tensor:
    """In float64 and contiguous, in one pass."""
    return torch.empty(maps.shape, dtype=torch.float64, device=maps.device).copy_(maps)


def _gram(maps: Tensor, count: int) -> Tensor:
    """(m × count, T, c) -> (m, count × T, count × T): scalar products of one patient's columns."""
    maps = maps.reshape(-1, count * maps.shape[1], maps.shape[2])
    return torch.bmm(maps, maps.transpose(1, 2))  # in float64, where a last bit is far below what is charged


def batched_product(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """(m, d, T) @ (m, T, p) -> (m, d, p), the same bits in every place: MKL's depend on where in a cache line a result begins, or a row of
    a transposed factor."""
    left, right = _in_lines(left), _in_lines(right)
    d, p = left.shape[1], right.shape[2]
    lines = _LINE // math.gcd(_LINE, p)  # that end with a cache line
    if d % lines == 0:
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    made = torch.bmm(functional.pad(left, (0, 0, 0, -d % lines)), right)[:, :d]
    return made if out is None else out.copy_(made)


def _in_lines(maps: Tensor) -> Tensor:
    """Contiguous, copied if need be; in float32 also as they are, where rows and maps begin with a cache line."""
    lines = maps.dtype == torch.float32 and all(step % _LINE == 0 for step in maps.stride() if step != 1)
    return maps if lines else maps.contiguous()


def _sum_under(factors: Tensor, rows: Tensor, *, out: Tensor) -> None:
    """(k,) float64, (k, d) -> (d,) float64. In float32 one patient more in the middle would move what all later ones add."""
    for part, into in zip(torch.split(rows, _BLOCK, dim=1), torch.split(out, _BLOCK), strict=True):
        torch.mv(part.double().T, factors, out=into)


def sum_by_owner(each: Tensor, owner: Tensor) -> Tensor:
    """(n, …) -> (n_patients, …); owners ascend from 0 without gaps."""
    n_patients = int(owner[-1]) + 1
    if len(each) == n_patients:
        return each
    return torch.zeros((n_patients, *each.shape[1:]), dtype=each.dtype, device=each.device).index_add_(0, owner, each)


def joined(parts: Iterable[Part]) -> Part:
    """Of one weight tensor that was used several times."""
    every = list(parts)
    if len(every) == 1:
        return every[0]
    total = every[0].rows()
    for part in every[1:]:
        total = total + part.rows()
    return Rows(total.flatten(1), total.shape[1:])
