"""Hospitals that never existed: DICOM chest radiographs with a known truth, drifting scanners, noisy labels and planted identifiers.

Nobody's data, so that demo and tests can show everything; see `anatomy` for the pictures and `identifiers` for what must not get out.
"""

import csv
import io
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import MisuseError
from fedrad_common.files import disk_error, fsync_directory, make_folder
from fedrad_sim.anatomy import NODULE, Bodies, Drift, Poses, Textures, attenuation, draw_bodies, expose, padding_value
from fedrad_sim.dicom_write import SOP_CLASS, Elements, Tag, Value, pixel_elements, write_dicom
from fedrad_sim.identifiers import Planted, plant, plant_meta, token, uid

Progress = Callable[[int, int], None]  # images written, images in all

LABEL = "lesion"
MAX_IMAGES = 6
_BATCH = 32  # images rendered at a time; more would fall out of the processor's cache


@dataclass(frozen=True)
class Hospital:
    """One site of the phantom. Everything but the seed."""

    name: str  # a SiteName
    n_patients: int
    prevalence: float  # of patients with a lesion
    label_noise: float  # part of patients whose label in labels.csv is wrong
    drift: Drift
    more_drifts: tuple[Drift, ...] = ()  # further scanners; each image comes from one of all, at random
    labels_by: Literal["SOPInstanceUID", "PatientID"] = "SOPInstanceUID"  # key column of labels.csv


@dataclass(frozen=True)
class Lesion:
    """Where and what, in pixels of the stored matrix, padding included."""

    kind: Literal["nodule", "consolidation"]
    row: float
    column: float
    radius: float
    contrast: float  # of the attenuation


@dataclass(frozen=True)
class Image:
    """The truth of one file. Phantoms are nobody: these identifiers may be printed."""

    PatientID: str
    SOPInstanceUID: str
    file: str  # below dicom/
    lesion: bool
    label: bool  # what labels.csv says
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class Truth:
    hospital: str
    n_patients: int
    images: tuple[Image, ...]  # a patient's images are neighbours
    canaries: tuple[str, ...]  # every planted string: tokens, patient IDs, UIDs, parts of file names


HOSPITALS: tuple[Hospital, ...] = (
    Hospital("north", 140, 0.45, 0.02, Drift(modality="DX", bits_stored=12)),
    Hospital(
        "harbour", 110, 0.38, 0.04,
        Drift(modality="CR", photometric="MONOCHROME1", bits_stored=10, gamma=1.3, blur=0.8, noise=0.03, collimation=0.04),
    ),
    Hospital("hillside", 100, 0.55, 0.03, Drift(bits_stored=14, rows=112, columns=104, gamma=0.75, gain=0.85, noise=0.02, padding=6)),
    Hospital(
        "lakeview", 80, 0.40, 0.05,
        Drift(modality="CR", bits_stored=16, rows=88, columns=96, rescale=(0.5, -100.0), gain=1.2, blur=1.2, noise=0.025),
        labels_by="PatientID",
    ),
    Hospital(
        "valley", 70, 0.35, 0.04,
        Drift(photometric="MONOCHROME1", bits_stored=12, gain=0.75, gamma=1.15, noise=0.05, padding=8, collimation=0.02),
    ),
)  # fmt: skip

# Patients of no hospital, from all five scanners, with true labels: for evaluation only.
HELD_OUT = Hospital("held-out", 300, 0.40, 0.0, HOSPITALS[0].drift, tuple(hospital.drift for hospital in HOSPITALS[1:]))


def scaled(hospital: Hospital, factor: float) -> Hospital:
    """The same hospital with `factor` times the patients, at least one."""
    return replace(hospital, n_patients=max(1, round(factor * hospital.n_patients)))


def write_hospital(hospital: Hospital, out: Path, *, seed: int, progress: Progress | None = None) -> Truth:
    """Write `out/dicom/…`, `out/labels.csv`, `out/truth.csv` and `out/canaries.txt`; the folder appears whole or not at all.

    The same hospital and seed give the same bytes. A patient's images all show the patient's lesions, and share one label,
    right or wrong.

    Args:
        out: must not exist, or be empty.
        progress: called with images written and images in all.

    Raises:
        MisuseError: `out` is there already.
        FedradError: no space left on the disk.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MisuseError(f"{out}: exists already", hint="name a new folder, or remove this one first")
    make_folder(out.parent)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (beside / "dicom").mkdir(parents=True)
        truth = _write_images(hospital, beside / "dicom", seed=seed, progress=progress)
        (beside / "labels.csv").write_text(_labels_csv(hospital, truth))
        (beside / "truth.csv").write_text(_truth_csv(truth))
        (beside / "canaries.txt").write_text("".join(f"{canary}\n" for canary in truth.canaries))
        beside.replace(out)
        fsync_directory(out.parent)
    except OSError as error:
        if trouble := disk_error(out.name, error):
            raise trouble from None
        raise
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(beside)
    return truth


@dataclass(frozen=True)
class _Roll:
    """Who is imaged, drawn before any picture is: one row a patient, then one row an image."""

    diseased: npt.NDArray[np.bool_]
    label: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.int64]  # (n_images,), patient
    scanner: npt.NDArray[np.int64]  # (n_images,), index into the hospital's drifts
    bodies: Bodies


def _draw_roll(hospital: Hospital, rng: np.random.Generator) -> _Roll:
    n = hospital.n_patients
    # Exact counts, shuffled: a small hospital's prevalence should not depend on the seed.
    diseased = rng.permutation(np.arange(n) < round(hospital.prevalence * n))
    wrong = rng.permutation(np.arange(n) < round(hospital.label_noise * n))
    owner = np.repeat(np.arange(n), np.minimum(rng.geometric(0.5, n), MAX_IMAGES))
    scanner = rng.integers(0, 1 + len(hospital.more_drifts), len(owner))
    return _Roll(diseased, diseased ^ wrong, owner, scanner, draw_bodies(diseased, rng))


def _write_images(hospital: Hospital, folder: Path, *, seed: int, progress: Progress | None) -> Truth:
    rng = np.random.default_rng([seed, *hospital.name.encode()])
    roll = _draw_roll(hospital, rng)
    textures = Textures(rng)
    images: dict[int, Image] = {}
    canaries: dict[str, None] = {}  # ordered, each once
    for number, drift in enumerate((hospital.drift, *hospital.more_drifts)):
        mine = np.flatnonzero(roll.scanner == number)
        for start in range(0, len(mine), _BATCH):
            batch = mine[start : start + _BATCH]
            bodies, poses = roll.bodies.of(roll.owner[batch]), Poses.draw(len(batch), rng)
            pixels = expose(attenuation(bodies, poses, drift=drift, textures=textures), drift, rng)
            places = poses.to_pixel(bodies.place, drift)
            for row, index in enumerate(batch.tolist()):
                file = _File.named(hospital.name, seed, int(roll.owner[index]), index)
                canaries.update(dict.fromkeys(file.write(folder, pixels[row], drift)))
                patient = roll.owner[index]
                images[index] = Image(
                    file.PatientID, file.SOPInstanceUID, file.path, bool(roll.diseased[patient]), bool(roll.label[patient]),
                    _lesions(bodies, row, places[row], drift),
                )  # fmt: skip
            if progress:
                progress(len(images), len(roll.owner))
    return Truth(hospital.name, hospital.n_patients, tuple(images[index] for index in sorted(images)), tuple(canaries))


def _lesions(bodies: Bodies, row: int, places: npt.NDArray[np.float32], drift: Drift) -> tuple[Lesion, ...]:
    half = min(drift.rows, drift.columns) / 2
    return tuple(
        Lesion(
            kind="nodule" if bodies.kind[row, slot] == NODULE else "consolidation",
            row=float(places[slot, 0]),
            column=float(places[slot, 1]),
            radius=float(bodies.radius[row, slot]) * half,
            contrast=float(bodies.contrast[row, slot]),
        )
        for slot in np.flatnonzero(bodies.contrast[row] > 0)
    )


@dataclass(frozen=True)
class _File:
    """One file's identity; everything in it comes from hospital, seed, patient and index."""

    key: str
    patient: int
    index: int
    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    folder: str

    @classmethod
    def named(cls, hospital: str, seed: int, patient: int, index: int) -> "_File":
        site = f"{hospital}/{seed}"
        uids = (uid(site, "study", patient), uid(site, "series", patient, index), uid(site, "image", index))
        return cls(f"{site}/{index}", patient, index, token("ZP", site, "id", patient), *uids, token("ZF", site, "folder", patient))

    @property
    def path(self) -> str:
        return f"{self.folder}_MUELLER/{token('ZF', self.key, 'file')}.dcm"

    def write(self, folder: Path, pixels: npt.NDArray[np.uint16], drift: Drift) -> list[str]:
        """Write the file and return its canaries."""
        planted = Planted(self.key)
        meta, preamble = plant_meta(planted)
        elements = {**plant(planted), **self._elements(drift), **_pixel_module(pixels, drift)}
        path = folder / self.path
        path.parent.mkdir(exist_ok=True)
        write_dicom(path, elements, meta=meta, preamble=preamble)
        planted.keep((self.PatientID, self.StudyInstanceUID, self.SeriesInstanceUID, self.SOPInstanceUID, self.folder, path.stem))
        return planted.canaries

    def _elements(self, drift: Drift) -> Elements:
        birth_year, age = 1930 + self.patient * 7 % 70, 2024 - (1930 + self.patient * 7 % 70)
        return {
            "SpecificCharacterSet": "ISO_IR 192",
            "ImageType": ["ORIGINAL", "PRIMARY"],
            "SOPClassUID": SOP_CLASS[drift.modality],
            "SOPInstanceUID": self.SOPInstanceUID,
            "StudyInstanceUID": self.StudyInstanceUID,
            "SeriesInstanceUID": self.SeriesInstanceUID,
            "StudyDate": f"2024{1 + self.patient % 12:02}{1 + self.patient % 28:02}",
            "ContentDate": f"2024{1 + self.patient % 12:02}{1 + self.patient % 28:02}",
            "StudyTime": f"{8 + self.patient % 10:02}{self.patient % 60:02}00",
            "ContentTime": f"{8 + self.patient % 10:02}{self.index % 60:02}30.250",
            "Modality": drift.modality,
            "Manufacturer": "Phantom Works",
            "PatientID": self.PatientID,
            "PatientBirthDate": f"{birth_year}{1 + self.patient % 12:02}15",
            "PatientSex": "FM"[self.patient % 2],
            "PatientAge": f"{age:03}Y",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "PatientOrientation": ["L", "F"],
            "SeriesNumber": 1,
            "InstanceNumber": self.index + 1,
            "BurnedInAnnotation": "NO",
        }


def _pixel_module(pixels: npt.NDArray[np.uint16], drift: Drift) -> Elements:
    spacing = f"{400 / min(drift.rows, drift.columns):.4f}"  # mm; the frame is about 40 cm
    elements: dict[str | Tag, Value] = {"PixelSpacing": [spacing, spacing]}
    if drift.padding:
        elements["PixelPaddingValue"] = padding_value(drift)
    if drift.rescale != (1.0, 0.0):
        elements |= {"RescaleSlope": drift.rescale[0], "RescaleIntercept": drift.rescale[1], "RescaleType": "US"}
    return {**elements, **pixel_elements(pixels, bits_stored=drift.bits_stored, photometric=drift.photometric)}


def _labels_csv(hospital: Hospital, truth: Truth) -> str:
    rows = dict.fromkeys((getattr(image, hospital.labels_by), int(image.label)) for image in truth.images)
    return _csv([(hospital.labels_by, LABEL), *rows])


def _truth_csv(truth: Truth) -> str:
    """One line a lesion; an image without one has one line with empty columns."""
    rows: list[tuple[object, ...]] = [("PatientID", "SOPInstanceUID", LABEL, "kind", "row", "column", "radius_px", "contrast")]
    for image in truth.images:
        one = (image.PatientID, image.SOPInstanceUID, int(image.lesion))
        rows += [
            (*one, lesion.kind, *(f"{value:.4f}" for value in (lesion.row, lesion.column, lesion.radius, lesion.contrast)))
            for lesion in image.lesions
        ] or [(*one, "", "", "", "", "")]
    return _csv(rows)


def _csv(rows: list[tuple[object, ...]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
