"""Identifiers burned into pixels that would be delivered, false alarms on clean pictures, and what the search costs.

`python simulations/benchmarks/burnin.py`. Every bitmap of `fedrad_sim.burned` is drawn into clean pictures, and each goes the whole way of
one file, from DICOM to an outcome; the control is the same without the gate. Clean are phantoms and, where they are at hand, the real
radiographs, CT and MR of the shared data.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from pydicom import dcmread

from fedrad_client.intake import process as steps
from fedrad_client.intake.burnin.detector import find_text
from fedrad_client.intake.burnin.gate import Verdict
from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.rules import KEYWORDS, PseudonymKeys
from fedrad_client.intake.pixels.header import ELEMENTS
from fedrad_client.intake.pixels.image import Geometry, frames_of
from fedrad_client.intake.reading.dicom import find_files, hushed, read
from fedrad_common.profiles import profile
from fedrad_sim.burned import BITMAPS, Bitmap, burned_in
from fedrad_sim.dicom_write import SOP_CLASS, Tag, Value, pixel_elements, write_dicom
from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

Picture = npt.NDArray[Any]
MODALITIES = ("CR", "DX", "CT", "MR", "MG")
ENLARGED = 8  # times: a phantom of 112 pixels becomes one of 896
COSTS = {"CT 512²": 512, "radiograph, 2 megapixels": 1448, "radiograph, 4 megapixels": 2048}


@dataclass(frozen=True)
class Clean:
    name: str
    picture: Picture  # (H, W) stored values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDRAD_SHARED_DATA", "../shared/data")))
    parser.add_argument("--scale", type=float, default=0.3, help="of the phantom hospitals")
    parser.add_argument("--random", type=int, default=1000, help="texts of any letters, size, ink, turn and place, in any clean picture")
    parser.add_argument("--seed", type=int, default=0, help="of those")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean = [*phantoms(Path(folder), options.scale), *real(options.data)]
        found = {**delivered(clean, Path(folder)), **at_random(clean, options.random, options.seed), **alarms(clean), **costs()}
    print(json.dumps(found) if options.json else "\n".join(f"{name:<58} {value}" for name, value in found.items()))


def phantoms(folder: Path, scale: float) -> Iterator[Clean]:
    for seed, hospital in enumerate(HOSPITALS):
        write_hospital(scaled(hospital, scale), folder / hospital.name, seed=seed)
        for path in sorted((folder / hospital.name / "dicom").rglob("*.dcm")):
            yield Clean("phantom", dcmread(path).pixel_array)


def real(data: Path) -> Iterator[Clean]:
    """Radiographs, CT and MR that show no text to the eye; each once, whatever its codec."""
    folders = [
        data / "dicom_zoo" / name
        for name in ("dicom_wg04", "dicom_fodicom", "dicom_rtutils", "dicom_highdicom", "cxr_txrv", "sts_study", "radiomics")
    ]
    seen = set()
    for path in (path for folder in folders if folder.is_dir() for path in find_files(folder)):
        with hushed():
            try:
                ds = read(path, (*KEYWORDS, *ELEMENTS))
                frames = frames_of(ds)
            except Quarantined:
                continue
        picture = frames[0]
        if ds.get("Modality") not in MODALITIES or min(picture.shape) < 64 or picture.min() == picture.max():
            continue
        if (mark := picture.tobytes()) not in seen:
            seen.add(mark)
            yield Clean(f"{ds.Modality}", picture)
    for name, key in (("pneumonia_cxr/pneumonia_cxr_28.npz", "train_images"), ("lgg_mri/lgg64_flair_mask.npz", "flair")):
        if (data / name).is_file():
            yield from (Clean(name.split("/")[0], picture) for picture in np.load(data / name)[key][::10])


def delivered(clean: list[Clean], folder: Path) -> dict[str, str]:
    """Bitmaps that come out of the whole way as an image; with the gate, and without."""
    grounds = [one for one in clean if one.name in MODALITIES and min(one.picture.shape) >= 500]
    grounds.append(Clean("phantom", np.kron(clean[0].picture, np.ones((ENLARGED, ENLARGED), dtype=clean[0].picture.dtype))))
    recipe = steps.Recipe(Geometry(profile("xr"), 64, 64), PseudonymKeys.from_secret(bytes(32)), 0.2)
    missed = without = 0
    for ground in grounds:
        for bitmap in BITMAPS:
            path = folder / "burned.dcm"
            write(path, burned_in(ground.picture, bitmap))
            missed += steps.process(path, recipe).code is None
            with mock.patch.object(steps, "judge", return_value=Verdict()):
                without += steps.process(path, recipe).code is None
    total = len(grounds) * len(BITMAPS)
    return {
        f"bitmaps of {len(BITMAPS)} kinds in {len(grounds)} pictures delivered": f"{missed} of {total}",
        "the same without the gate": f"{without} of {total}",
    }


def at_random(clean: list[Clean], n_texts: int, seed: int) -> dict[str, str]:
    """Missed by length, size and ink: small, thin and faint ones, half hidden by what lies behind them, are among them."""
    rng = np.random.default_rng(seed)
    grounds = [one.picture for one in clean if one.name in MODALITIES and min(one.picture.shape) >= 200]
    tried, missed = Counter[str](), Counter[str]()
    for _ in range(n_texts if grounds else 0):
        letters = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWZabcdehiklmnorstu0123456789")) for _ in range(int(rng.integers(4, 18))))
        height = int(rng.choice((9, 11, 14, 18, 24, 36, 48)))
        ink, font = rng.choice(("white", "black", "bright", "faint", "outlined", "boxed")), rng.choice(("drawn", "pixel"))
        place = (float(rng.uniform()), float(rng.uniform()))
        bitmap = Bitmap(letters, height, ink, int(rng.choice((0, 0, 1, 3))), place, font)
        picture = grounds[int(rng.integers(len(grounds)))]
        found = bool(find_text(burned_in(picture, bitmap)))
        length = next(words for least, words in ((8, "8 to 17"), (6, "6 and 7"), (5, "5"), (4, "4")) if len(letters) >= least)
        names = [f"{length} letters"]
        if len(letters) >= 8:
            names += [f"8 to 17 letters, {'9 and 11' if height < 12 else '14 and more'} pixels high", f"8 to 17 letters, {ink} ink"]
        for name in names:
            tried[name] += 1
            missed[name] += not found
    return {f"random texts missed, {name}": f"{missed[name]} of {tried[name]}" for name in sorted(tried)}


def write(path: Path, picture: Picture) -> None:
    values = (picture.astype(np.int64) - int(picture.min())).clip(0, 65535).astype(np.uint16)
    elements: dict[str | Tag, Value] = {
        "SOPClassUID": SOP_CLASS["CR"],
        "SOPInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.4",
        "StudyInstanceUID": "1.2.5",
    }
    elements.update({"PatientID": "P1", "Modality": "CR"})
    elements.update(pixel_elements(values))
    write_dicom(path, elements)


def alarms(clean: list[Clean]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted({one.name for one in clean}):
        pictures = [one.picture for one in clean if one.name == name]
        hits = sum(bool(find_text(picture)) for picture in pictures)
        found[f"false alarms, {name}"] = f"{hits} of {len(pictures)}"
    hits, total = (sum(int(value.split(" of ")[place]) for value in found.values()) for place in (0, 1))
    return {**found, "false alarms, all": f"{hits} of {total}, {100 * hits / total:.2f} %"}


def costs() -> dict[str, str]:
    """Milliseconds of one core, median of 15."""
    found = {}
    for name, side in COSTS.items():
        rng = np.random.default_rng(side)
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        tissue = 1500 + 700 * np.sin(9 * x) * np.cos(7 * y) + rng.normal(0, 25, (side, side))
        picture = np.where((x / 0.7) ** 2 + (y / 0.85) ** 2 < 1, tissue, rng.normal(60, 10, (side, side))).clip(0, 4095).astype(np.uint16)
        for kind, shown in (("clean", picture), ("with a name", burned_in(picture, BITMAPS[0]))):
            spent = []
            for _ in range(15):
                began = time.perf_counter()
                find_text(shown)
                spent.append(1e3 * (time.perf_counter() - began))
            found[f"{name}, {kind}, ms"] = f"{statistics.median(spent):.1f} ({min(spent):.1f} … {max(spent):.1f})"
    return found


if __name__ == "__main__":
    main()
