"""A name planted anywhere in a file reaches no byte that is written, no log line and no message."""

import base64
import logging
import warnings

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.sequence import Sequence

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.rules import RULES
from fedrad_common.errors import MisuseError

CANARY = "ZQXJKVDOE"
NUMBER = "19420317"
SEEN = {"Rows", "Columns", "BitsStored", "PhotometricInterpretation", "Modality", "SOPClassUID", "SOPInstanceUID"}  # an image needs them
TEXT_TAGS = [  # one of nearly every kind of text that a scanner fills
    "AccessionNumber", "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "StudyDescription", "SeriesDescription",
    "OperatorsName", "PatientName", "PatientBirthDate", "OtherPatientNames", "PatientAddress", "PatientComments", "ProtocolName",
    "DeviceSerialNumber", "StationName", "ImageComments", "StudyID", "RequestedProcedureDescription", "PerformedProcedureStepID",
    "ImageType", "Manufacturer", "StudyTime", "ContentDate", "AdditionalPatientHistory", "IssuerOfPatientID",
]  # fmt: skip


def plant(ds: Dataset, element: str, name: str) -> None:
    tag_vr = dictionary_VR(element)
    value = NUMBER if tag_vr in {"DA", "DS", "IS", "TM"} else name
    setattr(ds, element, value)


@pytest.fixture
def planted(dataset):
    """A usable file with a canary in every place that text can stand."""
    ds = dataset(patient=f"{CANARY}-7", image=f"1.2.{NUMBER}.4")
    for element in TEXT_TAGS:
        plant(ds, element, CANARY)
    for rule in RULES:
        if rule.keyword not in SEEN and dictionary_VR(rule.keyword) not in {"UI", "DS", "US"}:
            ds.add_new(rule.keyword, "LO", CANARY)  # also with a wrong VR
    inner, outer = Dataset(), Dataset()
    inner.PatientName, outer.PatientID = CANARY, CANARY
    outer.RequestAttributesSequence = Sequence([inner])
    ds.OtherPatientIDsSequence = Sequence([outer])
    ds.add_new((0x0019, 0x0010), "LO", f"{CANARY} PRIVATE")
    ds.add_new((0x0019, 0x1001), "UN", CANARY.encode())
    ds.add_new((0x7FE1, 0x0010), "LO", CANARY)
    ds.add_new((0xFFFC, 0xFFFC), "OB", CANARY.encode() + b"\0")
    ds.file_meta.SourceApplicationEntityTitle = CANARY
    ds.file_meta.PrivateInformationCreatorUID = f"1.2.{NUMBER}"
    ds.file_meta.PrivateInformation = CANARY.encode() + b"\0"
    ds.preamble = CANARY.encode().ljust(128, b"\0")
    return ds


def forms(text: str) -> list[bytes]:
    plain = text.encode()
    return [plain, plain.lower(), text.encode("utf-16-le"), plain.hex().encode(), base64.b64encode(plain)[:8], repr(text).encode()[1:-1]]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom warns of the wrong values that this test writes
def test_no_canary_reaches_the_disk_a_log_or_a_message(tmp_path, planted, write_dicom, run_ingest, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / CANARY
    write_dicom(folder / "sound.dcm")
    planted.save_as(folder / f"{CANARY}.dcm", enforce_file_format=True)
    for number, (element, value) in enumerate(
        {"Rows": 4000, "Modality": CANARY, "PatientID": "", "PhotometricInterpretation": CANARY}.items()
    ):
        setattr(planted, element, value)
        planted.save_as(folder / f"{CANARY}{number}.dcm", enforce_file_format=True)
    whole = (folder / f"{CANARY}.dcm").read_bytes()
    for size in range(200, 1600, 61):
        (folder / f"{CANARY}{size}").write_bytes(whole[:size])
    caplog.clear()
    (tmp_path / "labels.csv").write_text(f"PatientID,A\nP1,1\n{CANARY}-7,0\n{CANARY}-8,1\n")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = run_ingest(folder, tmp_path / "labels.csv")

    files = [path for path in (tmp_path / "cohort").rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() + str(path.relative_to(tmp_path)).encode() for path in files)
    said = (repr(done) + caplog.text + "".join(capfd.readouterr())).encode()
    assert not warned
    assert done.n_images == 2
    for canary in (CANARY, NUMBER):
        assert not [form for form in forms(canary) if form in written]
        assert not [form for form in forms(canary) if form in said]


def test_a_refused_folder_and_table_are_not_quoted(tmp_path, write_dicom, run_ingest):
    write_dicom(tmp_path / CANARY / f"{CANARY}.dcm", patient=CANARY, Modality="US")
    (tmp_path / "labels.csv").write_text(f"PatientID,A\n{CANARY},{CANARY}\n")

    for labels in (None, tmp_path / "labels.csv"):
        with pytest.raises(MisuseError) as caught:
            run_ingest(tmp_path / CANARY, labels)
        assert CANARY not in str(caught.value) + caught.value.hint


def test_a_quarantine_shows_no_cause():
    shown = Quarantined("undecodable")

    assert shown.args == ("undecodable",)


def test_the_rules_name_elements_that_exist():
    assert all(keyword_for_tag(rule.tag) == rule.keyword for rule in RULES)
    assert np.unique([rule.keyword for rule in RULES]).size == len(RULES)
