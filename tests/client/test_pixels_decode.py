"""Every kind of stored pixel is decoded to the values that other decoders find, or set aside by name."""

import io
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.pixels.decoders.base import get_decoder

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.decode import Fragile
from fedrad_client.intake.pixels.header import ELEMENTS
from fedrad_client.intake.pixels.image import Geometry, check_header, decode, frames_of, slices_of
from fedrad_client.intake.reading.dicom import find_files, read
from fedrad_common.profiles import profile

RAMP = np.arange(1600, dtype=np.uint16).reshape(40, 40)
RLE, J2K, JLS, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.1.99"
BIG_ENDIAN, J2K_LOSSY = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.91"
JPEG, EXTENDED, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"


def code_of(ds: Dataset) -> str:
    with pytest.raises(Quarantined) as caught:
        frames_of(ds)
    return caught.value.code


def stack(dataset, count: int = 3) -> Dataset:
    frames = np.stack([RAMP + np.uint16(number) for number in range(count)])
    ds = dataset(pixels=frames[0], NumberOfFrames=count)
    ds.PixelData = frames.astype("<u2").tobytes()
    return ds


def colour(dataset, red, green, blue) -> Dataset:
    samples = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    return dataset(pixels=np.stack([red, green, blue], axis=-1), **samples)


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2", "<u4", "<i4"])
def test_every_width_and_sign_is_read_as_it_is(dataset, kind):
    info = np.iinfo(kind)
    pixels = np.linspace(info.min, info.max, 1600).astype(kind).reshape(40, 40)

    assert np.array_equal(decode(dataset(pixels=pixels)), pixels)


@pytest.mark.parametrize(("stored", "high_bit"), [(12, 11), (12, 15), (12, 13), (10, 9), (16, 15)])
def test_bits_lie_where_the_header_says_and_all_others_are_dropped(dataset, stored, high_bit):
    values = RAMP & np.uint16(2**stored - 1)
    shift = high_bit + 1 - stored
    noise = np.random.default_rng(0).integers(0, 2**16, (40, 40)).astype(np.uint16)
    field = np.uint16((2**stored - 1) << shift)
    pixels = (values << np.uint16(shift)) | (noise & ~field)

    assert np.array_equal(decode(dataset(pixels=pixels, BitsStored=stored, HighBit=high_bit)), values)


def test_one_bit_an_image(dataset):
    bits = RAMP % 3 == 0
    ds = dataset(pixels=RAMP, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()

    assert np.array_equal(decode(ds), bits)


def test_double_floats(dataset):
    ds = dataset(pixels=RAMP.astype(np.float32), BitsAllocated=64)
    del ds.FloatPixelData
    ds.DoubleFloatPixelData = (RAMP / 7).astype("<f8").tobytes()

    assert np.array_equal(decode(ds), RAMP / 7)


def test_big_endian_and_deflated_files(tmp_path, dataset):
    for syntax in (BIG_ENDIAN, DEFLATED):
        ds = dataset(pixels=RAMP)
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == BIG_ENDIAN:
            ds.PixelData = RAMP.astype(">u2").tobytes()
        path = tmp_path / "a.dcm"
        ds.save_as(path, enforce_file_format=True)

        assert np.array_equal(decode(read(path, ELEMENTS)), RAMP)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLE, J2K, JLS])
def test_every_frame_is_decoded(dataset, syntax):
    ds = stack(dataset)
    if syntax != ds.file_meta.TransferSyntaxUID:
        ds.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(frames_of(ds), np.stack([RAMP, RAMP + 1, RAMP + 2]))


@pytest.mark.parametrize("syntax", [J2K, JLS])
def test_fragments_and_a_missing_offset_table_do_not_matter(dataset, syntax):
    ds = dataset(pixels=RAMP)
    ds.compress(syntax, generate_instance_uid=False)
    (whole,) = generate_fragments(ds.PixelData[8 + int.from_bytes(ds.PixelData[4:8], "little") :])
    for fragments in (1, 3):
        ds.PixelData = encapsulate([whole], fragments_per_frame=fragments, has_bot=False)

        assert np.array_equal(decode(ds), RAMP)


def test_frames_without_an_offset_table(dataset):
    ds = stack(dataset)
    ds.compress(J2K, generate_instance_uid=False)
    table = int.from_bytes(ds.PixelData[4:8], "little")
    ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + ds.PixelData[8 + table :]

    assert np.array_equal(frames_of(ds), np.stack([RAMP, RAMP + 1, RAMP + 2]))


def test_fewer_frames_than_the_header_says_are_named(dataset):
    ds = stack(dataset)
    ds.NumberOfFrames = 4
    assert code_of(ds) == "truncated"
    ds = stack(dataset)
    ds.compress(RLE, generate_instance_uid=False)
    ds.NumberOfFrames = 4
    assert code_of(ds) == "undecodable"


def test_gray_that_is_stored_as_colour_is_gray(dataset):
    gray = (RAMP % 256).astype(np.uint8)

    assert np.array_equal(decode(colour(dataset, gray, gray, gray)), gray)
    ds = colour(dataset, gray, gray, gray)
    ds.compress(RLE, generate_instance_uid=False)
    assert np.array_equal(decode(ds), gray)


def test_gray_that_went_through_jpegs_ybr_is_gray(dataset):
    gray = np.kron(np.arange(25).reshape(5, 5) * 10, np.ones((8, 8))).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(stream, "JPEG", quality=95)
    ds = colour(dataset, gray, gray, gray)
    ds.PixelData, ds.PhotometricInterpretation = encapsulate([stream.getvalue()]), "YBR_FULL_422"
    ds.file_meta.TransferSyntaxUID = JPEG

    assert np.abs(decode(ds).astype(int) - gray).max() <= 4


def test_one_coloured_pixel_makes_a_colour_image(dataset):
    gray = (RAMP % 256).astype(np.uint8)
    red = gray.copy()
    red[7, 7] ^= 64

    assert code_of(colour(dataset, red, gray, gray)) == "colour"


def palette(dataset, entries: list[tuple[int, int, int]]) -> Dataset:
    ds = dataset(pixels=(RAMP % len(entries)).astype(np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for name, values in zip(("Red", "Green", "Blue"), zip(*entries, strict=True), strict=True):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [len(entries), 0, 16])
        setattr(ds, f"{name}PaletteColorLookupTableData", np.array(values, dtype="<u2").tobytes())
    return ds


def test_a_gray_palette_is_looked_up_and_a_coloured_one_is_named(dataset):
    grays = [(value, value, value) for value in (9000, 0, 41000, 65535)]

    assert np.array_equal(decode(palette(dataset, grays)), np.array([9000, 0, 41000, 65535])[RAMP % 4])
    assert code_of(palette(dataset, [*grays, (1, 2, 3)])) == "colour"


def test_a_colour_that_no_pixel_has_does_not_count(dataset):
    ds = palette(dataset, [(5, 5, 5), (900, 900, 900), (1, 2, 3)])
    ds.PixelData = (RAMP % 2).astype(np.uint8).tobytes()

    assert np.array_equal(decode(ds), np.array([5, 900])[RAMP % 2])


def test_rows_columns_frames_and_samples_are_bounded_together(dataset):
    ds = dataset(pixels=RAMP, NumberOfFrames=2**20, Rows=512, Columns=512)

    with pytest.raises(Quarantined, match="too-large"):
        check_header(ds, profile("xr"))


def test_twelve_bit_jpeg_is_left_to_a_child(dataset):
    ds = dataset(pixels=RAMP, BitsStored=12, HighBit=11)
    ds.file_meta.TransferSyntaxUID = EXTENDED

    with pytest.raises(Fragile):
        slices_of(ds, Geometry(profile("xr"), 8, 8), fragile=False)


def decoded(folder: Path) -> Iterator[tuple[Path, Dataset, np.ndarray]]:
    """Every file below that can be, with its frames."""
    for path in find_files(folder):
        with suppress(Quarantined):
            ds = read(path, ELEMENTS)
            yield path, ds, frames_of(ds)


def differ(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(np.int64) - theirs.reshape(ours.shape).astype(np.int64)).max())


@pytest.mark.parametrize(
    ("syntax", "other", "last_bit"), [(RLE, "pydicom", 0), (J2K, "gdcm", 0), (J2K_LOSSY, "gdcm", 2), (JLS, "gdcm", 0), (JPEG, "gdcm", 1)]
)
def test_the_zoo_decodes_to_what_another_decoder_finds(shared_data: Path, syntax, other, last_bit):
    decoder, compared = get_decoder(syntax), 0
    for _, ds, ours in decoded(shared_data / "dicom_zoo"):
        if ds.file_meta.get("TransferSyntaxUID") == syntax:
            assert differ(ours, decoder.as_array(ds, decoding_plugin=other)[0]) <= last_bit
            compared += 1

    assert compared


@pytest.mark.filterwarnings("ignore")  # pydicom's about odd values in DCMTK's files
@pytest.mark.skipif(shutil.which("dcmdjpeg") is None and not os.environ.get("FEDRAD_NEEDS_PACS"), reason="DCMTK is not installed")
def test_the_zoos_jpeg_decodes_to_what_dcmtk_finds(shared_data: Path, tmp_path):
    compared: Counter[str] = Counter()
    for path, ds, ours in decoded(shared_data / "dicom_zoo"):
        if (syntax := ds.file_meta.get("TransferSyntaxUID")) not in (JPEG, EXTENDED, LOSSLESS):
            continue
        if not subprocess.run(["dcmdjpeg", path, tmp_path / "out.dcm"], capture_output=True, check=False).returncode:
            assert differ(ours, pydicom.dcmread(tmp_path / "out.dcm").pixel_array) <= (syntax == JPEG)
            compared[syntax] += 1

    assert set(compared) == {JPEG, EXTENDED, LOSSLESS}
