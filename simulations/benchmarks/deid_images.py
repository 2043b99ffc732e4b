"""Sound DICOM images of the five kinds that an export writes, small and with nothing in them that would have to go."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

SIDE = 32
KINDS = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "MG": DigitalMammographyXRayImageStorageForPresentation,
}


@dataclass(frozen=True)
class Who:
    """Of whom and when an image is. Nobody: these identifiers may be printed."""

    patient_id: str
    study: int = 1
    series: int = 1
    image: int = 1
    date: str = "20190314"
    age: str = "057Y"

    @property
    def root(self) -> str:
        return f"1.2.826.0.1.3680043.10.{int.from_bytes(self.patient_id.encode()[-6:], 'big')}"

    @property
    def study_uid(self) -> str:
        return f"{self.root}.{self.study}"

    @property
    def series_uid(self) -> str:
        return f"{self.study_uid}.{self.series}"

    @property
    def uid(self) -> str:
        return f"{self.series_uid}.{self.image}"


def picture(who: Who, kind: str) -> npt.NDArray[np.uint16]:
    """(SIDE, SIDE) of 12 bits: a bright ellipse with texture, another one for each image."""
    rng = np.random.default_rng(list(who.uid.encode()))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    return np.where(inside, 1500 + 400 * np.sin(5 * x + who.image), 60 if kind != "CT" else 20).astype(np.uint16) + rng.integers(
        0, 50, (SIDE, SIDE)
    ).astype(np.uint16)


def sound(kind: str, who: Who) -> Dataset:
    """A whole data set of `kind` (a key of KINDS) that dciodvfy accepts."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = KINDS[kind], who.uid, who.series_uid, who.study_uid
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = who.patient_id, None, None, "F", who.age
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = who.date
    ds.StudyTime = ds.ContentTime = ds.ReferringPhysicianName = ds.StudyID = ds.AccessionNumber = ds.Manufacturer = None
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.BurnedInAnnotation = kind, who.series, who.image, "NO"
    stored = picture(who, kind)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", *stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.add_new("PixelData", "OW", stored.astype("<u2").tobytes())
    {"CR": _cr, "DX": _dx, "CT": _ct, "MR": _mr, "MG": _mg}[kind](ds, who)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _cr(ds: Dataset, _: Who) -> None:
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation, ds.ImageType = "CHEST", "PA", ["L", "F"], ["ORIGINAL", "PRIMARY"]


def _projection(ds: Dataset) -> None:
    ds.PresentationIntentType, ds.ImageType, ds.PatientOrientation = "FOR PRESENTATION", ["ORIGINAL", "PRIMARY", ""], ["L", "F"]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign, ds.PresentationLUTShape = "LOG", -1, "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.LossyImageCompression = 0, 1, "US", "00"
    ds.WindowCenter, ds.WindowWidth, ds.DetectorType, ds.ImagerPixelSpacing = 2048, 4096, "DIRECT", [0.14, 0.14]
    ds.AcquisitionContextSequence = []


def _dx(ds: Dataset, _: Who) -> None:
    _projection(ds)
    ds.BodyPartExamined, ds.ImageLaterality, ds.ViewPosition, ds.PositionerType = "CHEST", "U", "PA", "NONE"
    ds.AnatomicRegionSequence = [code("816094009", "SCT", "Chest")]


def _mg(ds: Dataset, _: Who) -> None:
    _projection(ds)
    ds.BodyPartExamined, ds.ImageLaterality, ds.OrganExposed, ds.PositionerType = "BREAST", "L", "BREAST", "MAMMOGRAPHIC"
    ds.PatientOrientation, ds.BreastImplantPresent, ds.PartialView = ["A", "FR"], "NO", "NO"
    ds.AnatomicRegionSequence = [code("76752008", "SCT", "Breast")]
    view = code("399162004", "SCT", "cranio-caudal")
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]


def _slice(ds: Dataset, who: Who) -> None:
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{who.study_uid}.77", None
    ds.PixelSpacing, ds.SliceThickness, ds.PatientPosition = [0.5, 0.5], 3, "HFS"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-8, -8, 3 * who.image], [1, 0, 0, 0, 1, 0]
    ds.AcquisitionNumber, ds.BodyPartExamined = 1, "HEAD"


def _ct(ds: Dataset, who: Who) -> None:
    _slice(ds, who)
    ds.ImageType, ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType, ds.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], -1024, 1, "HU", 120


def _mr(ds: Dataset, who: Who) -> None:
    _slice(ds, who)
    ds.ImageType, ds.ScanningSequence, ds.SequenceVariant = ["ORIGINAL", "PRIMARY", "M"], "SE", "NONE"
    ds.ScanOptions, ds.MRAcquisitionType, ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = None, "2D", 500, 15, 1


def encoded(ds: Dataset, *, preamble: bytes = bytes(128)) -> bytes:
    """The file's bytes."""
    stream = io.BytesIO()
    ds.preamble = preamble
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()
