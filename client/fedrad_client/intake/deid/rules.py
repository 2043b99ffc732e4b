"""De-identification by rebuilding: a record is made from a typed allow-list; whatever the list does not name does not exist."""

import functools
import hashlib
import hmac
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.terms import BODY_PARTS, IMAGE_CLASSES, MODALITIES, PATIENT_POSITIONS, PHOTOMETRIC, VIEW_POSITIONS
from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.errors import FormatError

Value = str | int | float | list[float]
MAX_SHIFT = 3650  # days


@dataclass(frozen=True)
class PseudonymKeys:
    """One key a purpose, derived from the site's secret; kept for the site's lifetime, because a new one renames and moves everybody."""

    patient: bytes = field(repr=False)
    uid: bytes = field(repr=False)
    date: bytes = field(repr=False)
    split: bytes = field(repr=False)
    id: str  # names the secret without saying anything about it

    @classmethod
    def from_secret(cls, secret: bytes) -> "PseudonymKeys":
        """Raises FormatError when `secret` is not 32 bytes."""
        if len(secret) != 32:
            raise FormatError(f"pseudonym key: {len(secret)} bytes, expected 32", hint="restore it from the backup")
        patient, uid, day, split, name = (_derive(secret, purpose) for purpose in ("patient", "uid", "date", "split", "id"))
        return cls(patient=patient, uid=uid, date=day, split=split, id=sha256_hex(name)[:16])


def _derive(secret: bytes, purpose: str) -> bytes:
    return HKDF(hashes.SHA256(), length=32, salt=None, info=f"fedrad/1/{purpose}".encode()).derive(secret)


@dataclass(frozen=True)
class Subject:
    """Whose image it is, before the pseudonym. Lives in memory only; never printed."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)

    @property
    def identity(self) -> bytes:
        return canonical_json([self.patient_id, self.issuer])

    def pseudonym(self, keys: PseudonymKeys) -> str:
        return _mac(keys.patient, self.identity).hex()[:32]

    def shift(self, keys: PseudonymKeys) -> timedelta:
        """Whole days to go back, the same for all dates of a patient, so that intervals survive."""
        return timedelta(days=1 + int.from_bytes(_mac(keys.date, self.identity)[:8], "big") % MAX_SHIFT)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


@dataclass(frozen=True)
class Cloak:
    """What the rules need to know of the patient in hand."""

    keys: PseudonymKeys
    shift: timedelta


Apply = Callable[[Any, Cloak], Value | None]


@dataclass(frozen=True)
class Rule:
    keyword: str
    action: str  # of PS3.15, table E.1-1: U new UID · C cleaned · K kept; "-" where the table does not name the element
    keeps: str
    apply: Apply

    @functools.cached_property
    def tag(self) -> BaseTag:
        return Tag(self.keyword)


def _text(value: Any) -> str:
    return str(value).strip(" \0")


def one_of(terms: frozenset[str]) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        term = _text(value).upper()
        return term if term in terms else None

    return apply


def number(low: float, high: float) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        found = float(value)
        return float(f"{found:.6g}") if low <= found <= high else None

    return apply


def whole(low: int, high: int) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        found = int(value)
        return found if low <= found <= high else None

    return apply


def numbers(count: int, low: float, high: float) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        found = [float(f"{float(item):.6g}") for item in value]
        return found if len(found) == count and all(low <= item <= high for item in found) else None

    return apply


def new_uid(value: Any, cloak: Cloak) -> Value | None:
    """`2.25.` and a 128-bit integer (PS3.5 B.2), from a keyed hash: the same UID stays the same, nobody else can make it."""
    uid = _text(value)
    return f"2.25.{int.from_bytes(_mac(cloak.keys.uid, uid.encode())[:16], 'big')}" if uid else None


def shifted(value: Any, cloak: Cloak) -> Value | None:
    text = _text(value).replace(".", "")  # ACR-NEMA wrote 1993.08.22
    day = date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 and text.isdecimal() else None
    return (day - cloak.shift).strftime("%Y%m%d") if day and day.year >= 1950 else None


def age(value: Any, _: Cloak) -> Value | None:
    """Ages from 90 years on become 90: the oldest are few enough to be known."""
    text = _text(value).upper()
    if len(text) != 4 or not (text[:3].isascii() and text[:3].isdecimal()) or text[3] not in "DWMY":
        return None
    return "090Y" if int(text[:3]) * {"D": 1 / 365, "W": 7 / 365, "M": 1 / 12, "Y": 1.0}[text[3]] >= 90 else text


YES_NO = frozenset({"YES", "NO"})
RULES: tuple[Rule, ...] = (
    Rule("SOPInstanceUID", "U", "keyed pseudonym", new_uid),
    Rule("SeriesInstanceUID", "U", "keyed pseudonym", new_uid),
    Rule("StudyInstanceUID", "U", "keyed pseudonym", new_uid),
    Rule("FrameOfReferenceUID", "U", "keyed pseudonym", new_uid),
    Rule("SOPClassUID", "-", "one of DICOM's image classes", one_of(IMAGE_CLASSES)),
    Rule("Modality", "-", f"one of {len(MODALITIES)} terms", one_of(MODALITIES)),
    Rule("StudyDate", "C", "shifted back by whole days, one shift a patient", shifted),
    Rule("AcquisitionDate", "C", "shifted back by whole days, one shift a patient", shifted),
    Rule("PatientSex", "K", "M, F or O", one_of(frozenset("MFO"))),
    Rule("PatientAge", "K", "nnnD, W, M or Y; from 90 years on 090Y", age),
    Rule("BodyPartExamined", "-", f"one of {len(BODY_PARTS)} terms of PS3.16 annex L", one_of(BODY_PARTS)),
    Rule("Laterality", "-", "L, R, U or B", one_of(frozenset("LRUB"))),
    Rule("ImageLaterality", "-", "L, R, U or B", one_of(frozenset("LRUB"))),
    Rule("ViewPosition", "-", f"one of {len(VIEW_POSITIONS)} terms", one_of(VIEW_POSITIONS)),
    Rule("PatientPosition", "-", f"one of {len(PATIENT_POSITIONS)} terms", one_of(PATIENT_POSITIONS)),
    Rule("BurnedInAnnotation", "-", "YES or NO", one_of(YES_NO)),
    Rule("LossyImageCompression", "-", "00 or 01", one_of(frozenset({"00", "01"}))),
    Rule("PhotometricInterpretation", "-", f"one of {len(PHOTOMETRIC)} terms", one_of(PHOTOMETRIC)),
    Rule("Rows", "-", "1 … 65535", whole(1, 65535)),
    Rule("Columns", "-", "1 … 65535", whole(1, 65535)),
    Rule("BitsStored", "-", "1 … 64", whole(1, 64)),
    Rule("PixelSpacing", "-", "2 numbers, 0.001 … 100 mm", numbers(2, 1e-3, 100)),
    Rule("ImagerPixelSpacing", "-", "2 numbers, 0.001 … 100 mm", numbers(2, 1e-3, 100)),
    Rule("SliceThickness", "-", "0 … 500 mm", number(0, 500)),
    Rule("SpacingBetweenSlices", "-", "-500 … 500 mm", number(-500, 500)),
    Rule("ImagePositionPatient", "-", "3 numbers, -5000 … 5000 mm", numbers(3, -5000, 5000)),
    Rule("ImageOrientationPatient", "-", "6 numbers, -1.001 … 1.001", numbers(6, -1.001, 1.001)),
    Rule("MagneticFieldStrength", "-", "0.01 … 30 T", number(0.01, 30)),
    Rule("RepetitionTime", "-", "0 … 100000 ms", number(0, 1e5)),
    Rule("EchoTime", "-", "0 … 10000 ms", number(0, 1e4)),
    Rule("InversionTime", "-", "0 … 100000 ms", number(0, 1e5)),
    Rule("FlipAngle", "-", "0 … 360 degrees", number(0, 360)),
    Rule("KVP", "-", "1 … 1000 kV", number(1, 1000)),
)
IDENTIFIERS = ("PatientID", "IssuerOfPatientID")
KEYWORDS: tuple[str, ...] = (*IDENTIFIERS, *(rule.keyword for rule in RULES))


def subject(ds: Dataset) -> Subject:
    """Raises Quarantined: the Patient ID is missing, blank or unreadable."""
    try:
        who = identified(*(ds.get(keyword) or "" for keyword in IDENTIFIERS))
    except Exception:
        raise Quarantined("no-patient-id") from None
    if not who.patient_id:
        raise Quarantined("no-patient-id")
    return who


def identified(patient_id: Any, issuer: Any = "") -> Subject:
    """One patient, whether a file or a person names it: blanks around it and the Unicode form of its letters make no difference."""
    return Subject(unicodedata.normalize("NFC", _text(patient_id)), unicodedata.normalize("NFC", _text(issuer)))


def rebuild(ds: Dataset, who: Subject, keys: PseudonymKeys) -> dict[str, Value]:
    """A new record by DICOM keyword, from nothing but the rules; a value that its rule does not accept is left out.

    Raises:
        Quarantined: the SOP Instance UID is missing.
    """
    cloak = Cloak(keys, who.shift(keys))
    fields = {rule.keyword: value for rule in RULES if (value := _ruled(ds, rule, cloak)) is not None}
    if "SOPInstanceUID" not in fields:
        raise Quarantined("no-uid")
    return fields


def _ruled(ds: Dataset, rule: Rule, cloak: Cloak) -> Value | None:
    try:
        if rule.tag not in ds:
            return None
        value = ds[rule.tag].value
        return None if value is None or value == "" else rule.apply(value, cloak)
    except Exception:  # any fault of a value is a value that does not exist; its text could be a name
        return None


def explained() -> list[tuple[str, str, str]]:
    """The whole list by rule: keyword, PS3.15 action, what is kept."""
    return [
        ("PatientID", "D", "keyed pseudonym of Patient ID and issuer; a file without one is set aside"),
        ("IssuerOfPatientID", "X", "part of the identity behind the pseudonym; not kept"),
        *((rule.keyword, rule.action, rule.keeps) for rule in RULES),
    ]


def explain() -> str:
    """The same for a person, one rule a line."""
    head = "keyword                    action  what is kept (PS3.15 table E.1-1: D dummy, U new UID, C cleaned, K kept, X removed)"
    tail = "everything else, private elements, nested sequences and file names included: does not exist in a cohort"
    return "\n".join([head, *(f"{keyword:<26} {action:<7} {keeps}" for keyword, action, keeps in explained()), tail])
