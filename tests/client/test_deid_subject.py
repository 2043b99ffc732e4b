"""Who a patient is: stable over files, runs and processes, different for each project, and nobody where the ID names nobody."""

import subprocess
import sys

import pytest

from fedrad_client.cohort.split import part_of
from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.subject import Subject, identified, subject

SECRET = bytes(range(32))
PLACEHOLDERS = [
    "", " ", "\0", "UNKNOWN", "unknown", "Un-known", "N/A", "n.a.", "NONE", "None", "null", "NaN", "0000", "00", "000-000", "ANONYMOUS",
    "Anonymized", "anon", "???", "---", "*", "XXXX", "xx", "9999", "9999999", "NO_ID", "no id", "Patient ID", "REMOVED",
    "[redacted]", "ＵＮＫＮＯＷＮ", "\u200b", "^^",
]  # fmt: skip
PEOPLE = [
    "P1",
    "0",
    "1",
    "123456",
    "0001",
    "9",
    "99",
    "999",
    "X",
    "UNK1",
    "ANON-0001",
    "Anonymous 7",
    "NA12878",
    "00A",
    "Müller",
    "山田",
    "90000",
]


@pytest.mark.parametrize("patient", PLACEHOLDERS)
def test_an_id_that_names_nobody_is_set_aside(dataset, patient):
    with pytest.raises(Quarantined, match="no-patient-id"):
        subject(dataset(patient=patient))


@pytest.mark.parametrize("patient", PEOPLE)
def test_an_id_that_only_looks_like_one_is_a_patient(dataset, patient):
    assert subject(dataset(patient=patient, SpecificCharacterSet="ISO_IR 192")).patient_id == patient


def test_several_ids_in_one_element_are_nobody(dataset):
    ds = dataset()
    ds.PatientID = ["P1", "P2"]

    with pytest.raises(Quarantined, match="no-patient-id"):
        subject(ds)


def test_a_pseudonym_is_the_same_in_another_process():
    script = (
        "from fedrad_client.intake.deid.keys import PseudonymKeys; from fedrad_client.intake.deid.subject import identified; "
        "k = PseudonymKeys.from_secret(bytes(range(32)), project='p'); w = identified('P1', 'A'); print(w.pseudonym(k), w.shift(k).days)"
    )
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}, check=True
    ).stdout.split()
    keys = PseudonymKeys.from_secret(SECRET, project="p")

    assert other == [identified("P1", "A").pseudonym(keys), str(identified("P1", "A").shift(keys).days)]


def test_the_cohorts_pseudonyms_stay_what_they_were():
    keys = PseudonymKeys.from_secret(SECRET)

    # Computed by the first version: another value would rename every patient of every site.
    assert identified("P1").pseudonym(keys) == "6441759447143f93c708a3a2ed9b23da"
    assert identified("P1").shift(keys).days == 2170
    assert keys.id == "44c8ea042761aaae"


def test_projects_cannot_be_joined():
    cohort, one, other = (PseudonymKeys.from_secret(SECRET, project=project) for project in (None, "one", "other"))
    who = [identified(f"P{number}") for number in range(50)]

    for first, second in ((cohort, one), (one, other)):
        assert not {each.pseudonym(first) for each in who} & {each.pseudonym(second) for each in who}
        assert sum(each.shift(first) == each.shift(second) for each in who) <= 2
        assert first.uid != second.uid
        assert first.id != second.id


def test_one_key_says_who_validates_whatever_the_project():
    cohort, project = PseudonymKeys.from_secret(SECRET), PseudonymKeys.from_secret(SECRET, project="teaching")

    assert cohort.split == project.split
    assert cohort.merge == project.merge
    assert part_of(b"P1", key=cohort.split, fraction=0.5) == part_of(b"P1", key=project.split, fraction=0.5)


def test_no_project_can_imitate_a_purpose():
    named = [PseudonymKeys.from_secret(SECRET, project=name) for name in ("patient", "project/", '","patient"]', "split")]
    keys = [key for each in named for key in (each.patient, each.uid, each.date)]

    assert len(set(keys)) == len(keys)
    assert PseudonymKeys.from_secret(SECRET).split not in keys


def test_a_thousand_patients_are_a_thousand_pseudonyms():
    keys = PseudonymKeys.from_secret(SECRET)

    assert len({Subject(f"P{number}", issuer).pseudonym(keys) for number in range(500) for issuer in ("", "A")}) == 1000
