"""De-identification by rebuilding: a record is made from a typed allow-list; whatever the list does not name does not exist."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.keys import PseudonymKeys as PseudonymKeys
from fedrad_client.intake.deid.subject import IDENTIFIERS
from fedrad_client.intake.deid.subject import Subject as Subject
from fedrad_client.intake.deid.subject import identified as identified
from fedrad_client.intake.deid.subject import subject as subject
from fedrad_client.intake.deid.terms import (
    BODY_PARTS,
    IMAGE_CLASSES,
    MAKERS,
    MODALITIES,
    PATIENT_POSITIONS,
    PHOTOMETRIC,
    SEXES,
    SIDES,
    VIEW_POSITIONS,
    YES_NO,
)
from fedrad_client.intake.deid.values import Apply, Cloak, Make, T, age, known, new_uid, number, numbers, one_of, shifted, whole
from fedrad_client.intake.deid.values import Value as Value

Action = Literal["D", "X", "U", "C", "K", "-"]  # of PS3.15 E.3: dummy, removed, new UID, cleaned, kept; "-" where the table is silent
DAY, PERSON = "E.3.6", "E.3.7"  # paragraphs of PS3.15 behind what is kept against the basic profile


@dataclass(frozen=True)
class Rule(Generic[T]):
    keyword: str
    basic: str  # what PS3.15 table E.1-1 demands in its basic profile, as X/Z/D; "-" where it does not name the element
    action: Action  # what is done here
    paragraph: str  # of PS3.15, that allows it
    keeps: str
    apply: Make[T]

    @functools.cached_property
    def tag(self) -> BaseTag:
        return Tag(self.keyword)


ValueRule: TypeAlias = Rule[Value]


def plain(keyword: str, keeps: str, apply: Apply) -> ValueRule:
    """An element that PS3.15 does not name, because a sound value of it identifies nobody; its rule sees to it that the value is sound."""
    return Rule(keyword, "-", "-", "E.1.1", keeps, apply)


def coded(keyword: str, terms: frozenset[str]) -> ValueRule:
    return plain(keyword, f"one of {len(terms)} terms" if len(terms) > 4 else " or ".join(sorted(terms)), one_of(terms))


def uid(keyword: str) -> ValueRule:
    return Rule(keyword, "U", "U", "E.1.1", "keyed pseudonym", new_uid)


def day(keyword: str, basic: str) -> ValueRule:
    return Rule(keyword, basic, "C", DAY, "shifted back by whole days, one shift a patient", shifted)


def count(keyword: str, low: int, high: int) -> ValueRule:
    return plain(keyword, f"{low} … {high}", whole(low, high))


def measure(keyword: str, low: float, high: float, unit: str) -> ValueRule:
    return plain(keyword, f"{low:g} … {high:g} {unit}".rstrip(), number(low, high))


def measures(keyword: str, n: int, low: float, high: float, unit: str = "") -> ValueRule:
    return plain(keyword, f"{n} numbers, {low:g} … {high:g} {unit}".rstrip(), numbers(n, n, low, high))


RULES: tuple[ValueRule, ...] = (
    uid("SOPInstanceUID"),
    uid("SeriesInstanceUID"),
    uid("StudyInstanceUID"),
    uid("FrameOfReferenceUID"),
    plain("SOPClassUID", "one of DICOM's image classes", one_of(IMAGE_CLASSES)),
    coded("Modality", MODALITIES),
    plain("Manufacturer", f"one of {len(set(MAKERS.values()))} makers, by what it begins with", known(MAKERS)),
    day("StudyDate", "Z"),
    day("AcquisitionDate", "X/Z"),
    Rule("PatientSex", "Z", "K", PERSON, "M, F or O", one_of(SEXES)),
    Rule("PatientAge", "X", "K", PERSON, "nnnD, W, M or Y; from 90 years on 090Y", age),
    coded("BodyPartExamined", BODY_PARTS),
    coded("Laterality", SIDES),
    coded("ImageLaterality", SIDES),
    coded("ViewPosition", VIEW_POSITIONS),
    coded("PatientPosition", PATIENT_POSITIONS),
    coded("BurnedInAnnotation", YES_NO),
    coded("LossyImageCompression", frozenset({"00", "01"})),
    coded("PhotometricInterpretation", PHOTOMETRIC),
    count("Rows", 1, 65535),
    count("Columns", 1, 65535),
    count("BitsStored", 1, 64),
    measures("PixelSpacing", 2, 1e-3, 100, "mm"),
    measures("ImagerPixelSpacing", 2, 1e-3, 100, "mm"),
    measure("SliceThickness", 0, 500, "mm"),
    measure("SpacingBetweenSlices", -500, 500, "mm"),
    measures("ImagePositionPatient", 3, -5000, 5000, "mm"),
    measures("ImageOrientationPatient", 6, -1.001, 1.001),
    measure("MagneticFieldStrength", 0.01, 30, "T"),
    measure("RepetitionTime", 0, 60000, "ms"),
    measure("EchoTime", 0, 2000, "ms"),
    measure("InversionTime", 0, 20000, "ms"),
    measure("FlipAngle", 0, 360, "degrees"),
    measure("KVP", 1, 1000, "kV"),
)
KEYWORDS: tuple[str, ...] = (*IDENTIFIERS, *(rule.keyword for rule in RULES))


def rebuild(ds: Dataset, who: Subject, keys: PseudonymKeys) -> dict[str, Value]:
    """The record of one image; a value that its rule does not accept is left out.

    Raises:
        Quarantined: the SOP Instance UID is missing.
    """
    fields = ruled(ds, RULES, Cloak(keys, who.shift(keys)))
    if "SOPInstanceUID" not in fields:
        raise Quarantined("no-uid")
    return fields


def ruled(ds: Dataset, rules: Iterable[Rule[T]], cloak: Cloak) -> dict[str, T]:
    """What the rules make of a data set, by keyword."""
    return {rule.keyword: value for rule in rules if (value := _ruled(ds, rule, cloak)) is not None}


def _ruled(ds: Dataset, rule: Rule[T], cloak: Cloak) -> T | None:
    try:
        if rule.tag not in ds:
            return None
        value = ds[rule.tag].value
        return None if value is None or value == "" else rule.apply(value, cloak)
    except Exception:  # any fault of a value is a value that does not exist; its text could be a name
        return None
