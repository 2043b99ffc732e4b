"""Rectangles that a reviewer blanked: their pixels enter no statistic and become 0."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from fedrad_client.intake.pixels.array import Mask


class Rectangle(Protocol):
    """Pixels of the stored matrix to blank, half open: rows top … bottom - 1, columns left … right - 1."""

    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def bottom(self) -> int: ...
    @property
    def right(self) -> int: ...


def hidden_by(masks: Iterable[Rectangle], shape: tuple[int, ...]) -> Mask | None:
    """(H, W) which pixels a rectangle covers; None where there is no rectangle."""
    boxes = tuple(masks)
    if not boxes:
        return None
    hidden = np.zeros(shape, dtype=bool)
    for box in boxes:
        hidden[max(0, box.top) : max(0, box.bottom), max(0, box.left) : max(0, box.right)] = True
    return hidden
