"""What is kept of a header is a closed list; everything else does not exist."""

from datetime import date, datetime

import pytest

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.explanation import explain
from fedrad_client.intake.deid.rules import KEYWORDS, RULES, PseudonymKeys, Subject, rebuild, subject
from fedrad_common.errors import FormatError


@pytest.fixture
def rebuilt(keys, dataset):
    def run(**elements):
        ds = dataset(**elements)
        return rebuild(ds, subject(ds), keys)

    return run


def test_the_printed_list_names_every_rule():
    text = explain()

    assert all(f"\n{keyword} " in text for keyword in KEYWORDS)


def test_the_list_is_short_enough_to_be_read():
    assert len(RULES) <= 35
    assert len({rule.keyword for rule in RULES}) == len(RULES)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom warns of the wrong values that this test writes
@pytest.mark.parametrize(
    ("keyword", "planted", "kept"),
    [
        ("BodyPartExamined", "chest", "CHEST"),
        ("BodyPartExamined", "DOE JOHN", None),
        ("ViewPosition", "PA", "PA"),
        ("ViewPosition", "DOE", None),
        ("PatientSex", "F", "F"),
        ("PatientSex", "DOE", None),
        ("Laterality", "L", "L"),
        ("Laterality", "JD", None),
        ("PatientPosition", "DOEJOHN", None),
        ("PatientAge", "045Y", "045Y"),
        ("PatientAge", "090Y", "090Y"),
        ("PatientAge", "104Y", "090Y"),
        ("PatientAge", "DOEJ", None),
        ("PixelSpacing", [0.5, 0.25], [0.5, 0.25]),
        ("PixelSpacing", [19420317, 1], None),
        ("KVP", "120", 120.0),
        ("KVP", "19420317", None),
        ("SliceThickness", "1.23456789", 1.23457),
        ("StudyDate", "DOE", None),
        ("SOPClassUID", "1.2.19420317", None),
        ("BurnedInAnnotation", "DOE", None),
        ("PhotometricInterpretation", "DOE", None),
        ("ImageOrientationPatient", [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0]),
        ("ImagePositionPatient", [1, 2], None),
    ],
)
def test_a_value_is_kept_only_where_its_rule_accepts_it(rebuilt, keyword, planted, kept):
    assert rebuilt(**{keyword: planted}).get(keyword) == kept


def test_names_and_free_text_have_no_rule(rebuilt):
    fields = rebuilt(PatientName="DOE^JOHN", StudyDescription="DOE", InstitutionName="X", PatientBirthDate="19420317", Manufacturer="M")

    assert set(fields) <= {rule.keyword for rule in RULES}
    assert "DOE" not in str(fields)


def test_uids_become_pseudonyms_that_keep_what_belongs_together(rebuilt):
    one, other = rebuilt(image="1.2.3.1", SeriesInstanceUID="1.9"), rebuilt(image="1.2.3.2", SeriesInstanceUID="1.9")

    assert one["SOPInstanceUID"] != other["SOPInstanceUID"]
    assert one["SeriesInstanceUID"] == other["SeriesInstanceUID"]
    assert one["SOPInstanceUID"].startswith("2.25.")
    assert len(one["SOPInstanceUID"]) <= 64


def test_intervals_of_a_patient_survive_and_dates_do_not(rebuilt):
    fields = rebuilt(StudyDate="20200229", AcquisitionDate="20200310")
    first, second = (datetime.strptime(fields[name], "%Y%m%d").date() for name in ("StudyDate", "AcquisitionDate"))  # noqa: DTZ007 - a day has no zone

    assert (second - first).days == 10
    assert 1 <= (date(2020, 2, 29) - first).days <= 3650


def test_another_patient_has_another_shift(keys):
    assert len({Subject(f"P{number}", "").shift(keys) for number in range(20)}) > 15


def test_a_patient_is_id_and_issuer_and_blanks_around_do_not_matter(keys, dataset):
    name = lambda **elements: subject(dataset(**elements)).pseudonym(keys)  # noqa: E731

    assert name(patient="P1") == name(patient=" P1 ")
    assert name(patient="P1") != name(patient="P2")
    assert name(patient="P1", IssuerOfPatientID="A") != name(patient="P1", IssuerOfPatientID="B")


def test_another_secret_names_everybody_anew(keys):
    other = PseudonymKeys.from_secret(b"x" * 32)

    assert Subject("P1", "").pseudonym(keys) != Subject("P1", "").pseudonym(other)
    assert other.id != keys.id


def test_keys_and_subjects_do_not_print_themselves(keys):
    assert repr(keys) == f"PseudonymKeys(id='{keys.id}')"
    assert "DOE" not in repr(Subject("DOE", "HOSPITAL"))


def test_a_secret_of_another_length_is_refused():
    with pytest.raises(FormatError, match="31 bytes, expected 32"):
        PseudonymKeys.from_secret(bytes(31))


def test_a_refusal_carries_its_code_and_no_cause(rebuilt):
    with pytest.raises(Quarantined) as caught:
        rebuilt(PatientID=None)

    assert str(caught.value) == "no-patient-id"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
