"""De-identification against a corpus of its own: what is found of 6,000 planted strings, and what survives that should.

`python simulations/benchmarks/deid_corpus.py [--json] [--peers]` runs `fedrad-site ingest` and `deid` on it, and prints a table.
"""

import argparse
import contextlib
import csv
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from deid_cases import Case, cases  # type: ignore[import-not-found] # beside this one, as are the next
from deid_images import KINDS, Who, encoded, sound  # type: ignore[import-not-found]
from deid_search import careless, files_of, found, nibbles  # type: ignore[import-not-found]
from pydicom import Dataset, config, dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

PROTOCOL = Path(__file__).resolve().parents[2] / "configs" / "protocols" / "phantom.toml"
SITE = [sys.executable, "-c", "from fedrad_client.cli import main; main()"]


@dataclass
class Outcome:
    """Figures of one run."""

    cases: int = 0
    planted: int = 0
    exported: int = 0
    ingested: int = 0
    leaked: set[bytes] = field(default_factory=set)
    leaked_by_careless: int = 0
    leaked_by_peer: int | None = None
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)  # of what should survive: how many did, of how many
    seconds: float = 0.0

    def rows(self) -> list[tuple[str, str]]:
        careless_row = ("the same, by a careless scrubber", f"{self.leaked_by_careless} of {self.planted}")
        return [
            ("cases", f"{self.cases}"),
            ("images exported / ingested of them", f"{self.exported} / {self.ingested}"),
            ("planted strings found in any output", f"{len(self.leaked)} of {self.planted}"),
            careless_row,
            *([] if self.leaked_by_peer is None else [("the same, by dicom-anonymizer", f"{self.leaked_by_peer} of {self.planted}")]),
            *((f"{what} kept", f"{kept} of {all_}") for what, (kept, all_) in self.kept.items()),
            ("seconds", f"{self.seconds:.0f}"),
        ]


def site(*arguments: str, where: Path) -> bytes:
    """One command of `fedrad-site`; what it said on both streams. Raises CalledProcessError: it failed."""
    done = subprocess.run([*SITE, *arguments], cwd=where, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"fedrad-site {arguments[0]}: exit code {done.returncode}")
    return done.stdout + done.stderr


def prepare(where: Path, made: list[Case]) -> None:
    """`where/in` with a file a case, in folders and under names that are planted, too; a label table; a site."""
    (where / "in").mkdir()
    rows: list[tuple[str, str]] = []
    for case in made:
        folder = where / "in" / case.text("folder")
        folder.mkdir()
        (folder / f"{case.text('file name')}.dcm").write_bytes(case.content)
        with contextlib.suppress(Exception):
            name = str(dcmread(io.BytesIO(case.content), force=True).PatientID or "").strip(" \0")
            rows += [(name, "1")] if name else []
    with (where / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("PatientID", "lesion"), *dict(rows).items()])
    site("init", "--local", "--name", "north", "--delta", "1e-5", "--home", "home", where=where)


def run(where: Path) -> list[bytes]:
    """Everything that the two commands wrote or said; the map, which leads back, and the keys are no output."""
    said = [
        site("ingest", "in", "--labels", "labels.csv", "--protocol", str(PROTOCOL), "--home", "home", where=where),
        site("deid", "in", "--out", "out", "--map", "map.jsonl", "--home", "home", where=where),
    ]
    assert (where / "map.jsonl").stat().st_mode & 0o777 == 0o600
    return [*said, *files_of(where / "home", where / "out")]


def bits(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*.dcm"):
        ds = dcmread(path)
        if ds.BitsAllocated == 16:
            yield nibbles(ds.PixelData)


def leaks(where: Path, made: list[Case]) -> tuple[set[bytes], int]:
    """Planted strings found in what the two commands wrote, and how many the careless scrubber leaves in its files."""
    planted = {text for case in made for text in case.planted}
    hidden = {text for case in made for text in case.hidden}
    outputs = run(where)
    leaked = found(planted, outputs) | {text for text in hidden if any(text in stream for stream in bits(where / "out"))}
    scrubbed = []
    for case in made:
        with contextlib.suppress(Exception):  # it gives up where a file is odd: then nothing of it is delivered
            scrubbed.append(careless(case.content))
    left = found(planted, scrubbed) | {text for text in hidden if any(text in nibbles(content) for content in scrubbed)}
    return leaked, len(left)


def peer(where: Path, made: list[Case]) -> int:
    """Planted strings that dicom-anonymizer leaves in what it delivers, told to drop private elements, with its newest table."""
    from dicomanonymizer import anonymize_dicom_file  # type: ignore[import-untyped]

    (where / "peer").mkdir()
    delivered = []
    for number, case in enumerate(made):
        source, target = where / "peer" / f"{number}.in", where / "peer" / f"{number}.out"
        source.write_bytes(case.content)
        with contextlib.suppress(Exception):
            anonymize_dicom_file(str(source), str(target), delete_private_tags=True)
            delivered.append(target.read_bytes())
    planted = {text for case in made for text in case.planted}
    hidden = {text for case in made for text in case.hidden}
    return len(found(planted, delivered)) + sum(any(text in nibbles(content) for content in delivered) for text in hidden)


def survivors(where: Path) -> dict[str, tuple[int, int]]:
    """Links, intervals, ages, people and pixels of sound studies that were exported, compared with what went in."""
    (where / "sound").mkdir()
    sources = dict(_studies())
    for name, ds in sources.items():
        (where / "sound" / f"{name}.dcm").write_bytes(encoded(ds))
    site("deid", "sound", "--out", "clean", "--map", "clean.jsonl", "--home", "home", where=where)
    rows = [json.loads(line) for line in (where / "clean.jsonl").read_text().splitlines()]
    made = {row["input"].removesuffix(".dcm"): dcmread(where / "clean" / row["output"]) for row in rows if "output" in row}
    pairs = [(sources[name], made.get(name, Dataset())) for name in sources]
    return {
        "clean images": (len(made), len(sources)),
        "identical pixels": (sum(_same_pixels(before, after) for before, after in pairs), len(pairs)),
        "UID links": _links(pairs),
        "date intervals": _intervals(pairs),
        "ages": (sum(after.get("PatientAge") == _age(before.PatientAge) for before, after in pairs), len(pairs)),
        "distinct patients": _people(pairs),
    }


def _studies() -> Iterator[tuple[str, Dataset]]:
    """Four people; each kind of image, three slices a series that refer to each other, two studies 117 days apart, each syntax."""
    ages = ("057Y", "089Y", "090Y", "103Y")
    syntaxes = (None, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless)
    for person, age in enumerate(ages):
        for place, kind in enumerate(KINDS):
            for study, date in enumerate(("20190314", "20190709"), start=1):
                for image in range(1, 4):
                    who = Who(f"P{person}", study, place + 1, image, date, age)
                    ds = sound(kind, who)
                    for keyword, target in (("ReferencedImageSequence", image % 3 + 1), ("SourceImageSequence", 1)):
                        item = Dataset()
                        item.ReferencedSOPClassUID = ds.SOPClassUID
                        item.ReferencedSOPInstanceUID = Who(f"P{person}", study, place + 1, target).uid
                        setattr(ds, keyword, [item])
                    syntax = syntaxes[(person + image) % len(syntaxes)]
                    if syntax == ImplicitVRLittleEndian:
                        ds.file_meta.TransferSyntaxUID = syntax
                    elif syntax:
                        ds.compress(syntax, generate_instance_uid=False)
                    yield f"{person}-{kind}-{study}-{image}", ds


def _same_pixels(before: Dataset, after: Dataset) -> bool:
    return "PixelData" in after and bool(np.array_equal(before.pixel_array, after.pixel_array))


def _age(before: str) -> str:
    return "090Y" if int(before[:3]) >= 90 else before


def _uids(ds: Dataset) -> dict[str, str]:
    """UIDs by place."""
    places = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    found = {place: str(ds[place].value) for place in places if place in ds}
    for place in ("ReferencedImageSequence", "SourceImageSequence"):
        found |= {f"{place}{number}": str(item.ReferencedSOPInstanceUID) for number, item in enumerate(ds.get(place) or ())}
    if "file_meta" in ds.__dict__ or hasattr(ds, "file_meta"):
        found["meta"] = str(ds.file_meta.MediaStorageSOPInstanceUID)
    return found


def _links(pairs: list[tuple[Dataset, Dataset]]) -> tuple[int, int]:
    """Places whose UID became the one that this UID became everywhere, that no other became, and that is new."""
    became: dict[str, set[str]] = {}
    came: dict[str, set[str]] = {}
    places = [(before, _uids(after).get(place, "")) for b, after in pairs for place, before in _uids(b).items()]
    for before, after in places:
        became.setdefault(before, set()).add(after)
        came.setdefault(after, set()).add(before)
    good = sum(len(became[before]) == len(came[after]) == 1 and after.startswith("2.25.") for before, after in places)
    return good, len(places)


def _intervals(pairs: list[tuple[Dataset, Dataset]]) -> tuple[int, int]:
    """Dates of a person that moved by as many days as that person's others, and moved at all."""
    from datetime import datetime

    def days(text: str) -> int:
        return datetime.strptime(text, "%Y%m%d").toordinal() if text else 0  # noqa: DTZ007 - a day has no zone

    places = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
    moved = [
        (before.PatientID, days(before[place].value) - days(str(after.get(place) or ""))) for before, after in pairs for place in places
    ]
    first = dict(reversed(moved))
    return sum(shift == first[person] and 0 < shift <= 3650 for person, shift in moved), len(moved)


def _people(pairs: list[tuple[Dataset, Dataset]]) -> tuple[int, int]:
    """People who have one pseudonym, which nobody else has."""
    names: dict[str, set[str]] = {}
    for before, after in pairs:
        names.setdefault(before.PatientID, set()).add(str(after.get("PatientID")))
    alone = [next(iter(found)) for found in names.values() if len(found) == 1]
    return len(set(alone) - {"None"}), len(names)


def measure(where: Path, *, peers: bool = False) -> Outcome:
    """The whole of it, in an empty folder."""
    began = time.monotonic()
    config.settings.writing_validation_mode = config.IGNORE
    made = cases()
    prepare(where, made)
    outcome = Outcome(cases=len(made), planted=len({text for case in made for text in (*case.planted, *case.hidden)}))
    outcome.leaked, outcome.leaked_by_careless = leaks(where, made)
    outcome.leaked_by_peer = peer(where, made) if peers else None
    outcome.exported = sum(1 for _ in (where / "out").rglob("*.dcm"))
    outcome.ingested = sum(len(path.read_bytes().splitlines()) for path in (where / "home" / "cohort").glob("0*/records.jsonl"))
    outcome.kept = survivors(where)
    outcome.seconds = time.monotonic() - began
    return outcome


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--peers", action="store_true", help="dicom-anonymizer on the same files, too")
    given = arguments.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, of the wrong values that the corpus writes
    with tempfile.TemporaryDirectory() as folder:
        outcome = measure(Path(folder), peers=given.peers)
    if given.json:
        print(json.dumps(dict(outcome.rows())))
    else:
        for name, value in outcome.rows():
            print(f"{name:<44}{value:>16}")
    sys.exit(bool(outcome.leaked))


if __name__ == "__main__":
    main()
