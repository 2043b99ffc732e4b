"""A small DICOM writer for the tests of the site pipeline: one valid file unless a test says otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import Intake, ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_common.profiles import profile

WriteDicom = Callable[..., Path]


def picture(seed: int = 0, shape: tuple[int, int] = (40, 40), bits: int = 12) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint16)


def make_dataset(patient: str = "P1", image: str = "1.2.3.1", pixels: npt.NDArray[Any] | None = None, **elements: Any) -> Dataset:
    stored = picture() if pixels is None else pixels
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, image
    ds.SeriesInstanceUID, ds.StudyInstanceUID = f"{image}.7", f"{image}.8"
    ds.PatientID, ds.Modality, ds.StudyDate = patient, "CR", "20200229"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *stored.shape[:2], 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    if stored.dtype.kind == "f":
        ds.FloatPixelData = stored.astype("<f4").tobytes()
    else:
        ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
        ds["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = image
    return ds


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    return make_dataset


@pytest.fixture
def write_dicom() -> WriteDicom:
    def write(path: Path, *args: Any, **elements: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_dataset(*args, **elements).save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def keys() -> PseudonymKeys:
    return PseudonymKeys.from_secret(bytes(range(32)))


@pytest.fixture
def geometry() -> Geometry:
    return Geometry(profile("xr"), 16, 16)


@pytest.fixture
def run_ingest(tmp_path: Path, keys: PseudonymKeys, geometry: Geometry) -> Callable[..., Intake]:
    """Ingest `tmp_path/dicom` into `tmp_path/cohort`, unless told otherwise."""

    def run(source: Path | None = None, labels: Path | None = None, **changed: Any) -> Intake:
        settings = {"cohort": tmp_path / "cohort", "geometry": geometry, "label_names": (), "keys": keys, "validation_fraction": 0.3}
        return ingest(source or tmp_path / "dicom", labels, **(settings | changed))

    return run


@pytest.fixture
def patients(tmp_path: Path, write_dicom: WriteDicom) -> Callable[..., Path]:
    """Write `count` patients of two images each, from number `first` on, with pictures of their own."""

    def write(count: int = 6, *, first: int = 0, folder: Path = tmp_path / "dicom") -> Path:
        for number in range(first, first + count):
            for image in range(2):
                pixels = picture(10 * number + image)
                write_dicom(folder / f"{number}" / f"{image}.dcm", f"P{number}", f"1.2.{number}.{image}", pixels)
        return folder

    return write
