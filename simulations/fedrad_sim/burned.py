"""Invented identifiers drawn into pictures, as devices, archives and people burn them in: what a gate must not let through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Ink = Literal["white", "black", "bright", "faint", "outlined", "boxed"]


@dataclass(frozen=True)
class Bitmap:
    """One text, as it is drawn. Everything is invented."""

    text: str
    height: int  # pixels of the font's em; of "pixel" fonts, about
    ink: Ink = "white"
    turn: int = 0  # quarter turns against the clock
    place: tuple[float, float] = (0.05, 0.05)  # of its top left corner, as a part of the picture
    font: Literal["drawn", "pixel"] = "drawn"  # antialiased, or of whole pixels


BITMAPS = (
    Bitmap("DOE^JOHN", 20), Bitmap("Mustermann, Erika", 16, place=(0.9, 0.05)), Bitmap("12.03.1961", 18, place=(0.55, 0.45)),
    Bitmap("ID 4711-0815", 24, place=(0.5, 0.3)), Bitmap("MRN 00990077", 14, place=(0.93, 0.5)), Bitmap("ST MARY HOSPITAL", 28),
    Bitmap("2019-04-11 08:15:02", 12, place=(0.02, 0.4)), Bitmap("Acc A0012345", 32, place=(0.8, 0.1)), Bitmap("KAUFMAN SCOTT [M]", 15),
    Bitmap("DOB: 07.22.1943", 15, place=(0.09, 0.02)), Bitmap("SMITH JANE 045Y", 48, place=(0.6, 0.05)),
    Bitmap("Dr. B. Feelgood", 20, turn=1),
    Bitmap("PORTABLE 14:30 WARD 7", 13, turn=3, place=(0.05, 0.9)), Bitmap("JONES ANNA F", 22, "black", place=(0.4, 0.4)),
    Bitmap("19610312", 26, "black", place=(0.7, 0.3)), Bitmap("Patient 0042 Room 12", 17, "black", place=(0.3, 0.1)),
    Bitmap("NGUYEN THI LAN", 18, "bright", place=(0.5, 0.4)), Bitmap("OBERARZT DR KLEIN", 14, "bright", place=(0.6, 0.2)),
    Bitmap("GARCIA LOPEZ M", 24, "faint", place=(0.02, 0.02)), Bitmap("KRANKENHAUS NORD", 30, "faint", place=(0.9, 0.02)),
    Bitmap("WILLIAMS T 1955", 26, "outlined", place=(0.45, 0.2)), Bitmap("ROSSI MARIO", 34, "outlined", place=(0.1, 0.3)),
    Bitmap("Name: Lee Kim", 20, "boxed", place=(0.85, 0.4)), Bitmap("Geb. 01.01.1970", 16, "boxed", place=(0.3, 0.5)),
    Bitmap("DOE JOHN 1961", 11, font="pixel"), Bitmap("ID:123456789", 22, font="pixel", place=(0.9, 0.5)),
    Bitmap("HOSP. CENTRAL", 33, font="pixel", place=(0.5, 0.1)), Bitmap("M 045Y 1976", 22, "black", font="pixel", place=(0.4, 0.3)),
    Bitmap("ANDERSEN H C", 22, turn=1, font="pixel", place=(0.3, 0.9)), Bitmap("MULLER 0815", 11, "bright", font="pixel", place=(0.6, 0.6)),
    Bitmap("PAPADOPOULOS G", 60, place=(0.3, 0.05)), Bitmap("IVANOVA", 80, "white", place=(0.5, 0.1)),
    Bitmap("Case 17 Bed 4 Exam 9", 19, "white", 3, (0.1, 0.02)), Bitmap("tel 555 0100 22", 18, place=(0.95, 0.3)),
)  # fmt: skip


def burned_in(picture: npt.NDArray[Any], bitmap: Bitmap) -> npt.NDArray[Any]:
    """The same (H, W) picture, with the text in it; whatever does not fit is cut off at the rim."""
    covers, around = _drawn(bitmap)
    height, width = (min(length, side) for length, side in zip(covers.shape, picture.shape, strict=True))
    top, left = (int(part * (side - length)) for part, side, length in zip(bitmap.place, picture.shape, (height, width), strict=True))
    ink, ground = _levels(picture, picture[top : top + height, left : left + width], bitmap.ink)
    out = picture.astype(np.float64)
    patch = out[top : top + height, left : left + width]
    if ground is not None:
        patch[:] = patch + around[:height, :width] * (ground - patch)
    patch[:] = patch + covers[:height, :width] * (ink - patch)
    return out.astype(picture.dtype)


def _drawn(bitmap: Bitmap) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How much ink each pixel has, and how much of a ground around it; 0 … 1."""
    scale = max(1, bitmap.height // 11) if bitmap.font == "pixel" else 1
    font = ImageFont.load_default_imagefont() if bitmap.font == "pixel" else ImageFont.load_default(bitmap.height)
    left, top, right, bottom = (int(side) for side in font.getbbox(bitmap.text))
    margin = 4
    image = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin))
    ImageDraw.Draw(image).text((margin - left, margin - top), bitmap.text, fill=255, font=font)
    covers = np.kron(np.asarray(image, dtype=np.float64) / 255, np.ones((scale, scale)))
    around = np.ones_like(covers)
    if bitmap.ink == "outlined":
        around = np.maximum.reduce([np.roll(covers, (down, right), (0, 1)) for down in (-2, 0, 2) for right in (-2, 0, 2)])
    return np.rot90(covers, bitmap.turn), np.rot90(around, bitmap.turn)


def _levels(picture: npt.NDArray[Any], patch: npt.NDArray[Any], ink: Ink) -> tuple[float, float | None]:
    low, high = (float(value) for value in np.percentile(picture, (1, 99)))
    here, brightest = float(np.median(patch)), float(picture.max())
    dark = here < (low + high) / 2
    match ink:
        case "white":
            return (high if dark else low), None
        case "black":
            return (low if not dark else high), None
        case "bright":
            return (brightest + 0.5 * (high - low) if dark else low - 0.0), None
        case "faint":
            return here + 0.35 * (high - low) * (1 if dark else -1), None
        case "outlined":
            return high, low
        case "boxed":
            return high, low
