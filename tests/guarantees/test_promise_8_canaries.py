"""Promise 8: no exception, log line, message or file carries a patient's data. Identifiers are planted everywhere, then looked for."""

import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from fakes.reading import read_here
from fakes.terminal import Terminal

from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

# Tokens as the phantom plants them, and UIDs; looked ahead, so that one found inside another counts too.
SHAPES = re.compile(rb"(?=(Z[QPF][0-9A-Z]{12}|2\.25\.[0-9]{20,39}))")
HEX = re.compile(rb"(?=((?:5a(?:51|50|46)|322e32352e)(?:[0-9a-f]{2}){12,44}))", re.IGNORECASE)
FOLDER = "ZQCANARYFOLDER"  # in the path of the images and of the label table, which a person types
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
task = { kind = "classification", labels = ["lesion"] }
input = { profile = "xr", height = 12, width = 12 }
model = { name = "resnet", options = { channels = 8, stages = 1 } }
privacy = { unit = "patient", epsilon = 4.0, expected_batch = 4.0, steps_per_round = 1, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 3, deadline_seconds = 60.0 }
evaluation = { rounds = [2], epsilon = 4.0 }
"""
SCENARIO = """
format = "fedrad-scenario-1"
name = "small"
protocol = "small.toml"
label = "lesion"
seed = 3
arms = ["federated-private", "federated-plain"]
[phantom]
scale = 0.04
held_out = 6
"""


def found(blobs: Iterable[bytes], canaries: set[bytes]) -> set[bytes]:
    """The canaries that stand anywhere in the blobs: as they are, in another case, in UTF-16, or in hexadecimal."""
    lengths = sorted({len(canary) for canary in canaries})
    seen = set()
    for blob in blobs:
        views = [blob, blob.upper(), blob.replace(b"\0", b"")]
        views.append(b" ".join(bytes.fromhex(match[: len(match) // 2 * 2].decode()) for match in HEX.findall(blob)))
        for view in views:
            for match in set(SHAPES.findall(view)):
                seen.update(match[:length] for length in lengths if match[:length] in canaries)
    return seen


def files(*folders: Path, without: tuple[Path, ...] = ()) -> Iterable[bytes]:
    """Each file's bytes, and its path below the folder."""
    for folder in folders:
        for path in folder.rglob("*"):
            if not any(path.is_relative_to(raw) for raw in without):
                yield str(path.relative_to(folder)).encode()
                if path.is_file() and not path.is_symlink():
                    yield path.read_bytes()


def planted(*hospitals: Path) -> set[bytes]:
    return {line for hospital in hospitals for line in (hospital / "canaries.txt").read_bytes().splitlines()}


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


def said(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> list[bytes]:
    shown = [text.encode() for said in terminal.said for text in (said.out, said.err)]
    records = [f"{record.getMessage()} {record.args} {record.exc_text} {record.exc_info}".encode() for record in caplog.records]
    return [*shown, *records, caplog.text.encode()]


class Hospital:
    """One site whose images and labels lie below a folder with a telling name."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal, self.raw, self.home = terminal, terminal.folder / "raw" / FOLDER, terminal.folder / "work" / "site"
        write_hospital(scaled(HOSPITALS[1], 0.08), self.raw, seed=1)
        self.canaries = planted(self.raw) | {FOLDER.encode()}
        self.protocol = terminal.folder / "work" / "protocol.toml"
        self.protocol.parent.mkdir()
        self.protocol.write_text(PROTOCOL)
        self.labels = self.raw / "labels.csv"

    def site(self, verb: str, *arguments: object, code: int = 0) -> None:
        done = self.terminal.type("fedrad-site", *verb.split(), *arguments, "--home", self.home)
        assert done.code == code, (verb, arguments, done.err)

    def ingest(self, source: Path | None = None, labels: Path | None = None, code: int = 0) -> None:
        self.site("ingest", source or self.raw / "dicom", "--labels", labels or self.labels, "--protocol", self.protocol, code=code)

    def table(self, text: str | bytes) -> Path:
        path = self.raw / "other" / "labels.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path


def test_the_search_finds_every_canary_where_they_were_planted(terminal: Terminal) -> None:
    """Without this, the other tests could pass by looking for nothing."""
    hospital = Hospital(terminal)

    # truth.csv and canaries.txt are the phantom's own notes, not the hospital's
    notes = (hospital.raw / "canaries.txt", hospital.raw / "truth.csv")
    assert found(files(terminal.folder / "raw", without=notes), hospital.canaries) == hospital.canaries
    assert len(hospital.canaries) > 300


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "utf-16-be", "hex", "lower"])
def test_the_search_sees_through_encodings(encoding: str) -> None:
    canaries = {b"ZQ0123456789AB", b"2.25.123456789012345678901234567890"}
    text = "x é ZQ0123456789AB, 2.25.123456789012345678901234567890 y"
    coded = text.encode().hex().encode() if encoding == "hex" else text.lower().encode() if encoding == "lower" else text.encode(encoding)
    assert found([coded], canaries) == canaries


def test_nothing_of_a_patient_gets_out_of_a_hospitals_verbs(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hospital = Hospital(terminal)
    hospital.site("init", "--local", "--name", "harbour", "--delta", "1e-3")
    hospital.ingest()
    for verb in ("preview", "approve"):
        hospital.site(verb, hospital.protocol, "--declared-size", 60)
    for verb in ("ledger", "audit verify", "status"):
        hospital.site(verb)
        hospital.site(verb, "--json")

    assert (hospital.home / "cohort/00001/pixels/00000.npy").stat().st_size > 12 * 12 * 2
    assert found(files(terminal.folder / "work"), hospital.canaries) == set()
    assert found(said(terminal, caplog), hospital.canaries) == set()


def test_nothing_of_a_patient_gets_out_of_what_fails(
    terminal: Terminal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    hospital = Hospital(terminal)
    hospital.site("init", "--local", "--name", "harbour", "--delta", "1e-3")
    spoil_files(hospital.raw)
    hospital.ingest()
    rows = hospital.labels.read_text().splitlines()
    key, patient = rows[1].split(",")[0], next(iter(sorted(c.decode() for c in hospital.canaries if c.startswith(b"ZP"))))
    hospital.table("")
    for text in (
        f"{patient},{key}\n{patient},1\n",  # no header: the first line is a patient
        f"PatientID,{patient}\n{patient},1\n",
        f"PatientID,lesion\n{patient},{patient}\n",
        f"PatientID,lesion\n{patient},1\n{patient},0\n",
        f"PatientID,lesion\n{patient},1,{key}\n",
        f"PatientID,lesion\n,{patient}\n",
        f'PatientID,lesion\n"{patient},1\n',
        f"PatientID,lesion,{patient},{patient}\n{patient},1,0,0\n",
        f"PatientID,lesion\n{patient},1\nM\xfcller {key},1\n".encode("latin-1"),
        "PatientID,lesion\nnobody,1\n",
    ):  # fmt: skip
        hospital.ingest(labels=hospital.table(text), code=2)
    for source in (hospital.raw / "nowhere", hospital.raw / "spoilt", hospital.labels):
        hospital.ingest(source, code=2)
    hospital.ingest(labels=hospital.raw / "nowhere.csv", code=2)
    hospital.ingest(labels=hospital.raw / "dicom", code=2)

    def explode(ds, *_: object, **__: object) -> None:
        raise ValueError(f"cannot read {ds.PatientID} in {hospital.raw} of {ds.SOPInstanceUID}")

    with monkeypatch.context() as patch:
        patch.setattr("fedrad_client.intake.process.slices_of", explode)
        patch.setattr("fedrad_client.intake.filling.read_all", read_here)  # a reader process would not know of it
        patch.setattr("fedrad_client.intake.ingest.recipe_id", lambda _: bytes(16))  # nor would what was read before
        hospital.ingest(code=2)  # every file is set aside as `internal`
    with monkeypatch.context() as patch:
        patch.setattr("fedrad_client.cohort.draft.os.pread", lambda *_: (_ for _ in ()).throw(OSError(28, "full", str(hospital.raw))))
        hospital.table("\n".join(rows[:-1]) + "\n")
        hospital.ingest(labels=hospital.raw / "other" / "labels.csv", code=1)
    break_cohort(hospital)

    assert sum(done.code != 0 for done in terminal.said) >= 17
    assert found(files(terminal.folder / "work"), hospital.canaries) == set()
    assert found(said(terminal, caplog), hospital.canaries) == set()


def spoil_files(raw: Path) -> None:
    """Copies that end too early, beside the sound ones; and a folder of nothing but such."""
    first, *_ = sorted((raw / "dicom").rglob("*.dcm"))
    content = first.read_bytes()
    (raw / "spoilt").mkdir()
    for size in range(140, len(content) - 1, len(content) // 30):
        for folder in (first.parent, raw / "spoilt"):
            (folder / f"{first.stem}-{size}.dcm").write_bytes(content[:size])
    (first.parent / f"{first.stem}-link").symlink_to(first)
    (first.parent / f"{first.stem}-text").write_bytes(first.stem.encode())
    shuffled = np.random.default_rng(0)
    for number in range(20):  # a flipped byte may fall anywhere, also into a length
        broken = bytearray(content)
        broken[int(shuffled.integers(132, 3000))] ^= 0xFF
        (raw / "spoilt" / f"{first.stem}-flipped-{number}").write_bytes(bytes(broken[: len(broken) // 2]))


def break_cohort(hospital: Hospital) -> None:
    cohort = hospital.home / "cohort" / "00001"
    for name, code in (("records.jsonl", 1), ("pixels/00000.npy", 1), ("cohort.json", 1)):
        sound = (cohort / name).read_bytes()
        (cohort / name).write_bytes(sound[: len(sound) // 2])
        hospital.site("preview", hospital.protocol, "--declared-size", 60, code=code)
        (cohort / name).write_bytes(sound)


def test_nothing_of_a_patient_gets_out_of_a_whole_simulation(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    folder = terminal.folder / "work"
    folder.mkdir()
    (folder / "small.toml").write_text(PROTOCOL)
    (folder / "scenario.toml").write_text(SCENARIO)
    out = folder / "out"

    terminal.do("fedrad-sim", "run", folder / "scenario.toml", "--out", out)
    raw = sorted((out / "hospitals").iterdir())
    canaries = planted(*raw)
    run = next((out / "arms").glob("federated-private*/run"))
    for verb in ("status", "replay", "report"):
        terminal.do("fedrad-coordinator", verb, run)
    for home in sorted((out / "sites").glob("*/")):
        for verb in (["ledger"], ["audit", "verify"], ["status"]):
            terminal.do("fedrad-site", *verb, "--home", home)
    unseen = terminal.folder / "raw" / FOLDER
    write_hospital(scaled(HOSPITALS[2], 0.05), unseen, seed=9)
    terminal.do("fedrad-sim", "evaluate", out, unseen / "dicom", "--json")
    (unseen / "labels.csv").write_text("SOPInstanceUID,lesion\n1.2.3,ZQCANARYCELL00\n")
    assert terminal.type("fedrad-sim", "evaluate", out, unseen / "dicom").code == 2
    canaries |= planted(unseen) | {FOLDER.encode(), b"ZQCANARYCELL00"}

    assert json.loads((out / "simulation.json").read_text())["format"] == "fedrad-simulation-1"
    assert (out / "report.html").stat().st_size > 100_000
    assert len(canaries) > 1000
    assert found(files(folder, without=(out / "hospitals",)), canaries) == set()
    assert found(said(terminal, caplog), canaries) == set()
    shutil.rmtree(out)
