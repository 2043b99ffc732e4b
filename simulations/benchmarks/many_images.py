"""Memory and time with many images: ingest, and training's reader over one epoch. `python simulations/benchmarks/many_images.py`

Each phase runs in a process of its own, so that its peak is its own: once with a tenth of the images and once with all of them. What grows
between the two grows with the number of images.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

SIDE = 128
EACH = 4  # images a patient
BATCH = 64  # patients expected a step
LABEL = "lesion"
NUMBER = "100000000"  # in the template, where each file has its own: a part of a UID begins with no 0


@dataclass(frozen=True)
class Ingested:
    seconds: float
    images: int
    parent_mb: int  # peak of resident memory
    reader_mb: int  # of the largest reader process; 0 with one worker


@dataclass(frozen=True)
class Read:
    start_seconds: float  # from nothing to the first batch of the first epoch
    again_seconds: float  # to the first batch of the next one
    epoch_seconds: float
    images: int
    steps: int
    before_mb: int  # peak before the cohort was opened: the libraries
    peak_mb: int


def template() -> bytes:
    """One MR slice whose numbers and pixels are overwritten for each file."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, f"1.2.3.{NUMBER}"
    ds.SeriesInstanceUID = ds.StudyInstanceUID = f"1.2.4.{NUMBER}"
    ds.PatientID, ds.PatientName, ds.StudyDate, ds.Modality = f"P{NUMBER}", "BENCH^MARK", "20200101", "MR"
    ds.PixelSpacing, ds.SliceThickness, ds.EchoTime, ds.BodyPartExamined = [0.5, 0.5], 3, 120, "HEAD"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.Rows = ds.Columns = SIDE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = bytes(2 * SIDE * SIDE)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_files(folder: Path, count: int) -> None:
    """`count` slices of `count` / EACH patients in folders of 1,000, and their labels: a moving ellipse on noise."""
    head = template()[: -2 * SIDE * SIDE]
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    rng = np.random.default_rng(0)
    grounds = rng.integers(0, 60, (16, SIDE, SIDE)).astype("<u2")
    for number in range(count):
        if number % 1000 == 0:
            (folder / "dicom" / f"{number // 1000}").mkdir(parents=True)
        wide, high, bright = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9), rng.integers(300, 3000)
        pixels = np.where((x / wide) ** 2 + (y / high) ** 2 < 1, grounds[number % 16] + bright.astype("<u2"), grounds[(number + 5) % 16])
        mine = head.replace(f"3.{NUMBER}".encode(), f"3.{int(NUMBER) + number}".encode())
        mine = mine.replace(NUMBER.encode(), f"{int(NUMBER) + number // EACH}".encode())
        (folder / "dicom" / f"{number // 1000}" / f"{number}.dcm").write_bytes(mine + pixels.tobytes())
    rows = (f"P{int(NUMBER) + patient},{patient % 2}\n" for patient in range(-(-count // EACH)))
    (folder / "labels.csv").write_text(f"PatientID,{LABEL}\n" + "".join(rows))


def ingest_all(folder: Path, workers: int) -> Ingested:
    from fedrad_client.intake.deid.rules import PseudonymKeys
    from fedrad_client.intake.ingest import ingest
    from fedrad_client.intake.pixels.image import Geometry
    from fedrad_common.profiles import profile

    start = time.perf_counter()
    done = ingest(
        folder / "dicom", folder / "labels.csv", cohort=folder / "cohort", geometry=Geometry(profile("mr"), SIDE, SIDE),
        label_names=(LABEL,), keys=PseudonymKeys.from_secret(bytes(32)), validation_fraction=0.1, workers=workers,
    )  # fmt: skip
    return Ingested(time.perf_counter() - start, done.n_images, peak_mb(), readers_mb())


def read_all(folder: Path) -> Read:
    """An epoch of Poisson batches through the code that training uses, without its arithmetic."""
    from fedrad_client.cohort.dataset import load_dataset
    from fedrad_client.cohort.store import open_cohort
    from fedrad_client.privacy.batches import Batch, Source, draw_images, in_parts
    from fedrad_client.privacy.noise import AesNoise

    before, start, seen = peak_mb(), time.perf_counter(), 0
    data = load_dataset(open_cohort(folder / "cohort"), part="training", labels=(LABEL,))
    source, noise = Source(data, "none", 1, None), AesNoise(bytes(32))

    def look(batches: Any) -> None:
        nonlocal seen
        for batch in batches:
            seen += count_images(batch)

    def count_images(batch: Batch) -> int:
        return int((batch.images.amax(dim=(1, 2, 3)) > 0).sum())  # every pixel is looked at

    def step() -> None:
        patients = np.flatnonzero(noise.bernoulli(data.n_patients, min(1.0, BATCH / data.n_patients)))
        draw = draw_images(data.owner, patients, at_most=EACH, views=1, noise=noise)
        in_parts(source, draw, look, at_most=64, filled=True)

    first = timed(step, since=start)
    steps, epoch = max(1, round(data.n_patients / BATCH)), time.perf_counter()
    for _ in range(steps - 1):
        step()
    epoch_seconds, again = time.perf_counter() - epoch, timed(step, since=time.perf_counter())
    return Read(first, again, epoch_seconds, seen, steps, before, peak_mb())


def timed(work: Callable[[], None], *, since: float) -> float:
    work()
    return time.perf_counter() - since


def peak_mb() -> int:
    """Of this program: the kernel's other number for it, ru_maxrss, begins with what the program that started it had."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(found.split()[1]) // 1024


def readers_mb() -> int:
    """Of the largest process that this one started; 0 without any."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def apart(phase: str, folder: Path, workers: int) -> dict[str, Any]:
    """A phase in a process of its own."""
    command = [sys.executable, __file__, "--phase", phase, "--folder", str(folder), "--workers", str(workers)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def measure(folder: Path, count: int, *, workers: int) -> dict[str, dict[str, Any]]:
    """Files of `count` images are made in `folder`, ingested and read."""
    write_files(folder, count)
    return {phase: apart(phase, folder, workers) for phase in ("ingest", "read")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2, help="reader processes of the ingest")
    parser.add_argument("--scratch", type=Path, help="where the files are made, about 80 kB an image")
    parser.add_argument("--phase", choices=("ingest", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        done = ingest_all(options.folder, options.workers) if options.phase == "ingest" else read_all(options.folder)
        print(json.dumps(asdict(done)))
        return
    print(f"{'images':>8} {'ingest s':>9} {'images/s':>9} {'parent MB':>10} {'reader MB':>10}", end=" ")
    print(f"{'start s':>8} {'again s':>8} {'epoch s':>8} {'libraries MB':>13} {'training MB':>12}")
    for count in (options.images // 10, options.images):
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            found = measure(Path(name), count, workers=options.workers)
        made, read = found["ingest"], found["read"]
        speed = made["images"] / made["seconds"]
        print(f"{count:8} {made['seconds']:9.1f} {speed:9.0f} {made['parent_mb']:10} {made['reader_mb']:10}", end=" ")
        print(f"{read['start_seconds']:8.2f} {read['again_seconds']:8.3f} {read['epoch_seconds']:8.1f}", end=" ")
        print(f"{read['before_mb']:13} {read['peak_mb']:12}")


if __name__ == "__main__":
    main()
