"""One DICOM file to another that identifies nobody: a new data set with new pixel bytes, never a scrubbed copy."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from fedrad_client.intake.burnin.gate import GATE_KEYWORDS, Verdict, judge
from fedrad_client.intake.burnin.rules import DEVICE_KEYWORDS, BurnRules, device_of
from fedrad_client.intake.burnin.suspicion import Suspicion
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.deid.coded import REGIONS
from fedrad_client.intake.deid.export_rules import ALL_RULES, EMPTY, EXPORT_KEYWORDS
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.links import concept
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.methods import write_methods
from fedrad_client.intake.deid.pixel_elements import padding_value, write_pixels
from fedrad_client.intake.deid.rules import ruled
from fedrad_client.intake.deid.subject import Subject, subject
from fedrad_client.intake.deid.terms import PAIRED, PHOTOMETRIC
from fedrad_client.intake.deid.values import Cloak
from fedrad_client.intake.pixels.image import Array, decode
from fedrad_client.intake.pixels.masks import hidden_by
from fedrad_client.intake.reading.content import load
from fedrad_client.intake.reading.dicom import MAX_PIXELS, hushed, parse
from fedrad_client.intake.reading.limits import allow_for_pixels
from fedrad_common.canonical import sha256_hex

IMPLEMENTATION, VERSION = UID("2.25.137340245839526480281190873450223186417"), "FEDRAD_1"
DIGITS = 6  # of a decimal string; a rule lets no more through


@dataclass(frozen=True)
class ExportRecipe:
    """All that turns one file into one exported file; nothing in it depends on any other file."""

    project: PseudonymKeys
    cohort: PseudonymKeys  # whose pseudonyms name those who withdrew
    merges: Merges = field(default_factory=Merges)
    withdrawn: frozenset[str] = frozenset()
    burn: BurnRules = field(default_factory=BurnRules)  # what people decided about text in pictures


@dataclass(frozen=True)
class Exported:
    """What became of one file: where it goes below the output folder and its bytes, or a code."""

    code: Code | None = None
    series: str | None = None  # pseudonymous UID
    place: str = ""  # PATIENT/STUDY/IMAGE.dcm, of pseudonyms
    content: bytes = field(default=b"", repr=False)
    suspicion: Suspicion | None = None  # with "burned-in" and "needs-mask"
    named: str = ""  # with it: pseudonym in the cohort, so that a withdrawal finds the picture
    sha256: str = ""  # with it: of the file


def export(path: Path, recipe: ExportRecipe) -> Exported:
    """One file, on its own. Lets no text of it out, and raises nothing for what it holds.

    Raises:
        MemoryError: it needs more than this process may take.
    """
    series: str | None = None
    try:
        with hushed():
            file = load(path)
            ds = parse(file, _WANTED)
            who = recipe.merges.person(subject(ds), recipe.cohort)
            if who.pseudonym(recipe.cohort) in recipe.withdrawn:
                return Exported("withdrawn")
            made, fields = rebuilt(ds, who, recipe.project)
            series = fields.get("SeriesInstanceUID")
            check(ds, fields)
            allow_for_pixels(fields["Rows"] * fields["Columns"])
            stored = decode(ds)
            content, device = sha256_hex(file), device_of(ds, recipe.cohort)
            verdict = judge(ds, stored[None], recipe.burn, content=content, device=device)
            if verdict.code is not None:
                suspicion = Suspicion.of(verdict, stored[None], device)
                return Exported(verdict.code, series, suspicion=suspicion, named=who.pseudonym(recipe.cohort), sha256=content)
            _image(made, fields, _blanked(stored, made, fields, verdict))
            place = f"{made.PatientID}/{fields['StudyInstanceUID']}/{fields['SOPInstanceUID']}.dcm"
            return Exported(None, series, place, encoded(made))
    except Quarantined as outcome:
        return Exported(outcome.code, series)
    except MemoryError:
        raise
    except Exception:  # its text may quote the file; the code is counted and shown
        return Exported("internal", series)


_WANTED = tuple(dict.fromkeys((*EXPORT_KEYWORDS, *GATE_KEYWORDS, *DEVICE_KEYWORDS)))


def _blanked(stored: Array, made: Dataset, fields: dict[str, Any], verdict: Verdict) -> Array:
    """(H, W) stored values, black where a person said so."""
    if (hidden := hidden_by(verdict.masks, stored.shape)) is None:
        return stored
    write_methods(made, fields, blanked=True)
    inverted = fields.get("PhotometricInterpretation") == "MONOCHROME1"
    blanked: Array = np.where(hidden, stored.max() if inverted else stored.min(), stored)
    return blanked


def check(ds: Dataset, fields: dict[str, Any]) -> None:
    """Raises Quarantined before anything is decoded."""
    frames, samples = (_whole(ds.get(keyword), 1) for keyword in ("NumberOfFrames", "SamplesPerPixel"))
    refusals: dict[Code, bool] = {
        "no-uid": not {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"} <= set(fields),
        "no-pixels": not ds.get("PixelData") or not {"Rows", "Columns"} <= set(fields),
        "not-exported": fields.get("SOPClassUID") not in EMPTY,
        "multi-frame": frames != 1,
        "colour": str(ds.get("PhotometricInterpretation")) not in PHOTOMETRIC or samples != 1,
        "too-large": fields.get("Rows", 0) * fields.get("Columns", 0) > MAX_PIXELS,
    }
    for code, refused in refusals.items():
        if refused:
            raise Quarantined(code)


def _whole(value: Any, default: int) -> int:
    try:
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        raise Quarantined("bad-pixels") from None


def rebuilt(ds: Dataset, who: Subject, keys: PseudonymKeys) -> tuple[Dataset, dict[str, Any]]:
    """A new data set without pixels, and what the rules kept."""
    fields = completed(ruled(ds, ALL_RULES, Cloak(keys, who.shift(keys))))
    made = Dataset()
    made.PatientID = made.PatientName = who.pseudonym(keys)
    for keyword in EMPTY.get(str(fields.get("SOPClassUID")), ()):
        setattr(made, keyword, None)
    if "Laterality" in made and not may_have_side(fields):
        del made.Laterality
    for keyword, value in fields.items():
        if not keyword.startswith("PixelPadding"):  # whose VR is that of the pixels
            setattr(made, keyword, _decimal(value))
    write_methods(made, fields, blanked=False)
    return made, fields


def completed(fields: dict[str, Any]) -> dict[str, Any]:
    """What the standard allows only together: a window of centre and width, a projection's region as term and as code (PS3.3 C.8.11.2)."""
    kept = dict(fields)
    if not _alike(kept.get("WindowCenter"), kept.get("WindowWidth")):
        kept = {keyword: value for keyword, value in kept.items() if keyword not in ("WindowCenter", "WindowWidth")}
    empty = EMPTY.get(str(kept.get("SOPClassUID")), ())
    if "AnatomicRegionSequence" in empty and "AnatomicRegionSequence" not in kept and "BodyPartExamined" in kept:
        if found := REGIONS.get(kept["BodyPartExamined"]):
            kept["AnatomicRegionSequence"] = [concept(found)]
        else:
            del kept["BodyPartExamined"]
    if not may_have_side(kept):
        kept.pop("Laterality", None)
    return kept


def may_have_side(fields: dict[str, Any]) -> bool:
    """Is the body part paired, or not named?"""
    return "BodyPartExamined" not in fields or fields["BodyPartExamined"] in PAIRED


def _alike(first: Any, second: Any) -> bool:
    return isinstance(first, list) and isinstance(second, list) and len(first) == len(second)


def _decimal(value: Any) -> Any:
    """Floats as the decimal strings that stand in the file; all else as it is."""
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return [f"{item:.{DIGITS}g}" for item in value] if isinstance(value, list) and value and isinstance(value[0], float) else value


def _image(made: Dataset, fields: dict[str, Any], stored: Array) -> None:
    write_pixels(made, stored, bits_stored=fields.get("BitsStored", 0))
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in fields and (padding := padding_value(fields[keyword], stored)):
            made.add_new(keyword, *padding)


def encoded(ds: Dataset) -> bytes:
    """A whole Part 10 file, Explicit VR Little Endian, with a preamble of zeros and meta elements of our own."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = IMPLEMENTATION, VERSION
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()
