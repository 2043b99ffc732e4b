"""CT and MR slices of a body whose shape is a formula, cut in any direction, and enhanced objects that hold them all."""

from collections.abc import Sequence as Several
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

Vector = tuple[float, float, float]
# Image Orientation (Patient): direction along a row, then down a column.
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
SIDE, THICK, PIXEL = 40, 3.0, 2.0  # pixels; mm


def body(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(…, 3) points in mm (LPS) to HU: an ellipsoid of water in air, with a dense ball to the left, a fatty one behind, air at the head."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    found = np.where((x / 36) ** 2 + (y / 30) ** 2 + (z / 34) ** 2 < 1, 0.0, -1000.0)
    for centre, radius, value in (((15, 0, 0), 9, 700), ((0, 13, 0), 9, -400), ((0, 0, 17), 9, -900)):
        ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
        found = np.where(ball, float(value), found)
    return found


def plane(centre: Vector, orientation: Several[float], spacing: tuple[float, float], shape: tuple[int, int]) -> tuple[Any, list[float]]:
    """(H, W) HU of one plane, and its Image Position (Patient)."""
    right, down = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    corner = np.array(centre) - down * (shape[0] - 1) / 2 * spacing[0] - right * (shape[1] - 1) / 2 * spacing[1]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    points = corner + rows[..., None] * down * spacing[0] + columns[..., None] * right * spacing[1]
    return body(points), corner.tolist()


def ct_slice(
    height: float, number: int = 1, *, orientation: Several[float] = AXIAL, thick: float = THICK, slope: float = 1.0,
    intercept: float = -1024.0, spacing: tuple[float, float] = (PIXEL, PIXEL), shape: tuple[int, int] = (SIDE, SIDE), **elements: Any,
) -> Dataset:  # fmt: skip
    """The plane at `height` mm along the normal that the file itself has."""
    normal = np.cross(orientation[:3], orientation[3:])
    hounsfield, position = plane(tuple((normal * height).tolist()), orientation, spacing, shape)
    ds = _head(CTImageStorage, f"1.2.9.{number}")
    ds.Rows, ds.Columns, ds.InstanceNumber = *shape, number
    ds.RescaleSlope, ds.RescaleIntercept, ds.SliceThickness = slope, intercept, thick
    ds.ImageOrientationPatient, ds.ImagePositionPatient, ds.PixelSpacing = list(orientation), position, list(spacing)
    ds.PixelData = np.rint((hounsfield - intercept) / slope).astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def ct_series(count: int = 24, *, orientation: Several[float] = AXIAL, thick: float = THICK, **elements: Any) -> list[Dataset]:
    """`count` slices around the middle of the body, numbered along their own normal."""
    heights = (np.arange(count) - (count - 1) / 2) * thick
    return [ct_slice(height, number, orientation=orientation, thick=thick, **elements) for number, height in enumerate(heights.tolist(), 1)]


def enhanced(slices: Several[Dataset]) -> Dataset:
    """One Enhanced CT object whose frames are `slices`: orientation and spacing shared, position and rescale per frame."""
    first = slices[0]
    ds = _head(EnhancedCTImageStorage, "1.2.9.1000")
    ds.Rows, ds.Columns, ds.NumberOfFrames = first.Rows, first.Columns, len(slices)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first.PixelSpacing)]
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for one in slices:
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=one.ImagePositionPatient)]
        rescale = _item(RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU")
        group.PixelValueTransformationSequence = [rescale]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.PixelData = b"".join(one.PixelData for one in slices)
    ds["PixelData"].VR = "OW"
    return ds


def _head(kind: str, image: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = kind, image, "1.2.8", "1.2.7"
    ds.PatientID, ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "P1", "CT", 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = kind, image
    return ds


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item
