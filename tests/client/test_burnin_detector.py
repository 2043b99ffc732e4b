"""Text burned into a picture is found, whatever its ink, size, turn and ground; pictures without text are left alone."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import ndimage

from fedrad_client.intake.burnin import detector
from fedrad_client.intake.burnin.boxes import Box, merged
from fedrad_client.intake.burnin.detector import find_text
from fedrad_sim.burned import BITMAPS, Bitmap, burned_in


def anatomy(seed: int, side: int = 512) -> np.ndarray:
    """Soft structures of many sizes, a bright border and a dark one, noise: 12 bits."""
    rng = np.random.default_rng(seed)
    soft = sum(scale * ndimage.gaussian_filter(rng.normal(0, 1, (side, side)), scale) for scale in (6, 25, 60))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = (x / 0.7) ** 2 + (y / 0.9) ** 2 < 1
    picture = np.where(body, 1800 + 300 * soft, 60) + rng.normal(0, 12, (side, side))
    return picture.clip(0, 4095).astype(np.uint16)


@pytest.mark.parametrize("bitmap", BITMAPS, ids=lambda bitmap: f"{bitmap.text}-{bitmap.ink}-{bitmap.height}")
@pytest.mark.parametrize("seed", [1, 2])
def test_an_identifier_is_found_where_it_stands(bitmap: Bitmap, seed: int):
    clean = anatomy(seed)
    burned = burned_in(clean, bitmap)
    rows, columns = np.nonzero(burned != clean)
    text = Box(int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max()))

    assert any(box.touches(text) for box in find_text(burned))


@pytest.mark.parametrize("seed", range(12))
def test_a_picture_without_text_is_left_alone(seed: int):
    assert find_text(anatomy(seed)) == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("inverted", [False, True])
def test_stored_values_of_any_kind_and_polarity(dtype, inverted: bool):
    picture = burned_in(anatomy(3), BITMAPS[0]).astype(np.int32) >> 4
    if inverted:
        picture = picture.max() - picture
    shifted = picture - 128 if np.dtype(dtype).kind == "i" else picture

    assert find_text(shifted.astype(dtype))
    if dtype is np.float32:
        holes = shifted.astype(dtype)
        holes[400:, :10] = np.nan
        assert find_text(holes)


def test_ink_beyond_all_that_the_picture_holds_hides_nothing():
    """As where text is drawn at 65535 over a CT whose values end at 1,200: scaled to either alone, the other would not be seen."""
    picture = (anatomy(4) // 4).astype(np.uint16)
    loud = burned_in(picture, dataclasses.replace(BITMAPS[0], ink="white"))
    loud[loud > picture.max()] = 65535
    edge = picture.copy()
    edge[-4:] = 65535

    assert find_text(loud)
    assert find_text(edge) == ()
    assert find_text(burned_in(edge, BITMAPS[0]))


@pytest.mark.parametrize("picture", [np.zeros((512, 512), np.uint16), np.zeros((1, 5), np.uint8), np.full((40, 40), np.nan, np.float32)])
def test_what_holds_nothing_holds_no_text(picture):
    assert find_text(picture) == ()


def test_a_side_marker_of_one_letter_is_no_text():
    for text in ("R", "L", "LL"):
        assert find_text(burned_in(anatomy(5), Bitmap(text, 40, place=(0.1, 0.8)))) == ()


def test_without_the_search_for_turned_text_it_would_get_through(monkeypatch):
    """The positive control of the second axis."""
    turned = burned_in(anatomy(6), Bitmap("MUSTERMANN ERIKA", 20, turn=1))
    assert find_text(turned)
    monkeypatch.setattr(detector, "hot_along_columns", lambda *_: None)

    assert find_text(turned) == ()


def test_ink_of_one_value_is_found_on_tissue_as_bright_as_it(monkeypatch):
    """The positive control: by relief alone, a texture of the same brightness hides it."""
    waves = ndimage.gaussian_filter(np.random.default_rng(3).normal(0, 1, (256, 256)), 2.0)
    folia = (1500 + 1000 * np.clip(waves / waves.std(), -1.5, 2.5)).astype(np.uint16)
    burned = burned_in(folia, Bitmap("Acc A0012345", 22, place=(0.5, 0.2), font="pixel"))
    assert find_text(folia) == ()
    assert find_text(burned)
    monkeypatch.setattr(detector, "flat_inks", lambda _: ())

    assert find_text(burned) == ()


@pytest.mark.parametrize("side", [40, 64, 128])
def test_noise_is_no_text(side: int):
    for seed in range(20):
        assert find_text(np.random.default_rng(seed).integers(0, 4096, (side, side)).astype(np.uint16)) == ()


def test_a_picture_that_is_strokes_all_over_is_held_back_and_not_searched_for_ever(monkeypatch):
    stripes = np.tile(np.repeat([0, 4095], 4).astype(np.uint16), (1200, 150))
    monkeypatch.setattr(detector, "MOST_HOT", 1_000_000)
    monkeypatch.setattr(detector, "lines_in", lambda *_: pytest.fail("searched"))

    assert find_text(stripes) == (Box(0, 0, 1200, 1200),)


def test_a_clean_picture_costs_next_to_nothing():
    picture, spent = anatomy(7), []
    for _ in range(5):
        began = time.process_time()
        find_text(picture)
        spent.append(time.process_time() - began)

    assert min(spent) < 0.02  # 0.001 on a quiet machine


def test_boxes_that_touch_become_one():
    assert merged([Box(0, 0, 5, 5), Box(20, 20, 30, 30), Box(4, 4, 20, 20)]) == (Box(0, 0, 30, 30),)
    assert merged([Box(9, 9, 10, 10), Box(0, 0, 5, 5)]) == (Box(0, 0, 5, 5), Box(9, 9, 10, 10))
