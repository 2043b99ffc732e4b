"""How many images a second one core reads, de-identifies, normalises and stores. `python simulations/benchmarks/intake.py`"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, MRImageStorage, RLELossless

from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_common.profiles import profile


@dataclass(frozen=True)
class Arm:
    modality: str
    profile: str
    side: int  # pixels
    compress: bool = False


ARMS = {
    "CT 512², uncompressed": Arm("CT", "ct", 512),
    "MR 512², uncompressed": Arm("MR", "mr", 512),
    "CT 512², RLE lossless": Arm("CT", "ct", 512, compress=True),
    "DX 2048², uncompressed": Arm("DX", "xr", 2048),
}
CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "DX": DigitalXRayImageStorageForPresentation}


def picture(rng: np.random.Generator, arm: Arm) -> npt.NDArray[np.int16]:
    """(side, side) stored values: an ellipse with structure on a noisy background."""
    side = arm.side
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    tissue = 40 + 30 * np.sin(9 * x) * np.cos(7 * y) + rng.normal(0, 8, (side, side))
    if arm.modality == "CT":
        return np.where(inside, tissue + 1024, rng.normal(24, 6, (side, side))).astype(np.int16)
    return np.where(inside, tissue * 10 + 300, np.abs(rng.normal(0, 12, (side, side)))).astype(np.int16)


def write_image(path: Path, number: int, arm: Arm) -> None:
    """One file with a header of the usual length; 20 slices a patient."""
    rng = np.random.default_rng(number)
    ds = Dataset()
    ds.SOPClassUID = CLASSES[arm.modality]
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = f"1.2.3.{number}", f"1.2.4.{number // 20}", f"1.2.5.{number // 20}"
    ds.PatientID, ds.PatientName, ds.StudyDate, ds.PatientAge, ds.PatientSex = f"P{number // 20}", "BENCH^MARK", "20200101", "050Y", "F"
    ds.Modality, ds.BodyPartExamined, ds.PatientPosition = arm.modality, "HEAD", "HFS"
    ds.PixelSpacing, ds.SliceThickness, ds.KVP = [0.5, 0.5], 3, 120
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number % 20], [1, 0, 0, 0, 1, 0]
    ds.Rows = ds.Columns = arm.side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024 if arm.modality == "CT" else 0
    for element in range(0x10, 0x50):  # vendors write as many private elements as public ones
        ds.add_new((0x0019, 0x1000 + element), "LO", f"private value {element}")
    ds.PixelData = picture(rng, arm).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    if arm.compress:
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def measure(source: Path, cohort: Path, arm: Arm, *, side: int, workers: int) -> tuple[float, float]:
    """Images a second of one ingest, with everything fsynced: by the clock, and by the CPU time of all its processes."""
    geometry, keys = Geometry(profile(arm.profile), side, side), PseudonymKeys.from_secret(bytes(32))
    start, before = time.perf_counter(), cpu_seconds()
    done = ingest(source, None, cohort=cohort, geometry=geometry, label_names=(), keys=keys, validation_fraction=0.2, workers=workers)
    return done.n_images / (time.perf_counter() - start), done.n_images / (cpu_seconds() - before)


def cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="slices an arm; of radiographs a quarter")
    parser.add_argument("--repeats", type=int, default=5, help="of each arm, alternated")
    parser.add_argument("--side", type=int, default=64, help="of the stored image, pixels")
    parser.add_argument("--workers", type=int, default=1, help="reader processes")
    options = parser.parse_args()
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, arm in ARMS.items():
            (folder / name).mkdir()
            for number in range(options.files if arm.side == 512 else -(-options.files // 4)):
                write_image(folder / name / f"{number}.dcm", number, arm)
        for repeat in range(-1, options.repeats):  # the first is warm-up
            for name, arm in ARMS.items():
                speed = measure(folder / name, folder / f"cohort {name} {repeat}", arm, side=options.side, workers=options.workers)
                speeds[name] += [speed] if repeat >= 0 else []
    print(f"to {options.side}², {options.workers} reader, {options.repeats} repeats of {options.files} files, alternated")
    print(f"{'images a second':<24} {'median':>7} {'min':>6} {'max':>6} {'a CPU second, median':>22}")
    for name, found in speeds.items():
        wall, cpu = zip(*found, strict=True)
        print(f"{name:<24} {statistics.median(wall):7.0f} {min(wall):6.0f} {max(wall):6.0f} {statistics.median(cpu):22.0f}")


if __name__ == "__main__":
    main()
