"""How many 512² CT images a second the receiver takes in by C-STORE on loopback, on disk before each is acknowledged.

`python simulations/benchmarks/receive.py`. The sender is a process of its own: DCMTK's storescu, or, with `--python`, pynetdicom, which is
slower than the receiver.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from fedrad_client.config import Receive
from fedrad_client.intake.acquire.inbox import Inbox
from fedrad_client.intake.acquire.receiver import Receiver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="a repeat, over one association")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", action="store_true", help="pynetdicom sends")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        inbox = Inbox.of(Path(folder))
        receiver = Receiver(inbox, Receive(port=0, callers=("SENDER",)))
        _, port = receiver.start()
        for repeat in range(options.repeats):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                spent = pool.apply(send if options.python else send_by_dcmtk, (port, options.images, repeat))
            rates.append(options.images / spent)
        receiver.stop()
        assert len(list(inbox.folder.glob("*.dcm"))) == options.images * options.repeats
    found = {"images_per_second": statistics.median(rates), "least": min(rates), "most": max(rates), "repeats": options.repeats}
    print(json.dumps(found) if options.json else "\n".join(f"{name:<20} {value:.0f}" for name, value in found.items()))


def image(seed: int, number: int) -> Dataset:
    ds, rng = Dataset(), np.random.default_rng(seed)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = CTImageStorage, f"1.2.9.{seed}.{number}", "1.2.7"
    ds.SeriesInstanceUID, ds.PatientID, ds.Modality = f"1.2.8.{seed}", "P", "CT"
    ds.Rows = ds.Columns = 512
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = rng.integers(0, 4096, (512, 512)).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def send_by_dcmtk(port: int, n_images: int, seed: int) -> float:
    """Seconds of the whole program, its start and its reading of the files included."""
    with tempfile.TemporaryDirectory() as folder:
        ds = image(seed, 0)
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        for number in range(n_images):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.9.{seed}.{number}")
            ds.save_as(Path(folder) / f"{number}.dcm", enforce_file_format=True)
        names = ["-aet", "SENDER", "-aec", "FEDRAD", "--max-pdu", "131072", "--max-send-pdu", "131072"]
        began = time.perf_counter()
        subprocess.run(["storescu", *names, "+sd", "127.0.0.1", str(port), folder], check=True, capture_output=True)
        return time.perf_counter() - began


def send(port: int, n_images: int, seed: int) -> float:
    """Seconds from the first image to the last answer."""
    ds = image(seed, 0)
    sender = AE(ae_title="SENDER")
    sender.maximum_pdu_size = 1 << 17
    sender.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    link = sender.associate("127.0.0.1", port, ae_title="FEDRAD", max_pdu=1 << 17)
    assert link.is_established
    began = time.perf_counter()
    for number in range(n_images):
        ds.SOPInstanceUID = f"1.2.9.{seed}.{number}"
        assert link.send_c_store(ds).Status == 0
    spent = time.perf_counter() - began
    link.release()
    return spent


if __name__ == "__main__":
    main()
