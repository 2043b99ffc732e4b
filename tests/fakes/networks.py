"""The registered networks in the sizes that the tests try them in."""

from fedrad_common import models

LARGE = {"resnet18", "densenet121"}  # of 7 and 11 million weights
_FROM_32 = {*LARGE, "unet"}  # pixels on


def names_and_sides(small: int) -> list[tuple[str, int]]:
    """Every network at 64 pixels, and at the smaller side those that take it."""
    return [(name, side) for name in sorted(models.MODELS) for side in (small, 64) if side >= 32 or name not in _FROM_32]
