"""Which form a weight tensor's part takes: formed gradients, or products that are never multiplied out.

Decided by what each is expected to cost, from the shapes alone: never by a measurement on the machine at hand, whose outcome would differ
from run to run, and last bits of an update with it; nor by whose images they are, so that one patient with many never moves the others'
last bits (decision 0016). `simulations/benchmarks/layer_forms.py` measures both forms of every
layer of the registered networks and says how much the choice loses against the best.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """Nanoseconds."""

    row: float  # a weight of a formed gradient: written once, read twice, widened and added
    multiplied: float  # one product and its addition in float32, of a formed gradient
    multiplied_wide: float  # the same in float64
    widened: float  # a number copied into float64


# Fitted to medians of `layer_forms.py`: one thread of a server's CPU; one H100-class GPU.
CPU = Prices(row=1.2, multiplied=0.0133, multiplied_wide=0.024, widened=0.5)
GPU = Prices(row=0.02, multiplied=0.00005, multiplied_wide=0.00005, widened=0.01)


@dataclass(frozen=True)
class Sizes:
    """Of one layer's gradient: for each map left (outputs × columns) times right (columns × inputs)."""

    outputs: int
    inputs: int  # of one output
    columns: int  # of one map
    views: int  # maps of one image

    def rows(self, prices: Prices) -> float:
        """A map's formed gradient."""
        weights = self.outputs * self.inputs
        return weights * (prices.row + self.columns * prices.multiplied)

    def products(self, prices: Prices) -> float:
        """A map's part in the Gram matrices and in the sum."""
        sides = self.outputs + self.inputs
        gram = self.views * self.columns**2 * sides
        return (gram + self.outputs * self.inputs * self.columns) * prices.multiplied_wide + self.columns * sides * prices.widened


def as_products(sizes: Sizes, *, device: str) -> bool:
    prices = CPU if device == "cpu" else GPU
    return sizes.products(prices) < sizes.rows(prices)
