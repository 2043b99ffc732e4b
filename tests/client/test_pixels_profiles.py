"""What each profile promises of a picture, whatever machine made it."""

from dataclasses import dataclass

import numpy as np
import pytest
from fakes.slices import CORONAL, SAGITTAL, ct_series, ct_slice, enhanced
from pydicom import Dataset

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.image import Geometry, finished, finished_pixels, needs_series, normalise, scale_of, slices_of
from fedrad_client.intake.pixels.levels import Tally
from fedrad_common.profiles import PROFILES, SCALE, profile

XR, MG, MR, CT = (profile(name) for name in ("xr", "mg", "mr", "ct"))
Y, X = np.mgrid[:80, :80]


@dataclass(frozen=True)
class Box:
    top: int
    left: int
    bottom: int
    right: int


def seen(ds: Dataset, which, side: int = 80, **options):
    return normalise(ds, Geometry(which, side, side), **options)


def chest(air: int = 100, marker: int = 0) -> np.ndarray:
    """A body with two dark lungs in it, air beside it, and perhaps a lead marker in the air."""
    body = ((X - 40) / 30) ** 2 + ((Y - 40) / 36) ** 2 < 1
    lungs = ((np.abs(X - 40) - 13) / 8) ** 2 + ((Y - 38) / 18) ** 2 < 1
    pixels = np.where(body, 1800 + 4 * Y + 3 * X, air) - np.where(lungs, 1780, 0)
    pixels[2:6, 2:5] = marker or air
    return pixels.astype(np.uint16)


def breast() -> np.ndarray:
    """Its chest wall on the left, with a bright spot, and a maker's letter in the air."""
    round_ = (X / 50) ** 2 + ((Y - 40) / 34) ** 2 < 1
    pixels = np.where(round_, 900 + 20 * X + 7 * Y, 30)
    pixels[30:33, 20:23] = 3500
    pixels[5:9, 70:74] = 3900
    return pixels.astype(np.uint16)


def test_air_and_markers_beside_a_radiographs_body_do_not_move_its_window(dataset):
    body = chest() > 100
    plain, marked, lighter = (seen(dataset(pixels=pixels), XR) for pixels in (chest(), chest(marker=4000), chest(air=150)))

    assert np.array_equal(plain[body], marked[body])
    assert np.array_equal(plain[body], lighter[body])


def test_a_collimators_white_edges_do_not_move_the_window(dataset):
    framed, body = chest(), chest() > 100
    framed[:, :6] = framed[:, -6:] = 4095

    assert np.array_equal(seen(dataset(pixels=chest()), XR)[body], seen(dataset(pixels=framed), XR)[body])


def test_lungs_are_part_of_the_body_though_they_are_as_dark_as_air(dataset):
    out = seen(dataset(pixels=chest()), XR)

    assert 0 < out[26, 27] < out[38, 27] < 0.3 * SCALE


def test_a_radiograph_that_fills_its_frame_keeps_its_lungs(dataset):
    pixels = chest()[20:60, 20:60]  # cut through both lungs
    low, high = np.percentile(pixels, [0.5, 99.5])
    fitted = (np.clip((pixels - low) / (high - low), 0, 1) * SCALE).astype(int)

    # Dark that touches the margin could be air: no more than `background` of the range is lost to that doubt.
    assert np.abs(seen(dataset(pixels=pixels), XR, 40) - fitted).max() < 1.1 * XR.background * SCALE


def test_a_masked_rectangle_is_black_and_moves_no_window(dataset):
    written = chest()
    written[:8, :8] = 4095
    out = seen(dataset(pixels=written), XR, masks=(Box(0, 0, 8, 8),))

    assert not out[:8, :8].any()
    assert np.array_equal(out[8:], seen(dataset(pixels=chest()), XR, masks=(Box(0, 0, 8, 8),))[8:])


def test_a_mask_of_all_of_an_image_leaves_none(dataset):
    with pytest.raises(Quarantined, match="bad-pixels"):
        seen(dataset(pixels=chest()), XR, masks=(Box(0, 0, 80, 80),))


def test_pixels_that_are_not_square_keep_the_proportions_of_the_body(dataset):
    tall = seen(dataset(pixels=chest()[:, ::2].copy(), PixelSpacing=[1, 2]), XR)

    assert tall[40].any()
    assert tall[:, 0:5].max() <= tall[:, 20:60].max()
    assert np.abs(tall.astype(int) - seen(dataset(pixels=chest()), XR)).mean() < 0.06 * SCALE


def test_a_radiograph_is_resampled_to_the_protocols_spacing(dataset):
    coarse = normalise(dataset(pixels=chest(), PixelSpacing=[2, 2]), Geometry(XR, 50, 50, spacing=(4.0, 4.0)))

    assert not coarse[:5].any()
    assert coarse[5:45, 5:45].any()
    with pytest.raises(Quarantined, match="geometry"):
        normalise(dataset(pixels=chest()), Geometry(XR, 50, 50, spacing=(4.0, 4.0)))


def test_left_and_right_breasts_lie_alike(dataset):
    left = seen(dataset(pixels=breast(), Modality="MG", ImageLaterality="L"), MG)

    assert np.array_equal(left, seen(dataset(pixels=breast()[:, ::-1].copy(), Modality="MG", ImageLaterality="R"), MG))
    assert left[:, :20].sum() > left[:, 60:].sum()


def test_a_header_that_names_the_wrong_side_changes_nothing(dataset):
    assert np.array_equal(*(seen(dataset(pixels=breast(), Modality="MG", ImageLaterality=side), MG) for side in "LR"))


def test_beside_the_breast_all_is_black(dataset):
    out = seen(dataset(pixels=breast(), Modality="MG"), MG)

    assert not out[breast() == 30].any()
    assert not out[5:9, 70:74].any()
    assert out[31, 21] == SCALE


def test_a_breast_stored_white_on_black_or_black_on_white_is_the_same(dataset):
    inverted = dataset(pixels=4095 - breast(), Modality="MG", PhotometricInterpretation="MONOCHROME1")

    assert np.abs(seen(inverted, MG).astype(int) - seen(dataset(pixels=breast(), Modality="MG"), MG)).max() <= 1


def test_ct_is_hounsfield_whatever_the_slope(dataset):
    plain = seen(ct_slice(0), CT, 40)
    hounsfield = plain.astype(float) / SCALE * 2000 - 1000

    assert hounsfield[20, 20] == pytest.approx(0, abs=0.1)
    assert hounsfield[20, 27] == pytest.approx(700, abs=0.1)
    assert np.array_equal(plain, seen(ct_slice(0, slope=0.5), CT, 40))
    assert np.array_equal(plain, seen(ct_slice(0, intercept=-2000), CT, 40))


def test_signed_padding_is_known_though_it_is_written_unsigned(dataset):
    pixels = chest().astype(np.int16) - 1000
    pixels[:3] = -2000
    signed, unsigned = (seen(dataset(pixels=pixels, Modality="MR", PixelPaddingValue=value), MR) for value in (-2000, 63536))

    assert not unsigned[:3].any()
    assert np.array_equal(signed, unsigned)


@pytest.mark.parametrize(
    "elements",
    [{"RescaleIntercept": None}, {"RescaleSlope": None}, {"RescaleType": "US"}, {"RescaleType": "Z_EFF"}],
)
def test_ct_that_is_not_in_hounsfield_units_is_named(elements):
    with pytest.raises(Quarantined, match="units"):
        seen(ct_slice(0, **elements), CT)


def test_a_scout_view_is_no_ct_slice():
    with pytest.raises(Quarantined, match="localizer"):
        seen(ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), CT)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        ((-1, 0, 0, 0, -1, 0), lambda pixels: pixels[::-1, ::-1]),
        ((1, 0, 0, 0, -1, 0), lambda pixels: pixels[::-1]),
        ((0, 1, 0, 1, 0, 0), lambda pixels: pixels.T),
        ((0, -1, 0, 1, 0, 0), lambda pixels: pixels.T[:, ::-1]),
    ],
)
def test_however_a_patient_lay_a_slice_is_shown_upright(orientation, turn):
    plain, other = ct_slice(0), ct_slice(0, orientation=orientation)

    assert not np.array_equal(plain.pixel_array, other.pixel_array)
    assert np.array_equal(seen(other, CT, 40), seen(plain, CT, 40))


@pytest.mark.parametrize("orientation", [CORONAL, SAGITTAL])
def test_the_head_is_up_where_it_is_seen(orientation):
    down = tuple(-value if index in (2, 5) else value for index, value in enumerate(orientation))

    assert np.array_equal(seen(ct_slice(0, orientation=orientation), CT, 40), seen(ct_slice(0, orientation=down), CT, 40))
    assert seen(ct_slice(0, orientation=orientation), CT, 40)[11, 20] < 0.1 * SCALE  # the air at the head


def mr_series():
    series = ct_series(8, Modality="MR")
    for number, ds in enumerate(series):
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        stored = np.random.default_rng(number).integers(40, 60, (40, 40)) + np.where(ds.pixel_array > 100, 400 + 60 * number, 0)
        ds.PixelData = stored.astype("<i2").tobytes()
    return series


def whole(series, geometry):
    slices = [one for ds in series for one in slices_of(ds, geometry)]
    return slices, scale_of([one.tally for one in slices], geometry.profile)


def test_mr_is_standardised_over_the_foreground_of_its_series():
    geometry = Geometry(MR, 40, 40)
    series = mr_series()
    slices, scale = whole(series, geometry)
    stored = np.stack([ds.pixel_array for ds in series]).astype(float)
    low, high = np.percentile(stored, [1, 99])
    foreground = stored[stored > low + 0.1 * (high - low)]

    made = np.stack([finished(one, scale) for one in slices])

    expected = np.clip(((stored - foreground.mean()) / foreground.std() - MR.lower) / (MR.upper - MR.lower), 0, 1) * SCALE
    assert np.abs(made - expected).max() <= 1
    assert needs_series(geometry)


def test_the_order_and_grouping_of_slices_do_not_matter():
    slices, scale = whole(mr_series(), Geometry(MR, 40, 40))
    tallies = [one.tally for one in slices]

    assert scale == scale_of(tallies[::-1], MR)
    assert scale == scale_of([Tally.merged(tallies[:3]), Tally.merged(tallies[3:])], MR)


def test_slices_of_a_series_keep_their_contrast_to_each_other():
    geometry = Geometry(MR, 40, 40)
    slices, scale = whole(mr_series(), geometry)

    tissue = [int(finished(one, scale)[20, 20]) for one in slices]

    assert tissue == sorted(tissue)
    assert tissue[-1] - tissue[0] > 0.1 * SCALE


def test_a_gain_of_the_scanner_does_not_show():
    geometry, louder = Geometry(MR, 40, 40), mr_series()
    for ds in louder:
        ds.RescaleSlope = 3
    one, other = (
        np.stack([finished(s, scale) for s in slices]) for slices, scale in (whole(mr_series(), geometry), whole(louder, geometry))
    )

    assert np.abs(one.astype(int) - other).max() <= 1


def test_a_slice_can_be_finished_from_what_was_kept_of_it():
    slices, scale = whole(mr_series(), Geometry(MR, 24, 24))
    kept = np.stack([one.pixels for one in slices])

    assert np.array_equal(finished_pixels(kept[2], slices[2].low, slices[2].high, scale), finished(slices[2], scale))


def test_one_mr_slice_alone_is_its_own_series():
    ds = mr_series()[0]
    slices, scale = whole([ds], Geometry(MR, 40, 40))

    assert np.array_equal(seen(ds, MR, 40), finished(slices[0], scale))


def test_each_frame_of_an_enhanced_object_is_an_image():
    series = ct_series(5, slope=0.5)
    frames = slices_of(enhanced(series), Geometry(CT, 40, 40))

    assert [one.frame for one in frames] == [1, 2, 3, 4, 5]
    assert all(np.array_equal(one.pixels, seen(ds, CT, 40)) for one, ds in zip(frames, series, strict=True))
    with pytest.raises(Quarantined, match="multi-frame"):
        seen(enhanced(series), CT)


def test_padding_as_far_away_as_the_least_float_is_left_out(dataset):
    pixels = chest().astype(np.float32)
    pixels[:10] = np.finfo(np.float32).min
    out = seen(dataset(pixels=pixels, FloatPixelPaddingValue=float(np.finfo(np.float32).min)), XR)

    assert not out[:10].any()
    assert out[20:].max() == SCALE


def test_every_profile_has_its_own_hash():
    assert len({one.hash for one in PROFILES.values()}) == len(PROFILES)
