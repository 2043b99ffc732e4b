"""Slices become one volume by where they lie in the patient, and only if all of them do."""

from itertools import pairwise

import numpy as np
import pytest
from fakes.slices import AXIAL, CORONAL, SAGITTAL, ct_series, ct_slice, enhanced

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.header import ELEMENTS
from fedrad_client.intake.pixels.image import Geometry, normalise, slices_of
from fedrad_client.intake.pixels.volume import sort_slices, volume_of
from fedrad_client.intake.reading.dicom import read
from fedrad_common.profiles import SCALE, profile

VOLUME = Geometry(profile("ct"), 30, 32, 28, (3.0, 2.5, 2.5))


def volume(series, geometry=VOLUME):
    return volume_of([one for ds in series for one in slices_of(ds, geometry)], geometry)


def code_of(series, geometry=VOLUME):
    with pytest.raises(Quarantined) as caught:
        volume(series, geometry)
    return caught.value.code


def hounsfield(pixels):
    return pixels.astype(float) / SCALE * 2000 - 1000


def at(pixels, left, back, head, geometry=VOLUME):
    """The voxel at a point of the patient, mm from the middle of the series."""
    place = (head, back, left)
    size = (geometry.depth, geometry.height, geometry.width)
    return hounsfield(pixels)[tuple(round(p / s + n / 2 - 0.5) for p, s, n in zip(place, geometry.spacing, size, strict=True))]


def test_the_axes_run_to_the_head_to_the_back_and_to_the_left():
    made = volume(ct_series())

    assert made.shape == (28, 30, 32)
    assert made.dtype == np.uint16
    assert at(made, 15, 0, 0) == pytest.approx(700, abs=60)
    assert at(made, 0, 13, 0) == pytest.approx(-400, abs=60)
    assert at(made, 0, 0, 17) == pytest.approx(-900, abs=60)
    assert at(made, -15, 0, 0) == at(made, 0, -13, 0) == at(made, 0, 0, -17) == pytest.approx(0, abs=1)


@pytest.mark.parametrize(
    "orientation", [CORONAL, SAGITTAL, (-1, 0, 0, 0, -1, 0), (0, 1, 0, 1, 0, 0), (0, 0, 1, 0, 1, 0), (-1, 0, 0, 0, 0, 1)]
)
def test_however_it_was_cut_it_is_the_same_patient(orientation):
    made, axial = volume(ct_series(26, orientation=orientation)), volume(ct_series(26))

    inside = np.s_[4:-4, 4:-4, 4:-4]
    assert np.abs(hounsfield(made)[inside] - hounsfield(axial)[inside]).mean() < 35
    for point, value in (((15, 0, 0), 700), ((0, 13, 0), -400), ((0, 0, 17), -900)):
        assert at(made, *point) == pytest.approx(value, abs=90)


def test_slices_are_sorted_by_place_not_by_number_or_order():
    series = ct_series()
    shuffled = [series[index] for index in np.random.default_rng(1).permutation(len(series))]
    for number, ds in enumerate(shuffled):
        ds.InstanceNumber = number

    assert np.array_equal(volume(shuffled), volume(ct_series()))
    ordered, step = sort_slices([one for ds in shuffled for one in slices_of(ds, VOLUME)])
    assert step == pytest.approx(3)
    assert all(one.place.centre[2] < two.place.centre[2] for one, two in pairwise(ordered))


def test_an_enhanced_object_is_the_volume_of_its_frames():
    series = ct_series(12, slope=0.5, intercept=-1024.0)

    assert np.array_equal(normalise(enhanced(series), VOLUME), volume(series))
    assert np.array_equal(normalise(enhanced(series[::-1]), VOLUME), volume(series))


def test_each_frame_has_its_own_rescale():
    plain = ct_series(12)
    mixed = [ct_slice(float(ds.ImagePositionPatient[2]), number, slope=0.5 + number / 10) for number, ds in enumerate(plain, 1)]

    assert np.abs(hounsfield(normalise(enhanced(mixed), VOLUME)) - hounsfield(volume(plain))).max() < 2


def test_a_missing_slice_is_found():
    series = ct_series()

    assert code_of(series[:9] + series[10:]) == "missing-slices"
    assert code_of(series[:1]) == "missing-slices"


def test_a_slice_at_the_place_of_another_is_found():
    assert code_of([*ct_series(), ct_slice(1.5, 99)]) == "duplicate-slices"


def test_distances_that_vary_are_refused():
    assert code_of([ct_slice(height) for height in (0, 3, 6, 9, 12.6, 15)]) == "geometry"


def test_a_slice_of_another_orientation_size_or_spacing_is_refused():
    series = ct_series()

    assert code_of([*series, ct_slice(0, orientation=CORONAL)]) == "geometry"
    assert code_of([*series, ct_slice(39, shape=(42, 40))]) == "geometry"
    assert code_of([*series, ct_slice(39, spacing=(2.0, 2.1))]) == "geometry"


def test_slices_beside_each_other_as_of_a_tilted_gantry_are_refused():
    series = ct_series()
    for number, ds in enumerate(series):
        ds.ImagePositionPatient = [ds.ImagePositionPatient[0], ds.ImagePositionPatient[1] + number, ds.ImagePositionPatient[2]]

    assert code_of(series) == "geometry"


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    "elements",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"PixelSpacing": None},
        {"ImagePositionPatient": [0, 0, 1e9]},
        {"ImagePositionPatient": [0, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]},
        {"PixelSpacing": [0, 0]},
        {"PixelSpacing": [-1, 1]},
        {"PixelSpacing": [1e9, 1e9]},
        {"PixelSpacing": ["nan", "nan"]},
        {"ImagePositionPatient": ["0", "nan", "inf"]},
    ],
)
def test_absurd_geometry_has_a_code(elements):
    assert code_of([ct_slice(height, **elements) for height in (0, 3, 6)]) == "geometry"


def test_frames_without_a_place_of_their_own_make_no_volume():
    ds = enhanced(ct_series(6))
    del ds.PerFrameFunctionalGroupsSequence
    ds.ImagePositionPatient = [0, 0, 0]
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024

    with pytest.raises(Quarantined, match="geometry"):
        normalise(ds, VOLUME)


def test_as_many_groups_as_frames():
    ds = enhanced(ct_series(6))
    del ds.PerFrameFunctionalGroupsSequence[5]

    with pytest.raises(Quarantined, match="bad-pixels"):
        normalise(ds, VOLUME)


def test_a_value_deep_in_a_frames_group_that_is_no_number_has_a_code(tmp_path):
    ds = enhanced(ct_series(6))
    path = tmp_path / "a.dcm"
    ds.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"-1024.0", b"-1O24.O"))

    with pytest.raises(Quarantined, match="bad-pixels"):
        normalise(read(path, ELEMENTS), VOLUME)


def test_an_empty_slice_is_a_slice_of_its_volume():
    series = ct_series()
    series[0].PixelData = series[-1].PixelData = bytes(len(series[0].PixelData))

    assert volume(series).any()


def test_an_empty_volume_is_none():
    series = ct_series()
    for ds in series:
        ds.PixelData = bytes(len(ds.PixelData))

    assert code_of(series) == "bad-pixels"


def test_thick_slices_are_averaged_not_picked():
    fine, coarse = Geometry(profile("ct"), 30, 32, 28, (3.0, 2.5, 2.5)), Geometry(profile("ct"), 30, 32, 7, (12.0, 2.5, 2.5))
    whole, thick = hounsfield(volume(ct_series(28), fine)), hounsfield(volume(ct_series(28), coarse))

    blocks = whole.reshape(7, 4, 30, 32).mean(axis=1)
    assert np.abs(thick[1:-1] - blocks[1:-1]).mean() < 60
    assert abs(thick[1:-1].mean() - whole[4:-4].mean()) < 10


def test_a_volume_has_one_z_score():
    geometry = Geometry(profile("mr"), 30, 32, 28, (3.0, 2.5, 2.5))
    series = ct_series(orientation=AXIAL, Modality="MR")
    for ds in series:
        ds.RescaleIntercept = 0

    made = volume(series, geometry).astype(float) / SCALE * 7 - 2

    assert made[14, 15, 5:27].std() > 0.1
    # The same tissue has one value in every slice.
    water = [made[depth, 15, 12] for depth in range(8, 16)]
    assert np.ptp(water) < 0.01
