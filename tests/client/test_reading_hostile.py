"""Files made to end their reader cost themselves, in little time and memory. 10,000 damaged ones: `simulations/benchmarks/mutated.py`."""

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from fedrad_client.intake.process import Recipe, process
from fedrad_client.intake.reading import content
from fedrad_client.intake.reading.dicom import parse

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    import mutated
    from mutations import files_of
finally:
    sys.path.remove(str(FOLDER))

GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


@pytest.fixture
def code_of(keys, geometry):
    return lambda path: process(path, Recipe(geometry, keys, 0.2)).code


@pytest.fixture
def whole(tmp_path, write_dicom) -> bytes:
    return write_dicom(tmp_path / "whole").read_bytes()


def test_bombs_abysses_and_lies_about_length_get_their_code_in_two_seconds_and_700_mb():
    found = mutated.read_hostile()

    assert not found.faults
    assert found.files == len(mutated.FILES) + len(mutated.PLACES)
    assert found.seconds <= mutated.SECONDS
    assert found.megabytes <= mutated.MEGABYTES


def test_damaged_files_of_every_transfer_syntax_get_a_code_and_none_ends_the_node():
    found = mutated.read_mutated(160, files_of(None), first=10**6)

    assert found.good, found.facts()
    assert {"truncated", "undecodable", "taken in"} <= set(found.codes)


def test_what_is_no_file_is_never_opened(tmp_path, code_of, whole, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(content.os, "open", lambda *_: pytest.fail("opened"))

    assert {code_of(path) for path in (tmp_path / "link", tmp_path / "folder", tmp_path / "pipe", Path("/dev/zero"))} == {"not-a-file"}


@pytest.mark.parametrize(
    ("swap", "code"),
    [
        (os.mkfifo, "not-a-file"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "unreadable"),
        (lambda path: None, "unreadable"),
    ],
)
def test_a_file_that_is_swapped_after_it_was_looked_at_is_not_read(tmp_path, code_of, whole, monkeypatch, swap, code):
    def swapped_open(path, flags):
        Path(path).unlink()
        swap(path)
        return open_before(path, flags)

    open_before = os.open
    monkeypatch.setattr(content.os, "open", swapped_open)

    assert code_of(tmp_path / "whole") == code


def test_a_file_that_grows_while_it_is_read_is_read_no_further(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"sound")
    looked_at = os.fstat

    def grow(descriptor):
        before = looked_at(descriptor)
        with path.open("ab") as stream:
            stream.write(b"and more")
        return before

    monkeypatch.setattr(content.os, "fstat", grow)

    assert content.load(path) == b"sound"


@pytest.mark.parametrize(
    "behind",
    [
        b"DOE^JOHN" * 99,
        b"\xfc\xff\xfc\xffOB\x00\x00\x08\x00\x00\x00DOE^JOHN",  # Data Set Trailing Padding
        b"\xfa\xff\xfa\xffSQ\x00\x00\xff\xff\xff\xff" + b"DOE^JOHN" * 9,  # a signature, broken off
        b"\x10\x00\x10\x00PN\x08\x00DOE^JOHN",  # a name out of order
        bytes(2**20),
    ],
)
def test_what_stands_behind_the_pixels_is_cut_off(whole, behind):
    ds = parse(whole + behind, ("PatientName",))

    assert ds.PixelData == parse(whole).PixelData
    assert b"DOE" not in repr(ds).encode()


@pytest.mark.parametrize("length", [None, 0, 1, 10, 150, 10_000])
def test_a_length_of_group_2_that_lies_or_is_missing_is_not_believed(whole, length):
    at = whole.index(GROUP_LENGTH)
    said = b"" if length is None else GROUP_LENGTH + struct.pack("<I", length)

    assert read_values(whole[:at] + said + whole[at + 12 :]) == read_values(whole)


def test_an_old_file_without_preamble_is_read_with_and_without_its_group_2(whole):
    data = whole[whole.index(b"\x08\x00\x16\x00") :]

    assert read_values(whole[132:]) == read_values(whole)
    assert parse(data).PixelData == parse(whole).PixelData


@pytest.mark.parametrize("size", [0, 1, 33, 131, 132, 133, 144, 200])
def test_a_file_that_ends_before_its_first_element_is_named(tmp_path, code_of, whole, size):
    (tmp_path / "short").write_bytes(whole[:size])

    assert code_of(tmp_path / "short") in ("not-dicom", "truncated", "no-pixels")


def test_as_many_elements_frames_and_fragments_as_images_have_are_read(dataset, tmp_path, code_of):
    ds = dataset()
    for element in range(2000):
        ds.add_new((0x0019, 0x1000 + element), "LO", "private")
    ds.RequestAttributesSequence = [nested(30)]
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    ds.save_as(tmp_path / "rich.dcm", enforce_file_format=True)

    assert code_of(tmp_path / "rich.dcm") is None


@pytest.mark.parametrize(("depth", "code"), [(31, None), (32, "too-complex"), (40, "too-complex")])
def test_what_is_read_may_be_nested_32_deep(dataset, tmp_path, code_of, depth, code):
    ds = dataset()
    ds.SharedFunctionalGroupsSequence = [nested(depth)]
    ds.save_as(tmp_path / "deep.dcm", enforce_file_format=True)

    assert code_of(tmp_path / "deep.dcm") == code


def nested(depth: int) -> Dataset:
    item = Dataset()
    item.StudyDate = "20200229"
    if depth:
        item.RequestAttributesSequence = [nested(depth - 1)]
    return item


def read_values(file: bytes) -> dict[str, object]:
    ds = parse(file, ("PatientID", "Rows"))
    return {element.keyword: element.value for element in ds} | {"syntax": ds.file_meta.TransferSyntaxUID}


def test_a_picture_is_the_same_whatever_stands_behind_it(tmp_path, write_dicom, keys, geometry):
    path = write_dicom(tmp_path / "a.dcm")
    before = process(path, Recipe(geometry, keys, 0.2)).slices[0].pixels
    path.write_bytes(path.read_bytes() + b"DOE" * 1000)

    assert np.array_equal(process(path, Recipe(geometry, keys, 0.2)).slices[0].pixels, before)
