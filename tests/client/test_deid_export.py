"""One file to another that identifies nobody, and is DICOM."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from fedrad_client.intake.deid.exported import Exported, ExportRecipe, export
from fedrad_client.intake.deid.keys import PseudonymKeys

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    from deid_images import KINDS, Who, encoded, sound
finally:
    sys.path.remove(str(FOLDER))

SECRET = bytes(range(32))
RECIPE = ExportRecipe(PseudonymKeys.from_secret(SECRET, project="test"), PseudonymKeys.from_secret(SECRET))
WHO = Who("P1")


@pytest.fixture
def through(tmp_path):
    def run(ds: Dataset | bytes, recipe: ExportRecipe = RECIPE) -> Exported:
        path = tmp_path / "one.dcm"
        path.write_bytes(ds if isinstance(ds, bytes) else encoded(ds))
        return export(path, recipe)

    return run


def parsed(done: Exported) -> Dataset:
    assert done.code is None, done.code
    return dcmread(io.BytesIO(done.content))


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_same_and_the_file_is_plain(through, kind):
    ds = sound(kind, WHO)
    after = parsed(through(ds))

    assert np.array_equal(after.pixel_array, ds.pixel_array)
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert after.preamble == bytes(128)
    assert (after.PatientIdentityRemoved, after.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None and not os.environ.get("FEDRAD_NEEDS_PACS"),
    reason="dicom3tools is not installed: nothing validates object definitions",
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_validator_of_object_definitions_finds_no_error(through, tmp_path, kind):
    (tmp_path / "after.dcm").write_bytes(through(sound(kind, WHO)).content)
    said = subprocess.run(["dciodvfy", "-new", str(tmp_path / "after.dcm")], capture_output=True, text=True)

    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_pixels_come_out_as_they_were(through, syntax):
    ds = sound("CT", WHO)
    before = ds.pixel_array.copy()
    ds.compress(syntax, generate_instance_uid=False)

    assert np.array_equal(parsed(through(ds)).pixel_array, before)


def test_signed_values_stay_signed_and_their_unused_bits_repeat_the_sign(through):
    ds = sound("CT", WHO)
    stored = np.arange(-512, 512, dtype=np.int16).reshape(32, 32)
    ds.PixelRepresentation, ds.PixelData = 1, (stored & 0x0FFF).astype("<u2").tobytes()  # with other bits above
    after = parsed(through(ds))

    assert np.array_equal(after.pixel_array, stored)
    assert np.array_equal(np.frombuffer(after.PixelData, "<i2"), stored.ravel())


def test_nothing_is_left_in_unused_bits_or_behind_the_last_pixel(through):
    ds = sound("CR", WHO)
    clean = ds.PixelData
    ds.PixelData = (np.frombuffer(clean, "<u2") | 0xA000).astype("<u2").tobytes() + b"ZQXJKVDOE!"

    assert parsed(through(ds)).PixelData == clean


def test_only_listed_elements_are_in_the_output(through):
    from fedrad_client.intake.deid.export_rules import ALL_RULES, EMPTY

    allowed = {rule.keyword for rule in ALL_RULES} | {keyword for empty in EMPTY.values() for keyword in empty}
    allowed |= {"PatientID", "PatientName", "PatientIdentityRemoved", "DeidentificationMethodCodeSequence", "HighBit", "PixelData"}
    allowed |= {"LongitudinalTemporalInformationModified", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation"}
    ds = sound("MG", WHO)
    ds.StudyDescription, ds.InstitutionName, ds.DeviceSerialNumber = "DOE", "DOE", "DOE"
    ds.add_new((0x0019, 0x1001), "LO", "DOE")

    assert {element.keyword for element in parsed(through(ds))} <= allowed


def methods(ds: Dataset) -> list[str]:
    return [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]


def test_the_method_codes_say_what_was_done_and_nothing_else(through):
    all_of_it, bare = sound("CT", WHO), sound("CT", WHO)
    for keyword in ("PatientSex", "PatientAge", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(bare, keyword, "")

    assert methods(parsed(through(all_of_it))) == ["113100", "113107", "113108"]
    assert methods(parsed(through(bare))) == ["113100"]
    assert parsed(through(bare)).LongitudinalTemporalInformationModified == "REMOVED"


def test_references_lead_to_the_files_that_they_led_to(through):
    first, second = sound("MR", Who("P1", image=1)), sound("MR", Who("P1", image=2))
    item, alien = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
    alien.ReferencedSOPClassUID, alien.ReferencedSOPInstanceUID = "1.2.3.4", first.SOPInstanceUID
    second.ReferencedImageSequence, second.SourceImageSequence = [item, alien], [item]
    one, two = parsed(through(first)), parsed(through(second))

    assert [str(link.ReferencedSOPInstanceUID) for link in two.ReferencedImageSequence] == [one.SOPInstanceUID]
    assert two.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
    assert two.FrameOfReferenceUID == one.FrameOfReferenceUID != first.FrameOfReferenceUID


def test_a_code_is_written_in_the_standards_words(through):
    ds = sound("MG", WHO)
    ds.ViewCodeSequence[0].CodeMeaning = "CC of DOE"
    ds.AnatomicRegionSequence[0].CodeValue, ds.AnatomicRegionSequence[0].CodingSchemeDesignator = "T-04000", "SRT"
    after = parsed(through(ds))

    assert after.ViewCodeSequence[0].CodeMeaning == "cranio-caudal"
    assert (after.AnatomicRegionSequence[0].CodeValue, after.AnatomicRegionSequence[0].CodingSchemeDesignator) == ("76752008", "SCT")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not-exported"), ({"SOPClassUID": "1.2.3.4"}, "not-exported"),
        ({"PatientID": "UNKNOWN"}, "no-patient-id"), ({"StudyInstanceUID": ""}, "no-uid"), ({"NumberOfFrames": "2"}, "multi-frame"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"), ({"PixelData": b""}, "no-pixels"),
        ({"Rows": 4000}, "truncated"), ({"BitsStored": 17}, "bad-pixels"), ({"BitsStored": [8, 8]}, "bad-pixels"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_has_a_code(through, changed, code):
    ds = sound("CR", WHO)
    for keyword, value in changed.items():
        setattr(ds, keyword, value)

    assert through(ds) == Exported(code, through(ds).series)


def test_who_withdrew_is_not_exported(through):
    from dataclasses import replace

    from fedrad_client.intake.deid.subject import identified

    recipe = replace(RECIPE, withdrawn=frozenset({identified("P1").pseudonym(RECIPE.cohort)}))

    assert through(sound("CR", WHO), recipe).code == "withdrawn"
    assert through(sound("CR", Who("P2")), recipe).code is None


def test_big_endian_and_implicit_files_are_read(through):
    ds = sound("CT", WHO)
    before = ds.pixel_array.copy()
    stream = io.BytesIO()
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds.save_as(stream, implicit_vr=False, little_endian=False, enforce_file_format=True)

    assert np.array_equal(parsed(through(stream.getvalue())).pixel_array, before)
