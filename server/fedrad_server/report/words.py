"""Numbers as a reader wants them: rounded honestly (epsilon up), absent ones as a dash, no bound in words."""

import math
from collections.abc import Sequence

DASH = "–"
_TO = "\u00a0to\u00a0"  # an interval is never broken over two lines
_SMALL = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def interval(bounds: tuple[float, float] | None) -> str:
    return DASH if bounds is None else f"{bounds[0]:.3f}{_TO}{bounds[1]:.3f}"


def with_interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None:
        return DASH
    return f"{value:.3f}" if bounds is None else f"{value:.3f} ({interval(bounds)})"


def epsilon(value: float | None) -> str:
    """Rounded up to two digits; infinity and None are no bound."""
    if value is None or math.isinf(value):
        return "no bound"
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def delta(value: float | None) -> str:
    return DASH if value is None else f"{value:.1e}".replace("e-0", "e-")


def size(n_bytes: int) -> str:
    value, unit = float(n_bytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """`1, 3–5`: whole numbers in rising order, neighbours drawn together."""
    runs: list[list[int]] = []
    for value in numbers:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def opening(n: int) -> str:
    """A number as a sentence begins with it."""
    return _SMALL[n] if n < len(_SMALL) else f"{n:,}"
