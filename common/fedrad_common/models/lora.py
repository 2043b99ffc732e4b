"""Low-rank adapters (Hu et al., ICLR 2022) beside convolutions: few weights that learn, while the convolution keeps what it knows."""

from __future__ import annotations

from torch import Tensor, nn


class Adapter(nn.Module):
    """A convolution like the one beside it, through `rank` channels; its answer is 0 until it has learned."""

    def __init__(self, beside: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(
            beside.in_channels, rank, beside.kernel_size, beside.stride, beside.padding, bias=False  # type: ignore[arg-type]
        )  # fmt: skip
        self.up = nn.Conv2d(rank, beside.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, maps: Tensor) -> Tensor:
        made: Tensor = self.up(self.down(maps))
        return made


def adapters(rank: int, *convolutions: nn.Conv2d) -> nn.ModuleList | None:
    """One for each convolution; none at rank 0."""
    return nn.ModuleList(Adapter(each, rank) for each in convolutions) if rank else None
