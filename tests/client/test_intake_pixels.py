"""The same anatomy gives the same pixels, however a scanner stored it."""

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.image import Fragile, Geometry, decode, normalise
from fedrad_client.intake.pixels.levels import Tally
from fedrad_common.profiles import SCALE, profile

XR, MR = profile("xr"), profile("mr")
RAMP = np.arange(1600, dtype=np.uint16).reshape(40, 40)


def seen(ds: Dataset, side: int = 40, which=XR):
    return normalise(ds, Geometry(which, side, side))


def framed(pixels, width: int = 10):
    """Well above the air around it."""
    return np.pad(pixels + np.uint16(500), width)


def same(one, other) -> bool:
    """Equal but for the last rounding: x and 1 - x round differently."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


def test_the_window_maps_its_percentiles_to_the_ends_of_the_scale(dataset):
    out = seen(dataset(pixels=framed(RAMP)), 60)[10:-10, 10:-10].astype(float)
    low, high = np.percentile(RAMP + 500, [0.5, 99.5])

    assert np.array_equal(out, np.rint(np.clip((RAMP + 500 - low) / (high - low), 0, 1) * SCALE))


@pytest.mark.parametrize("percent", [0, 0.5, 37, 99.5, 100])
def test_the_percentile_is_numpys(percent):
    values, counts = np.array([-3.0, 1, 4, 90]), np.array([5, 1, 7, 2])

    assert Tally(values, counts).percentile(percent) == pytest.approx(np.percentile(np.repeat(values, counts), percent))


def test_bit_depth_does_not_matter(dataset):
    eight = (RAMP % 256).astype(np.uint8)
    twelve = eight.astype(np.uint16) * 16
    signed = twelve.astype(np.int16) - 2048

    assert np.array_equal(seen(dataset(pixels=eight)), seen(dataset(pixels=twelve, BitsStored=12, HighBit=11)))
    assert np.array_equal(seen(dataset(pixels=eight)), seen(dataset(pixels=signed)))


def test_bits_beyond_those_stored_are_dropped(dataset):
    overlay = RAMP | np.where(RAMP % 3 == 0, 0xF000, 0).astype(np.uint16)

    assert np.array_equal(decode(dataset(pixels=overlay, BitsStored=12, HighBit=11)), RAMP)


def test_signed_values_of_fewer_bits_keep_their_sign(dataset):
    signed = RAMP.astype(np.int16) - 800

    assert np.array_equal(decode(dataset(pixels=signed & 0x0FFF, BitsStored=12, HighBit=11, PixelRepresentation=1)), signed)


def test_values_in_the_upper_bits_are_moved_down(dataset):
    assert np.array_equal(decode(dataset(pixels=RAMP << 4, BitsStored=12, HighBit=15)), RAMP)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"])
def test_a_lossless_codec_changes_nothing(dataset, syntax):
    ds = dataset(pixels=RAMP)
    ds.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(seen(ds), seen(dataset(pixels=RAMP)))


def test_a_decoder_that_may_end_the_process_is_used_in_a_child_only(dataset):
    ds = dataset(pixels=RAMP)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"

    with pytest.raises(Fragile):
        normalise(ds, Geometry(XR, 16, 16), fragile=False)


def test_monochrome1_is_the_same_picture_inverted(dataset):
    inverted = (1599 - RAMP).astype(np.uint16)

    assert np.array_equal(seen(dataset(pixels=inverted, PhotometricInterpretation="MONOCHROME1")), seen(dataset(pixels=RAMP)))


def test_a_positive_rescale_changes_nothing_and_a_negative_one_inverts(dataset):
    plain, inverted = seen(dataset(pixels=RAMP)), seen(dataset(pixels=RAMP, PhotometricInterpretation="MONOCHROME1"))

    assert np.array_equal(seen(dataset(pixels=RAMP, RescaleSlope=2, RescaleIntercept=-1024)), plain)
    assert np.array_equal(seen(dataset(pixels=RAMP, RescaleSlope=0.0003, RescaleIntercept=0.7)), plain)
    assert same(seen(dataset(pixels=RAMP, RescaleSlope=-1, RescaleIntercept=7)), inverted)


def table(entries, first: int = 0, bits: int = 16) -> Dataset:
    made = Dataset()
    made.LUTDescriptor, made.ModalityLUTType = [len(entries), first, bits], "US"
    made.add_new("LUTData", "US", entries)
    return made


def test_a_modality_table_is_applied(dataset):
    ds = dataset(pixels=RAMP)
    ds.ModalityLUTSequence = Sequence([table([1599 - value for value in range(1600)])])

    assert same(seen(ds), seen(dataset(pixels=RAMP, PhotometricInterpretation="MONOCHROME1")))


def test_a_voi_table_is_applied_after_the_rescale(dataset):
    ds = dataset(pixels=RAMP, RescaleSlope=0.5, RescaleIntercept=100)
    squares = [value * value // 10 for value in range(800)]
    ds.VOILUTSequence = Sequence([table(squares, first=100)])
    shown = (np.rint(RAMP * 0.5 + 100).astype(int) - 100).clip(0, 799) ** 2 // 10

    assert np.array_equal(seen(ds), seen(dataset(pixels=shown.astype(np.uint16))))


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_without_entries_is_no_image(dataset, keyword):
    ds = dataset(pixels=RAMP)
    broken = table([1, 2, 3])
    del broken.LUTData
    setattr(ds, keyword, Sequence([broken]))

    with pytest.raises(Quarantined, match="bad-pixels"):
        seen(ds)


def test_padding_is_black_and_does_not_move_the_window(dataset):
    padded = RAMP.copy()
    padded[:10] = 60000
    out = seen(dataset(pixels=padded, PixelPaddingValue=60000))

    assert not out[:10].any()
    assert np.array_equal(out[10:], seen(dataset(pixels=RAMP[10:]), 40)[5:35])


def test_a_range_of_padding_is_left_out(dataset):
    padded = RAMP + np.uint16(100)
    padded[:5], padded[5:10] = 3, 9
    out = seen(dataset(pixels=padded, PixelPaddingValue=0, PixelPaddingRangeLimit=10))

    assert not out[:10].any()
    assert out[10:].any()


def test_neither_window_depends_on_how_much_air_surrounds_the_patient(dataset):
    for which, modality in ((XR, "CR"), (MR, "MR")):
        little, much = (dataset(pixels=framed(RAMP, width), Modality=modality) for width in (4, 20))

        assert np.array_equal(seen(little, 48, which)[4:-4, 4:-4], seen(much, 80, which)[20:-20, 20:-20])


def test_a_mask_of_two_values_keeps_them_apart(dataset):
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[0, 0] = 1

    out = seen(dataset(pixels=mask))
    assert (out[0, 0], out[1:].max()) == (SCALE, 0)
    out = seen(dataset(pixels=mask, Modality="MR"), 40, MR)
    assert out[0, 0] > out[1:].max() == out[1:].min()


def test_shrinking_averages_instead_of_picking(dataset):
    board = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.uint8)
    inside = seen(dataset(pixels=board), 16)[2:-2, 2:-2] / SCALE

    assert np.allclose(inside, 0.5, atol=0.05)


def test_an_image_that_is_not_square_keeps_its_proportions(dataset):
    out = seen(dataset(pixels=RAMP[:20]), 40)

    assert not out[:10].any()
    assert not out[30:].any()
    assert out[10:30].any()


def test_one_image_gives_the_same_bytes_again_and_leaves_its_input_alone(dataset):
    ds = dataset(pixels=RAMP)

    assert np.array_equal(seen(ds, 17), seen(ds, 17))
    assert np.array_equal(decode(ds), RAMP)


def test_floats_and_wide_integers_give_the_same_picture(dataset):
    wide = RAMP.astype(np.uint32) * 1000

    assert np.array_equal(seen(dataset(pixels=wide)), seen(dataset(pixels=RAMP)))
    assert np.array_equal(seen(dataset(pixels=RAMP.astype(np.float32))), seen(dataset(pixels=RAMP)))
