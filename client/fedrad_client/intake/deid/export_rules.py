"""What an exported DICOM image keeps beyond a cohort's record, and what its object definition wants to be there, if only empty (PS3.3)."""

from typing import Any, Final

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MRImageStorage,
)

from fedrad_client.intake.deid.links import SEQUENCES
from fedrad_client.intake.deid.rules import RULES, Rule, ValueRule, coded, count, day, measure, plain, uid
from fedrad_client.intake.deid.subject import IDENTIFIERS
from fedrad_client.intake.deid.terms import (
    ACQUISITIONS,
    DETECTORS,
    IMAGE_TYPE,
    INTENSITIES,
    INTENTS,
    LOSSY,
    ORIENTATIONS,
    POSITIONERS,
    RESCALE_TYPES,
    SCAN_OPTIONS,
    SCANNING,
    SEQUENCE_VARIANTS,
    SHAPES,
    YES_NO,
)
from fedrad_client.intake.deid.values import numbers, terms_of

EXPORT_RULES: tuple[ValueRule, ...] = (
    uid("SynchronizationFrameOfReferenceUID"),
    day("SeriesDate", "X/D"),
    day("ContentDate", "Z/D"),
    plain("ImageType", "up to 3 terms", terms_of(*IMAGE_TYPE)),
    count("SeriesNumber", 0, 9999),
    count("AcquisitionNumber", 0, 9999),
    count("InstanceNumber", 0, 9999),
    plain("PatientOrientation", "2 directions", terms_of(ORIENTATIONS, ORIENTATIONS)),
    count("PixelPaddingValue", -32768, 65535),
    count("PixelPaddingRangeLimit", -32768, 65535),
    measure("RescaleIntercept", -65536, 65536, ""),
    measure("RescaleSlope", -65536, 65536, ""),
    coded("RescaleType", RESCALE_TYPES),
    plain("WindowCenter", "up to 8 numbers, -65536 … 65536", numbers(1, 8, -65536, 65536)),
    plain("WindowWidth", "up to 8 numbers, 1 … 131072", numbers(1, 8, 1, 131072)),
    plain("LossyImageCompressionRatio", "up to 4 numbers, 1 … 1000", numbers(1, 4, 1, 1000)),
    plain("LossyImageCompressionMethod", "up to 4 terms", terms_of(*[LOSSY] * 4)),
    coded("QualityControlImage", YES_NO),
    coded("PresentationIntentType", INTENTS),
    coded("PixelIntensityRelationship", INTENSITIES),
    plain("PixelIntensityRelationshipSign", "-1 or 1", count("Rows", -1, 1).apply),
    coded("PresentationLUTShape", SHAPES),
    coded("DetectorType", DETECTORS),
    coded("PositionerType", POSITIONERS),
    coded("PixelSpacingCalibrationType", frozenset({"GEOMETRY", "FIDUCIAL"})),
    measure("EstimatedRadiographicMagnificationFactor", 0.5, 10, ""),
    coded("OrganExposed", frozenset({"BREAST"})),
    coded("BreastImplantPresent", YES_NO),
    coded("PartialView", YES_NO),
    plain("ScanningSequence", "up to 5 terms", terms_of(*[SCANNING] * 5)),
    plain("SequenceVariant", "up to 7 terms", terms_of(*[SEQUENCE_VARIANTS] * 7)),
    plain("ScanOptions", "up to 9 terms", terms_of(*[SCAN_OPTIONS] * 9)),
    coded("MRAcquisitionType", ACQUISITIONS),
    count("EchoTrainLength", 0, 4096),
)
MORE_RULES: tuple[Rule[Any], ...] = (*EXPORT_RULES, *SEQUENCES)
ALL_RULES: tuple[Rule[Any], ...] = (*RULES, *MORE_RULES)
EXPORT_KEYWORDS: tuple[str, ...] = (*IDENTIFIERS, *(rule.keyword for rule in ALL_RULES))

# Type 2 of PS3.3: what must stand there, if only empty. Patient and study modules hold for all.
_PATIENT = "PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber"
_ALWAYS = f"{_PATIENT} SeriesNumber InstanceNumber Manufacturer"
_PROJECTION = f"{_ALWAYS} DetectorType PositionerType PatientOrientation AnatomicRegionSequence AcquisitionContextSequence"
_SLICE = f"{_ALWAYS} Laterality PositionReferenceIndicator AcquisitionNumber SliceThickness PatientPosition"
EMPTY: Final[dict[str, tuple[str, ...]]] = {
    sop_class: tuple(keywords.split())
    for sop_class, keywords in {
        ComputedRadiographyImageStorage: f"{_ALWAYS} Laterality BodyPartExamined ViewPosition PatientOrientation",
        DigitalXRayImageStorageForPresentation: _PROJECTION,
        DigitalXRayImageStorageForProcessing: _PROJECTION,
        DigitalMammographyXRayImageStorageForPresentation: _PROJECTION,
        DigitalMammographyXRayImageStorageForProcessing: _PROJECTION,
        CTImageStorage: f"{_SLICE} KVP",
        MRImageStorage: f"{_SLICE} ScanOptions MRAcquisitionType EchoTime EchoTrainLength RepetitionTime",
    }.items()
}
