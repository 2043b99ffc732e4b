"""What a hospital exports: DICOM of a list of people and a label table. Whole people, so that one of them can be there or not."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.split import Part, part_of
from fedrad_client.intake.deid.rules import PseudonymKeys, identified
from fedrad_sim.dicom_write import SOP_CLASS, encode_file, pixel_elements

Picture = npt.NDArray[np.uint16]
ISSUER = (0x0010, 0x0021, "LO")
COLUMNS = ("SOPInstanceUID", "PatientID", "IssuerOfPatientID")


@dataclass(frozen=True, eq=False)  # one is no other, whatever they hold
class Person:
    """Everything of one patient: files and rows of the label table."""

    patient_id: str
    images: tuple[Picture, ...]
    rows: tuple[tuple[str, ...], ...]  # of labels, each for the whole person, or for each image
    issuer: str = ""
    uids: tuple[str, ...] = ()  # SOP Instance UIDs of the first images; the others' are made up
    by_image: bool = False  # rows name the image, and whose it is
    others: tuple[bytes, ...] = field(default=(), repr=False)  # files that are no images

    def uid(self, image: int) -> str:
        if image < len(self.uids):
            return self.uids[image]
        return f"1.2.{int.from_bytes(f'{self.issuer}/{self.patient_id}'.encode(), 'big')}.{image}"

    def pseudonym(self, keys: PseudonymKeys) -> str:
        return identified(self.patient_id, self.issuer).pseudonym(keys)

    def part(self, keys: PseudonymKeys, *, fraction: float) -> Part:
        return part_of(identified(self.patient_id, self.issuer).identity, key=keys.split, fraction=fraction)

    def table(self) -> Iterable[tuple[str, ...]]:
        for uid in (self.uid(number) for number in range(len(self.images))) if self.by_image else ("",):
            yield from ((uid, self.patient_id, self.issuer, *row) for row in self.rows)

    def files(self, modality: str) -> Iterable[bytes]:
        for number, pixels in enumerate(self.images):
            yield dicom(self.patient_id, self.uid(number), pixels, issuer=self.issuer, modality=modality)
        yield from self.others


def picture(seed: int, side: int = 20) -> Picture:
    return np.random.default_rng(seed).integers(0, 4096, (side, side)).astype(np.uint16)


def dicom(patient_id: str, uid: str, pixels: Picture, *, issuer: str = "", modality: str = "CR") -> bytes:
    elements = {
        "SOPClassUID": SOP_CLASS[modality], "SOPInstanceUID": uid, "SeriesInstanceUID": f"{uid}.7", "StudyInstanceUID": f"{uid}.8",
        "Modality": modality, "StudyDate": "20200229", "PatientID": patient_id, **pixel_elements(pixels, bits_stored=12),
    }  # fmt: skip
    return encode_file(elements | ({ISSUER: issuer} if issuer else {}))


def write_export(folder: Path, people: Iterable[Person], labels: tuple[str, ...], *, modality: str = "CR") -> Path:
    """`folder/dicom` and `folder/labels.csv`; every row names its person. Returns the folder."""
    rows: list[tuple[str, ...]] = [(*COLUMNS, *labels)]
    for number, person in enumerate(people):
        place = folder / "dicom" / f"{number:03d}"
        place.mkdir(parents=True)
        for image, content in enumerate(person.files(modality)):
            (place / f"{image:03d}").write_bytes(content)
        rows += person.table()
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder
