"""A frame as a small picture for the reviewer, with what was found framed. It never leaves the review queue."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin  # noqa: F401 - loaded now: a reader process can open no file later

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.pixels.array import Array

SIDE = 1024  # pixels, at most
_FRAME = 200  # gray level


def png_of(frame: Array, boxes: Iterable[Box]) -> bytes:
    """Args: frame: (H, W) stored values; text that is brighter or darker than all else is white or black."""
    values = np.nan_to_num(frame.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, (0.5, 99.5))
    levels = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
    image = Image.fromarray(levels)
    pen = ImageDraw.Draw(image)
    for box in boxes:
        pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=_FRAME)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
