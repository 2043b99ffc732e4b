"""Rectangles of a picture's own pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SLACK = 4  # pixels by which the same line of text may be found a little larger in the next picture


class Box(NamedTuple):
    """Half open: rows top … bottom - 1, columns left … right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, shape: tuple[int, ...]) -> Box:
        """With room for what belongs to a line of text and was not told from the picture: accents, descenders, a comma, another letter."""
        height = self.bottom - self.top
        return Box(
            max(0, self.top - height // 2 - SLACK),
            max(0, self.left - 2 * height),
            min(shape[0], self.bottom + height // 2 + SLACK),
            min(shape[1], self.right + 2 * height),
        )

    def touches(self, other: Box) -> bool:
        return self.top <= other.bottom and other.top <= self.bottom and self.left <= other.right and other.left <= self.right

    def covers(self, other: Box, *, slack: int = SLACK) -> bool:
        return (
            self.top - slack <= other.top
            and self.left - slack <= other.left
            and other.bottom <= self.bottom + slack
            and other.right <= self.right + slack
        )


def merged(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """Those that touch as one, in reading order."""
    left, found = list(dict.fromkeys(boxes)), []
    while left:
        box = left.pop()
        while near := [other for other in left if box.touches(other)]:
            left = [other for other in left if other not in near]
            tops, lefts, bottoms, rights = zip(box, *near, strict=True)
            box = Box(min(tops), min(lefts), max(bottoms), max(rights))
        found.append(box)
    return tuple(sorted(found))
