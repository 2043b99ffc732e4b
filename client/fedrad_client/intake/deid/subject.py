"""Whose image it is. Without a Patient ID that names somebody nobody can be counted, so the file is set aside."""

import unicodedata
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydicom import Dataset

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.keys import PseudonymKeys, mac
from fedrad_common.canonical import canonical_json

MAX_SHIFT = 3650  # days
IDENTIFIERS = ("PatientID", "IssuerOfPatientID")
# What stands in Patient ID where nobody knew it, compared without case, blanks and punctuation ("N/A" is NA, "no_id" is NOID). One person
# would be made of all who share it. A lone 0 is a number like any other: lists that count from it exist.
_NAMES_NOBODY = (
    "ANON ANONYM ANONYME ANONYMIZED ANONYMISED ANONYMOUS ANONYMOUSPATIENT BLANK DEFAULT DEIDENTIFIED DELETED DUMMY EMPTY MISSING NA NAN "
    "NIL NOID NONAME NONE NOPATIENTID NOTAPPLICABLE NOTAVAILABLE NOTGIVEN NOTKNOWN NOTSPECIFIED NULL PATIENTID REDACTED REMOVED "
    "UNBEKANNT UNDEFINED UNIDENTIFIED UNK UNKNOWN UNKNOWNID UNKNOWNPATIENT UNNAMED UNSPECIFIED WITHHELD"
)
PLACEHOLDERS = frozenset(_NAMES_NOBODY.split())
REPEATED = {"0": 2, "9": 4, "X": 2}  # "00", "9999", "XX": one sign from so many times on


@dataclass(frozen=True)
class Subject:
    """Whose image it is, before the pseudonym. Lives in memory only; never printed."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)

    @property
    def identity(self) -> bytes:
        return canonical_json([self.patient_id, self.issuer])

    def pseudonym(self, keys: PseudonymKeys) -> str:
        """32 hexadecimal digits."""
        return mac(keys.patient, self.identity).hex()[:32]

    def shift(self, keys: PseudonymKeys) -> timedelta:
        """Whole days to go back, the same for all dates of a patient, so that intervals survive."""
        return timedelta(days=1 + int.from_bytes(mac(keys.date, self.identity)[:8], "big") % MAX_SHIFT)


def subject(ds: Dataset) -> Subject:
    """Raises Quarantined: the Patient ID is missing, blank, a placeholder, more than one, or unreadable."""
    try:
        found = [ds.get(keyword) or "" for keyword in IDENTIFIERS]
    except Exception:  # its text quotes the value
        raise Quarantined("no-patient-id") from None
    if not all(isinstance(value, str) for value in found):  # several values are several people
        raise Quarantined("no-patient-id")
    who = identified(*found)
    if is_placeholder(who.patient_id):
        raise Quarantined("no-patient-id")
    return who


def identified(patient_id: Any, issuer: Any = "") -> Subject:
    """One patient, whether a file or a person names it: blanks around it and the Unicode form of its letters make no difference."""
    return Subject(*(unicodedata.normalize("NFC", str(value).strip(" \0")) for value in (patient_id, issuer)))


def is_placeholder(patient_id: str) -> bool:
    """Does it name nobody: blank, without a letter or digit, one of PLACEHOLDERS, or one sign repeated?"""
    bare = "".join(sign for sign in unicodedata.normalize("NFKC", patient_id).upper() if sign.isalnum())
    first = bare[:1]
    return not bare or bare in PLACEHOLDERS or (bare == first * len(bare) and len(bare) >= REPEATED.get(first, len(bare) + 1))
