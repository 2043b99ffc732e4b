"""Reading distrusts every byte: each bad file ends in one code, and no text of it gets out."""

import hashlib
import json
import os
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from fedrad_client.intake.codes import CODES, Code, Quarantined
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.process import Recipe, process
from fedrad_client.intake.reading import content
from fedrad_client.intake.reading.dicom import find_files, read
from fedrad_common.profiles import PROFILES


@pytest.fixture
def code_of(keys, geometry):
    return lambda path: process(path, Recipe(geometry, keys, 0.2)).code


def test_every_code_is_explained():
    assert set(CODES) == set(get_args(Code))


def test_a_sound_file_has_no_code(tmp_path, write_dicom, code_of):
    assert code_of(write_dicom(tmp_path / "a.dcm")) is None


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PatientID": None}, "no-patient-id"),
        ({"PatientID": "   "}, "no-patient-id"),
        ({"SOPInstanceUID": ""}, "no-uid"),
        ({"PixelData": None}, "no-pixels"),
        ({"Modality": "US"}, "modality"),
        ({"NumberOfFrames": 3}, "truncated"),
        ({"PhotometricInterpretation": "RGB"}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"Rows": 60000, "Columns": 60000}, "too-large"),
        ({"Rows": 41}, "truncated"),
        ({"BitsStored": 0}, "bad-pixels"),
        ({"RescaleSlope": 0}, "bad-pixels"),
        ({"pixels": np.full((8, 8), 7, dtype=np.uint16)}, "bad-pixels"),
        ({"pixels": np.full((8, 8), np.nan, dtype=np.float32)}, "bad-pixels"),
    ],
)
def test_a_header_that_makes_no_image_names_its_code(tmp_path, write_dicom, code_of, elements, code):
    elements = {"RescaleIntercept": 0} | elements if "RescaleSlope" in elements else elements

    assert code_of(write_dicom(tmp_path / "a.dcm", **elements)) == code


def test_an_unknown_transfer_syntax_is_named(tmp_path, dataset, code_of):
    ds = dataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)

    assert code_of(tmp_path / "a.dcm") == "unsupported-syntax"


def test_a_transfer_syntax_that_does_not_exist_is_named_and_not_quoted(tmp_path, write_dicom, code_of):
    path = write_dicom(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.DOE.JOHN.2.1"))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert code_of(path) == "unsupported-syntax"

    assert not warned


@pytest.mark.parametrize("share", [0.97, 0.6])
def test_a_file_that_ends_within_its_pixels_is_truncated(tmp_path, write_dicom, code_of, share):
    path = write_dicom(tmp_path / "a.dcm")
    os.truncate(path, int(path.stat().st_size * share))

    assert code_of(path) == "truncated"


def test_a_compressed_file_that_ends_within_a_fragment_is_truncated(tmp_path, dataset, code_of):
    ds = dataset()
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    os.truncate(tmp_path / "a.dcm", (tmp_path / "a.dcm").stat().st_size - 100)

    assert code_of(tmp_path / "a.dcm") == "truncated"


def test_a_decoder_that_panics_is_one_undecodable_file(tmp_path, dataset, code_of):
    ds = dataset()
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    damaged = bytearray(ds.PixelData)
    start = damaged.index(bytes([2, 0, 0, 0, 64, 0, 0, 0]))  # the frame's header: two segments, the first at 64
    damaged[start + 8 : start + 12] = (66).to_bytes(4, "little")  # a first segment of two bytes, a second one too long
    ds.PixelData = bytes(damaged)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)

    assert code_of(tmp_path / "a.dcm") == "undecodable"


def test_every_prefix_of_a_file_ends_in_a_code_and_never_in_a_crash(tmp_path, write_dicom, code_of):
    whole = write_dicom(tmp_path / "a.dcm").read_bytes()
    found = set()
    for size in range(0, 900, 7):
        (tmp_path / "b.dcm").write_bytes(whole[:size])
        found.add(code_of(tmp_path / "b.dcm"))

    assert found <= {"not-dicom", "unreadable", "truncated", "no-patient-id", "no-uid", "no-pixels"}


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "not-dicom"), (b"hello" * 99, "not-dicom"), (b"PK\x03\x04" * 99, "compressed-archive")]
)
def test_what_is_no_dicom_is_named(tmp_path, code_of, content, code):
    (tmp_path / "a").write_bytes(content)

    assert code_of(tmp_path / "a") == code


def test_links_and_pipes_are_never_opened(tmp_path, write_dicom, code_of):
    write_dicom(tmp_path / "real.dcm")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "real.dcm")
    os.mkfifo(tmp_path / "pipe.dcm")

    assert [code_of(path) for path in find_files(tmp_path)] == ["not-a-file", "not-a-file", None]


def test_links_to_folders_are_listed_and_not_followed(tmp_path, write_dicom):
    write_dicom(tmp_path / "in" / "a.dcm")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")

    assert [path.name for path in find_files(tmp_path / "in")] == ["a.dcm", "loop"]


def test_hidden_files_and_folders_do_not_exist(tmp_path, write_dicom):
    write_dicom(tmp_path / ".a.dcm")
    write_dicom(tmp_path / ".trash" / "b.dcm")

    assert find_files(tmp_path) == []


def test_a_file_over_the_limit_is_not_parsed(tmp_path, write_dicom, code_of, monkeypatch):
    monkeypatch.setattr(content, "MAX_FILE_BYTES", 1000)

    assert code_of(write_dicom(tmp_path / "a.dcm")) == "too-large"


def test_a_deflated_bomb_is_refused_before_it_grows(tmp_path, write_dicom, dataset, monkeypatch):
    ds = dataset(pixels=np.zeros((512, 512), dtype=np.uint16))
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    monkeypatch.setattr(content, "MAX_INFLATED_BYTES", 100_000)
    monkeypatch.setattr(zlib, "decompress", lambda *_args, **_kwargs: pytest.fail("inflated without a bound"))

    with pytest.raises(Quarantined) as caught:
        read(tmp_path / "a.dcm")

    assert caught.value.code == "too-large"


# By the profile that fits the file's modality (of what has none, and of the others, xr) and by code: the first 8 digits of each SHA-256.
ZOO = json.loads((Path(__file__).parent / "zoo_codes.json").read_text())


def test_every_file_of_the_zoo_has_the_code_that_is_right_for_it(shared_data: Path, keys):
    """Files that are not in the table have any code but the one for our own faults."""
    pinned = {digest: (name, code) for name, codes in ZOO.items() for code, digests in codes.items() for digest in digests.split()}
    wrong, unknown = [], Counter()
    for path in find_files(shared_data / "dicom_zoo"):
        name, wanted = pinned.get(hashlib.sha256(path.read_bytes()).hexdigest()[:8], ("xr", None))
        code = process(path, Recipe(Geometry(PROFILES[name], 32, 32), keys, 0.2)).code or "taken in"
        if wanted is None:
            unknown[code] += 1
        elif code != wanted:
            wrong.append((path.name, code, wanted))

    assert not wrong
    assert not unknown["internal"]


@pytest.mark.parametrize("name", ["xr", "mr", "mg"])
def test_no_file_of_the_zoo_is_an_unforeseen_fault_for_a_profile_that_does_not_fit(shared_data: Path, keys, name):
    profile = PROFILES[name].model_copy(update={"modalities": ("CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "SEG", "SM", "US", "XC")})
    recipe = Recipe(Geometry(profile, 32, 32), keys, 0.2)

    assert "internal" not in {process(path, recipe).code for path in find_files(shared_data / "dicom_zoo")}
