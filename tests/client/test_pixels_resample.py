"""Resampling averages, keeps proportions, and is exact: whole numbers in, whole numbers out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedrad_client.intake.pixels.resample import ONE, Axis, _weights, along_first, inner_size, resampled
from fedrad_common.profiles import SCALE

RNG = np.random.default_rng(0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 100), st.floats(0.01, 100))
def test_what_lies_inside_is_an_average_and_what_lies_outside_is_nothing(n_in, n_out, given_mm, wanted_mm):
    axis = Axis.spaced(n_in, given_mm, n_out, wanted_mm)
    sums = np.asarray(_weights(axis).sum(axis=1)).ravel()
    middles = axis.start + (np.arange(n_out) + 0.5) * axis.ratio

    assert np.array_equal(sums, np.where((middles >= 0) & (middles < n_in), ONE, 0))


@pytest.mark.parametrize("shape", [(512, 512), (333, 517), (50, 700), (20, 30)])
def test_it_is_the_triangle_filter_of_other_libraries(shape):
    pixels = RNG.integers(0, SCALE + 1, shape).astype(np.uint16)
    rows, columns = (Axis.fitted(n, 64, 64) for n in shape)
    theirs = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR))

    assert np.abs(resampled(pixels, rows, columns) - theirs).max() < 2e-4 * SCALE


@pytest.mark.parametrize("value", [1, 777, SCALE])
def test_a_flat_image_stays_flat_to_the_last_bit(value):
    flat = np.full((301, 97), value, dtype=np.uint16)

    assert (resampled(flat, Axis.fitted(301, 64, 64), Axis.fitted(97, 200, 200)) == value).all()


def test_a_pattern_finer_than_the_output_becomes_gray():
    board = (np.indices((256, 256)).sum(axis=0) % 2 * SCALE).astype(np.uint16)
    gray = resampled(board, Axis.fitted(256, 40, 40), Axis.fitted(256, 40, 40))

    assert np.abs(gray / SCALE - 0.5).max() < 0.1


def test_the_same_size_is_the_same_image():
    pixels = RNG.integers(0, SCALE + 1, (40, 50)).astype(np.uint16)

    assert np.array_equal(resampled(pixels, Axis.fitted(40, 40, 40), Axis.spaced(50, 0.7, 50, 0.7)), pixels)


def test_middles_stay_middles():
    pixels = np.zeros((41, 41), dtype=np.uint16)
    pixels[20, 20] = SCALE

    for size, spacing in ((21, 2.0), (81, 0.5), (33, 1.3)):
        out = resampled(pixels, Axis.spaced(41, 1.0, size, spacing), Axis.spaced(41, 1.0, size, spacing)).astype(int)
        assert np.array_equal(out, out[::-1, ::-1])
        assert out.argmax() == size * size // 2


def test_a_volume_is_resampled_along_its_slices_as_an_image_along_its_rows():
    pixels = RNG.integers(0, SCALE + 1, (30, 5, 7)).astype(np.uint16)
    axis = Axis.spaced(30, 3.0, 20, 4.0)

    made = along_first(pixels, axis)
    assert made.shape == (20, 5, 7)
    assert np.array_equal(made[:, 2, 3], along_first(pixels[:, 2, 3][:, None], axis)[:, 0])


@pytest.mark.parametrize(
    ("shape", "pixel", "inner"),
    [((100, 100), (1, 1), (64, 64)), ((50, 100), (1, 1), (32, 64)), ((50, 100), (2, 1), (64, 64)), ((1, 1000), (1, 1), (1, 64))],
)
def test_an_image_is_fitted_with_its_proportions_in_millimetres(shape, pixel, inner):
    assert inner_size(shape, (64, 64), pixel) == inner
