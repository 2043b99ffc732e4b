"""A frame as a small picture for the reviewer, with what was found framed. It never leaves the review queue."""

import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin  # noqa: F401 - loaded now: a reader process can open no file later

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.pixels.array import Array, Floats

SIDE = 1024  # pixels, at most
SAMPLE = 2**20  # pixels, about, by which black and white are chosen
_FRAME = 200  # gray level
_BAND = 64  # rows at a time


def png_of(frame: Array, boxes: Iterable[Box]) -> bytes:
    """Args: frame: (H, W) stored values; text that is brighter or darker than all else is white or black."""
    step = max(1, math.isqrt(frame.size // SAMPLE))
    low, high = np.percentile(_finite(frame[::step, ::step]), (0.5, 99.5))
    levels = np.empty(frame.shape, dtype=np.uint8)
    for start in range(0, len(frame), _BAND):
        unit = (_finite(frame[start : start + _BAND]) - low) * (255 / max(high - low, 1e-12))
        levels[start : start + _BAND] = np.clip(unit, 0, 255)
    image = Image.fromarray(levels)
    pen = ImageDraw.Draw(image)
    for box in boxes:
        pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=_FRAME)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _finite(values: Array) -> Floats:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
