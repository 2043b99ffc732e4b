"""Bad input at a hospital gets where, what, value and hint; exit code 2; and a disk on which nothing was lost or half-written."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Said, Terminal, changes, on_disk

from fedrad_client.cohort.draft import new_generation
from fedrad_client.cohort.store import current, open_cohort
from fedrad_client.privacy.ledger import KIND as LEDGER_KIND
from fedrad_client.site import Home, open_site
from fedrad_common.chain import Chain
from fedrad_sim.dicom_write import SOP_CLASS, pixel_elements, write_dicom
from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
[task]
kind = "classification"
labels = ["lesion"]
[input]
profile = "xr"
height = 12
width = 12
[model]
name = "resnet"
options = { channels = 8, stages = 1 }
[privacy]
unit = "patient"
epsilon = 4.0
expected_batch = 4.0
steps_per_round = 1
rounds = 2
[training]
learning_rate = 0.1
[rounds]
quorum = 1
deadline_seconds = 60.0
"""
SITE = "fedrad-site"


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven invented patients: dicom/ and labels.csv."""
    folder = tmp_path_factory.mktemp("phantom") / "north"
    write_hospital(scaled(HOSPITALS[0], 0.05), folder, seed=1)
    return folder


class Hospital:
    """One site with its input, as its IT person has it."""

    def __init__(self, folder: Path, phantom: Path, terminal: Terminal) -> None:
        self.folder, self.terminal = folder, terminal
        self.home, self.dicom, self.labels, self.protocol = folder / "site", folder / "dicom", folder / "labels.csv", folder / "protocol.toml"
        shutil.copytree(phantom / "dicom", self.dicom)
        shutil.copy(phantom / "labels.csv", self.labels)
        self.protocol.write_text(PROTOCOL)
        terminal.do(SITE, "init", "--local", "--name", "north", "--home", self.home, "--epsilon", "8", "--delta", "1e-3")

    @property
    def _input(self) -> tuple[object, ...]:
        return ("--labels", self.labels, "--protocol", self.protocol, "--home", self.home)

    def ingest(self) -> dict:
        return json.loads(self.terminal.do(SITE, "ingest", self.dicom, *self._input, "--json").out)

    def ingest_fails(self, source: Path | None = None, *, code: int = 2) -> Said:
        return self.terminal.fail(SITE, "ingest", source or self.dicom, *self._input, code=code)

    def files(self) -> list[Path]:
        return sorted(self.dicom.rglob("*.dcm"))

    def rows(self) -> list[list[str]]:
        return list(csv.reader(self.labels.read_text().splitlines()))

    def write_rows(self, rows: list[list[str]]) -> None:
        self.labels.write_text("".join(",".join(row) + "\n" for row in rows))

    def asks(self, old: str, new: str) -> "Hospital":
        assert old in PROTOCOL
        self.protocol.write_text(PROTOCOL.replace(old, new))
        return self

    def approve(self, *, size: int = 40) -> tuple[object, ...]:
        return (SITE, "approve", self.protocol, "--declared-size", size, "--home", self.home)


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def hospital(tmp_path: Path, phantom: Path, terminal: Terminal) -> Hospital:
    return Hospital(tmp_path, phantom, terminal)


@pytest.fixture
def ready(hospital: Hospital) -> Hospital:
    """With a cohort."""
    hospital.ingest()
    return hospital


# ── what is in the folder ──


def test_an_empty_folder_is_said_to_be_empty(hospital: Hospital) -> None:
    (hospital.folder / "empty").mkdir()
    assert hospital.ingest_fails(hospital.folder / "empty").error == "source: the folder is empty"


@pytest.mark.parametrize("name", ["labels.csv", "nowhere", "labels.csv/below"])
def test_a_folder_that_is_none_is_said_to_be_none(hospital: Hospital, name: str) -> None:
    assert hospital.ingest_fails(hospital.folder / name).error == "source: no such folder"


def test_a_folder_without_dicom_is_refused_with_a_count(hospital: Hospital) -> None:
    for number, content in enumerate((b"", b"hello", bytes(1000), b"%PDF-1.7", b"PK\x03\x04 archive")):
        (hospital.folder / "other").mkdir(exist_ok=True)
        (hospital.folder / "other" / f"{number}.dcm").write_bytes(content)
    assert hospital.ingest_fails(hospital.folder / "other").error == "source: none of 5 files can be used: 4 not-dicom, 1 compressed-archive"


def spoil_text(path: Path) -> None:
    path.write_text("no picture")


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def spoil_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def spoil_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def spoil_nan(path: Path) -> None:
    from pydicom import dcmread

    ds = dcmread(path)
    pixels = ds.pixel_array.astype("<f4")
    pixels[0, 0] = np.nan
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.BitsAllocated, ds.FloatPixelData = 32, pixels.tobytes()
    ds.save_as(path)


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "no DICOM": (spoil_text, "not-dicom"),
    "truncated pixels": (spoil_truncated, "truncated"),
    "truncated header": (spoil_header, "truncated"),
    "a link": (spoil_link, "not-a-file"),
    "not a number": (spoil_nan, "bad-pixels"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_one_bad_file_is_set_aside_with_its_code_and_the_others_are_taken(hospital: Hospital, what: str) -> None:
    spoil, code = SPOILT[what]
    spoil(hospital.files()[0])

    done = hospital.ingest()

    assert done["quarantined"] == {code: 1}
    assert done["images"] == done["files"] - 1
    entries = [json.loads(line) for line in (hospital.home / "cohort/00001/quarantine.jsonl").read_text().splitlines()]
    assert [(entry["entry"], entry["code"]) for entry in entries] == [(1, code)]


# ── labels ──


def test_no_labels_at_all(hospital: Hospital) -> None:
    said = hospital.terminal.fail(SITE, "ingest", hospital.dicom, "--protocol", hospital.protocol, "--home", hospital.home)
    assert (said.error, "lesion" in said.hint) == ("--labels: none given", True)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "labels.csv: no such file"),
        ("", "labels.csv: line 1: no key column among 0 columns"),
        ("Patient,lesion\nA,1\n", "labels.csv: line 1: no key column among 2 columns"),
        ("PatientID;lesion\nA;1\n", "labels.csv: line 1: no key column among 1 columns"),
        ("PatientID,nodule\nA,1\n", "labels.csv: line 1: no column 'lesion'"),
        ("PatientID,lesion\n", "labels.csv: has no rows"),
        ("PatientID,lesion\nA,1\nB,yes\n", "labels.csv: line 3: column 2: is not 0, 1 or empty"),
        ("PatientID,lesion\nA,2\n", "labels.csv: line 2: column 2: is not 0, 1 or empty"),
        ("PatientID,lesion\nA,1\nA,0\n", "labels.csv: 1 rows contradict an earlier row with the same key"),
        ("PatientID,lesion\nA,1,1\n", "labels.csv: line 2: 3 columns, the header has 2"),
        ("PatientID,lesion,lesion\nA,1,1\n", "labels.csv: line 1: two columns have the same name"),
        (b"PatientID,lesion\nM\xfcller,1\n", "labels.csv: is not UTF-8 text"),
        (b"\x00\xff\xfe\x80", "labels.csv: is not UTF-8 text"),
        ("directory", "labels.csv: cannot be read (IsADirectoryError)"),
    ],
)
def test_a_bad_label_table_is_one_precise_line(ready: Hospital, content: str | bytes | None, error: str) -> None:
    ready.labels.unlink()
    if content == "directory":
        ready.labels.mkdir()
    elif content is not None:
        ready.labels.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert ready.ingest_fails().error == error
    assert current(ready.home / "cohort") == 1


def test_labels_for_unknown_images_are_counted_and_their_images_set_aside(hospital: Hospital) -> None:
    header, first, *others = hospital.rows()
    hospital.write_rows([header, *others, ["1.2.3.999", "1"], ["1.2.3.998", "0"]])

    done = hospital.ingest()

    assert done["quarantined"] == {"unlabelled": 1}
    assert "labels: 2 keys belong to no image that was read" in done["warnings"]


def test_labels_for_unknown_images_only(hospital: Hospital) -> None:
    hospital.write_rows([hospital.rows()[0], ["1.2.3.999", "1"]])
    n = len(hospital.files())
    assert hospital.ingest_fails().error == f"source: none of {n} files can be used: {n} unlabelled"


def test_all_one_class_is_a_warning_here_and_before_approval(hospital: Hospital) -> None:
    header, *rows = hospital.rows()
    hospital.write_rows([header, *([key, "1"] for key, _ in rows)])

    assert "labels: lesion: every image is 1" in hospital.ingest()["warnings"]
    shown = hospital.terminal.do(SITE, "preview", hospital.protocol, "--declared-size", 20, "--home", hospital.home, "--json")
    assert any("one class" in warning for warning in json.loads(shown.out)["warnings"])
    hospital.terminal.do(*hospital.approve())


def test_one_patient_is_a_warning_and_no_crash(hospital: Hospital) -> None:
    kept = hospital.files()[0].parent
    for folder in hospital.dicom.iterdir():
        if folder != kept:
            shutil.rmtree(folder)

    done = hospital.ingest()

    assert done["patients"] == 1
    assert "cohort: one patient only" in done["warnings"]
    hospital.terminal.do(*hospital.approve(size=1))


# ── protocols ──


@pytest.mark.parametrize(
    ("old", "new", "error", "hint"),
    [
        ("epsilon = 4.0", "epsilom = 4.0", "protocol.toml: privacy.epsilom: unknown key", "did you mean 'epsilon'?"),
        ("[privacy]", "[privacie]", "protocol.toml: privacy: missing key", "add it"),
        ("epsilon = 4.0", 'epsilon = "4"', "protocol.toml: privacy.epsilon: input should be a valid number, not '4'", ""),
        ("epsilon = 4.0", "epsilon = -1.0", "protocol.toml: privacy.epsilon: input should be greater than 0, not -1.0", ""),
        ("epsilon = 4.0", "epsilon = nan", "protocol.toml: privacy.epsilon: ", ""),
        ("epsilon = 4.0", "epsilon = inf", "protocol.toml: privacy.epsilon: ", ""),
        ("epsilon = 4.0", "epsilon = 1979-05-27", "protocol.toml: privacy.epsilon: input should be a valid number, not '1979-05-27'", ""),
        ("epsilon = 4.0\n", "", "protocol.toml: privacy: epsilon is required", ""),
        ("rounds = 2", "rounds = 2.5", "protocol.toml: privacy.rounds: input should be a valid integer", ""),
        ('labels = ["lesion"]', "labels = []", "protocol.toml: task.labels: ", ""),
        ('labels = ["lesion"]', 'labels = "lesion"', "protocol.toml: task.labels: input should be a valid array, not 'lesion'", ""),
        ("height = 12", "height = 0", "protocol.toml: input.height: input should be greater than or equal to 1, not 0", ""),
        ('profile = "xr"', 'profile = "ct"', "", ""),
        ('name = "resnet"', 'name = "alexnet"', "", ""),
        ("channels = 8", "chanels = 8", "", ""),
        ("channels = 8", 'channels = "eight"', "", ""),
        ('kind = "classification"', 'kind = "detection"', "", ""),
        ("fedrad-protocol-1", "fedrad-protocol-2", "protocol.toml: format: input should be 'fedrad-protocol-1', not 'fedrad-protocol-2'", ""),
        ("[privacy]", "[privacy", "protocol.toml: ", "TOML wants KEY = VALUE lines"),
        ("epsilon = 4.0", "epsilon = 4.0\nepsilon = 5.0", "protocol.toml: ", "TOML wants KEY = VALUE lines"),
    ],
)  # fmt: skip
def test_a_bad_protocol_is_one_precise_line_and_nothing_is_approved(ready: Hospital, old: str, new: str, error: str, hint: str) -> None:
    said = ready.asks(old, new).terminal.fail(*ready.approve(), hint=bool(hint))
    assert said.error.startswith(error)
    assert said.hint.startswith(hint)


@pytest.mark.parametrize("verb", ["ingest", "approve", "preview"])
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.write_bytes(bytes(range(256))), "protocol.toml: is not UTF-8 text"),
        (lambda path: path.write_bytes(b""), "protocol.toml: format: missing key"),
        (lambda path: path.write_bytes(b"a = " + b"[" * 100_000), "protocol.toml: "),
        (lambda path: None, "protocol.toml: no such file"),
        (lambda path: path.mkdir(), "protocol.toml: cannot be read (IsADirectoryError)"),
        (lambda path: path.symlink_to(path.name), "protocol.toml: cannot be read (OSError)"),
    ],
    ids=["binary", "empty", "nested without end", "missing", "a directory", "a link to itself"],
)
def test_a_protocol_that_is_no_text(hospital: Hospital, verb: str, make: Callable[[Path], object], error: str) -> None:
    hospital.protocol.unlink()
    make(hospital.protocol)
    if verb == "ingest":
        said = hospital.ingest_fails()
    else:
        said = hospital.terminal.fail(SITE, verb, hospital.protocol, "--declared-size", 20, "--home", hospital.home)
    assert said.error.startswith(error)


@pytest.mark.parametrize(
    ("epsilon", "ceiling", "error"),
    [
        (6.0, 4.0, "protocol: privacy.epsilon: 6.0 does not fit below this site's ceiling 8"),
        (9.0, 8.0, "protocol: epsilon 9.0 is not accepted here: policy.max_epsilon_per_run allows 8"),
    ],
)
def test_more_epsilon_than_the_ceiling_or_the_policy_allows_is_never_approved(
    ready: Hospital, epsilon: float, ceiling: float, error: str
) -> None:
    ready.asks("epsilon = 4.0", "epsilon = 7.99" if epsilon == 6.0 else f"epsilon = {epsilon}")
    said = ready.terminal.fail(*ready.approve())
    assert said.error.startswith(error.replace("6.0", "7.99"))
    assert json.loads(ready.terminal.do(SITE, "status", "--home", ready.home, "--json").out)["approved"] == []


def test_a_declared_size_that_delta_cannot_hold(ready: Hospital) -> None:
    assert ready.terminal.fail(*ready.approve(size=5000)).error == "privacy.delta: the ledger's 0.001 is above 1 / (10 × 5000)"


def test_a_cohort_of_another_size_or_without_the_label(ready: Hospital) -> None:
    ready.asks("height = 12", "height = 16")
    assert ready.terminal.fail(*ready.approve()).error == "cohort: holds xr 12×12, the protocol wants xr 16×12"
    ready.asks('["lesion"]', '["oedema"]')
    assert ready.terminal.fail(*ready.approve()).error == "cohort: has no label 'oedema'"


def test_nothing_ingested_yet(hospital: Hospital) -> None:
    said = hospital.terminal.fail(*hospital.approve())
    assert (said.error, said.hint) == ("cohort: nothing was ingested yet", "run `fedrad-site ingest` first")
