"""Any arrays to DICOM per hospital, so that real pictures go through the whole pipeline of a hospital and not past it."""

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import MisuseError
from fedrad_common.files import disk_error, fsync_directory, make_folder, sha256_file, write_json
from fedrad_sim.arrays import Archive, Array, Usable, label_names, usable
from fedrad_sim.dicom_write import SOP_CLASS, Elements, pixel_elements, write_dicom
from fedrad_sim.identifiers import uid
from fedrad_sim.partition import Indices, dirichlet_sites, parse_split, patient_classes, site_names

FORMAT = "fedrad-import-1"
Progress: TypeAlias = Callable[[int, int], None]  # images written, images in all
Profile: TypeAlias = Literal["xr", "mr"]
_MODALITY: dict[Profile, str] = {"xr": "DX", "mr": "MR"}


@dataclass(frozen=True)
class Imported:
    """What was written; `import.json` says the same."""

    sites: dict[str, int]  # images of each, in order
    patients: dict[str, int]  # of each
    unit: Literal["patient", "image"]  # what a PatientID stands for; "image" where the arrays name no patients
    labels: tuple[str, ...]
    n_images: int
    n_patients: int
    n_shared: int  # patients at more than one site
    n_nan: int  # images left out: a value is not a finite number
    n_outside: int  # images left out: a float outside [0, 1]


@dataclass(frozen=True)
class _Table:
    """The kept images, one row each."""

    images: Array
    convert: Callable[[Array], Array]
    labels: npt.NDArray[np.uint8]  # (n, L)
    label_names: tuple[str, ...]
    masks: npt.NDArray[np.uint8] | None  # (n, ceil(H × W / 8)), packed bits
    patients: list[str]  # PatientID of each image
    sites: list[str]  # names
    home: Indices  # (n,), index into `sites`
    left_out: Usable


def import_arrays(
    arrays: Path,
    *,
    image: str,
    label: str,
    out: Path,
    mask: str | None = None,
    patient: str | None = None,
    site: str | None = None,
    split: str | None = None,
    seed: int = 0,
    n_sites: int = 5,
    profile: Profile = "xr",
    names: tuple[str, ...] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Write `out/SITE/dicom/*.dcm`, `out/SITE/labels.csv` and `out/import.json`; `out` appears whole or not at all.

    The same arguments give the same bytes. With `mask`, each site also has `masks.npy`, (n, ceil(H × W / 8)) uint8 of packed
    bits, and `masks.csv`, which tells whose row is whose by SOPInstanceUID.

    Args:
        arrays: .npz; pickles are never read.
        image: key of (n, H, W) uint8, uint16 or float in [0, 1], which becomes 0 … 65535.
        label: key of (n,) or (n, L) of 0 and 1.
        mask: key of (n, H, W), or of packed bits as above.
        patient: key of (n,) texts or integers; without it each image counts as a patient of its own.
        site: key of (n,) texts or integers; a patient may be at several.
        split: "dirichlet:ALPHA", over `n_sites` sites H1, H2, …, by patient. With neither site nor split all are at H1.
        profile: pixel profile that the files suit: "xr" writes DX, "mr" writes MR.
        names: of the labels; else the key `label`, numbered when there are several.
        force: replace `out`, if it is an earlier import.

    Raises:
        MisuseError: arguments and arrays don't fit; says which and how.
        FedradError: no space left on the disk.
    """
    _check_split(site, split, n_sites)
    _refuse_existing(out, force=force)
    table = _read_table(arrays, keys=(image, label, mask, patient, site), names=names)
    if not site:
        table = _assign(table, split=split, n_sites=n_sites, seed=seed)
    imported = _summary(table, unit="patient" if patient else "image")
    meta = {
        "format": FORMAT, "source": sha256_file(arrays), "image": image, "profile": profile, "seed": seed,
        "split": f"site:{site}" if site else (split or "one"), **vars(imported),
    }  # fmt: skip
    _write_whole(table, out, meta=meta, progress=progress)
    return imported


def who_is_where(
    arrays: Path, *, image: str, label: str, patient: str | None, site: str | None, split: str | None, n_sites: int, seeds: Iterable[int]
) -> dict[int, dict[str, int]]:  # fmt: skip
    """By seed the patients of each site that `import_arrays` would write; nothing is written."""
    _check_split(site, split, n_sites)
    table = _read_table(arrays, keys=(image, label, None, patient, site), names=None)
    unit: Literal["patient", "image"] = "patient" if patient else "image"
    assigned = {seed: table if site else _assign(table, split=split, n_sites=n_sites, seed=seed) for seed in seeds}
    return {seed: _summary(placed, unit=unit).patients for seed, placed in assigned.items()}


def _check_split(site: str | None, split: str | None, n_sites: int) -> None:
    if site and split:
        raise MisuseError("--site and --split: only one can say who is where", hint="leave one of them out")
    if split and not 1 <= n_sites <= 10_000:
        raise MisuseError(f"number of sites: {n_sites}, expected 1 to 10000")


def _refuse_existing(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise MisuseError(f"{out}: exists already", hint="name a new folder, or add --force to replace this one")
    if not (out / "import.json").is_file():
        raise MisuseError(
            f"{out}: is not an earlier import, so --force does not replace it", hint="remove it yourself, or name a new folder"
        )


def _read_table(arrays: Path, *, keys: tuple[str, str, str | None, str | None, str | None], names: tuple[str, ...] | None) -> _Table:
    archive = Archive(arrays)
    try:
        return _table_of(archive, keys=keys, names=names)
    finally:
        archive.close()


def _table_of(archive: Archive, *, keys: tuple[str, str, str | None, str | None, str | None], names: tuple[str, ...] | None) -> _Table:
    image, label, mask, patient, site = keys
    images, convert = archive.images(image)
    n = len(images)
    labels = archive.labels(label, n)
    columns = label_names(label, labels.shape[1], names)
    masks = archive.masks(mask, images) if mask else None
    patients = archive.texts("patient", patient, n) if patient else [f"{number:06}" for number in range(1, n + 1)]
    places = archive.texts("site", site, n) if site else ["H1"] * n
    left_out = usable(images)
    kept = left_out.kept
    if not len(kept):
        raise archive.error("image", f"none of {n} images is finite and in [0, 1]", hint="scale floats to [0, 1] by constants first")
    values = sorted({places[row] for row in kept})
    return _Table(
        images=images if len(kept) == n else images[kept],
        convert=convert,
        labels=labels[kept],
        label_names=columns,
        masks=None if masks is None else masks[kept],
        patients=[patients[row] for row in kept],
        sites=site_names(values),
        home=np.array([values.index(places[row]) for row in kept], dtype=np.int64),
        left_out=left_out,
    )


def _assign(table: _Table, *, split: str | None, n_sites: int, seed: int) -> _Table:
    if split is None:
        return table
    known = {patient: number for number, patient in enumerate(dict.fromkeys(table.patients))}
    owner = np.array([known[patient] for patient in table.patients], dtype=np.int64)
    classes = patient_classes(table.labels, owner, len(known))
    sites = dirichlet_sites(classes, n_sites, split=parse_split(split), rng=np.random.default_rng(seed))
    return replace(table, sites=[f"H{number}" for number in range(1, n_sites + 1)], home=sites[owner])


def _summary(table: _Table, *, unit: Literal["patient", "image"]) -> Imported:
    counts = np.bincount(table.home, minlength=len(table.sites)).tolist()
    seen: dict[str, set[int]] = {}
    for patient, home in zip(table.patients, table.home.tolist(), strict=True):
        seen.setdefault(patient, set()).add(home)
    return Imported(
        sites=dict(zip(table.sites, counts, strict=True)),
        patients={name: sum(number in homes for homes in seen.values()) for number, name in enumerate(table.sites)},
        unit=unit,
        labels=table.label_names,
        n_images=len(table.images),
        n_patients=len(seen),
        n_shared=sum(len(homes) > 1 for homes in seen.values()),
        n_nan=table.left_out.n_nan,
        n_outside=table.left_out.n_outside,
    )


def _write_whole(table: _Table, out: Path, *, meta: dict[str, object], progress: Progress | None) -> None:
    """Everything beside, then one rename; the files are not synced one by one, because they can be made again."""
    make_folder(out.parent)
    beside, aside = out.with_name(f".{out.name}.{os.getpid()}.tmp"), out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        beside.mkdir(parents=True)
        _write_sites(table, beside, meta=meta, progress=progress)
        write_json(beside / "import.json", meta, mode=0o644)
        if out.is_dir() and any(out.iterdir()):
            out.replace(aside)
        beside.replace(out)
        fsync_directory(out.parent)
    except OSError as error:
        if trouble := disk_error(out.name, error):
            raise trouble from None
        raise
    finally:
        if aside.exists() and not out.exists():
            aside.replace(out)
        for folder in (beside, aside):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)


def _write_sites(table: _Table, folder: Path, *, meta: dict[str, object], progress: Progress | None) -> None:
    key = (meta["source"], meta["image"], meta["seed"])
    modality = _MODALITY[meta["profile"]]  # type: ignore[index]
    done = 0
    for number, name in enumerate(table.sites):
        rows = np.flatnonzero(table.home == number)
        uids = [uid(*key, "image", row) for row in rows.tolist()]
        (folder / name / "dicom").mkdir(parents=True)
        for place, row in enumerate(rows.tolist()):
            names: Elements = {
                "SOPInstanceUID": uids[place],
                "StudyInstanceUID": uid(*key, name, "study", table.patients[row]),
                "SeriesInstanceUID": uid(*key, name, "series", table.patients[row]),
                "PatientID": table.patients[row],
            }
            elements = {**names, **_elements(modality, instance=row + 1), **pixel_elements(table.convert(table.images[row]))}
            write_dicom(folder / name / "dicom" / f"{place + 1:06}.dcm", elements)
            done += 1
            if progress and (done % 50 == 0 or done == len(table.images)):
                progress(done, len(table.images))
        _write_csv(
            folder / name / "labels.csv", [("SOPInstanceUID", *table.label_names), *zip(uids, *table.labels[rows].T.tolist(), strict=True)]
        )
        if table.masks is not None:
            np.save(folder / name / "masks.npy", table.masks[rows])
            _write_csv(folder / name / "masks.csv", [("SOPInstanceUID", "row"), *((one, place) for place, one in enumerate(uids))])


def _elements(modality: str, *, instance: int) -> Elements:
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY"],
        "SOPClassUID": SOP_CLASS[modality],
        "Modality": modality,
        "SeriesNumber": 1,
        "InstanceNumber": instance,
        "BurnedInAnnotation": "NO",
    }


def _write_csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    path.write_text(stream.getvalue())
