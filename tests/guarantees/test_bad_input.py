"""Bad input at a hospital gets where, what, value and hint; exit code 2; and a disk on which nothing was lost or half-written."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Said, Terminal, changes, is_progress, on_disk

from fedrad_client.cohort.draft import new_generation
from fedrad_client.cohort.store import current
from fedrad_client.site import open_site
from fedrad_common.chain import Chain
from fedrad_common.errors import ConfigError
from fedrad_common.protocol import parse_protocol
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
        self.dicom, self.labels, self.protocol = folder / "dicom", folder / "labels.csv", folder / "protocol.toml"
        shutil.copytree(phantom / "dicom", self.dicom)
        shutil.copy(phantom / "labels.csv", self.labels)
        self.protocol.write_text(PROTOCOL)
        self.make_site("site", epsilon=8)

    def make_site(self, name: str, *, epsilon: float) -> None:
        self.home = self.folder / name
        self.terminal.do(SITE, "init", "--local", "--name", "north", "--home", self.home, "--epsilon", epsilon, "--delta", "1e-3")

    @property
    def input(self) -> tuple[object, ...]:
        return ("--labels", self.labels, "--protocol", self.protocol, "--home", self.home)

    def ingest(self) -> dict:
        return json.loads(self.terminal.do(SITE, "ingest", self.dicom, *self.input, "--json").out)

    def ingest_fails(self, source: Path | None = None, *, code: int = 2) -> Said:
        return self.terminal.fail(SITE, "ingest", source or self.dicom, *self.input, code=code)

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
    assert (
        hospital.ingest_fails(hospital.folder / "other").error == "source: none of 5 files can be used: 4 not-dicom, 1 compressed-archive"
    )


def spoil_text(path: Path) -> None:
    path.write_text("no picture")


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def spoil_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


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
    "truncated header": (spoil_header, "no-pixels"),  # cut before it says whose it is, and before any picture
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
    header, _first, *others = hospital.rows()
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
        ("fedrad-protocol-1", "fedrad-protocol-2", "protocol.toml: format: input should be 'fedrad-protocol-1'", ""),
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


def test_more_epsilon_than_the_policy_accepts_in_one_run_is_never_approved(ready: Hospital) -> None:
    said = ready.asks("epsilon = 4.0", "epsilon = 9.0").terminal.fail(*ready.approve())
    assert said.error == "protocol: epsilon 9.0 is not accepted here: policy.max_epsilon_per_run allows 8"
    assert approvals(ready) == []


def test_more_epsilon_than_the_ceiling_holds_is_never_approved(hospital: Hospital) -> None:
    hospital.make_site("second", epsilon=2)
    hospital.ingest()
    said = hospital.terminal.fail(*hospital.approve())
    assert said.error.startswith(
        "protocol: does not fit below this site's ceiling, which is for its lifetime: epsilon 2 of training patients: "
    )
    assert approvals(hospital) == []


def approvals(hospital: Hospital) -> list[str]:
    return json.loads(hospital.terminal.do(SITE, "status", "--home", hospital.home, "--json").out)["approved"]


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


# ── the site's own files ──


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("site.toml", b"[privacy\n", "site.toml: "),
        ("site.toml", b"\xff\xfe", "site.toml: is not UTF-8 text"),
        ("site.toml", b'format = "fedrad-site-1"\nsite.name = "north"\nprivacy.epsilom = 1.0\n', "site.toml: privacy.epsilom: unknown key"),
        ("site.toml", b'format = "fedrad-site-2"\n[site]\nname = "north"\n', "site.toml: format: input should be 'fedrad-site-1'"),
        ("site.toml", None, "site.toml: no site here"),
        ("keys/coordinator.pub", b"\xff\xfe\x00", "public key: not 64 hexadecimal digits"),
        ("keys/envelope.key", b"\xff\xfe\x00", "envelope.key: is not a PEM private key"),
        ("keys/envelope.key", None, "envelope.key: no such key"),
        ("ledger.chain", None, "ledger.chain: no such log"),
        ("ledger.chain", b"", "ledger.chain: holds 0 whole entries, 1 were acknowledged"),
        ("ledger.chain.mark", None, "ledger.chain.mark: is missing"),
        ("ledger.chain.mark", b"\xff", "ledger.chain.mark: is damaged"),
        ("audit.chain", b"garbage", "audit.chain: holds 0 whole entries"),
        ("cohort/current", b"\xff\xfe", "cohort: its pointer to the current generation is damaged"),
        ("cohort/00001/cohort.json", b"{", "cohort.json: is not valid JSON"),
        ("cohort/00001/cohort.json", b"[]", "cohort.json: format None is not 'fedrad-cohort-1'"),
        ("cohort/00001/cohort.json", b'{"format":"fedrad-cohort-1"}', "cohort.json: "),
        ("cohort/00001/pixels/00000.npy", b"short", "cohort: generation 1: pixels/00000.npy is missing or was changed"),
        ("cohort/00001/records.jsonl", None, "cohort: generation 1: records.jsonl is missing or was changed"),
    ],
)  # fmt: skip
def test_a_damaged_site_is_refused_with_the_file_named(ready: Hospital, name: str, content: bytes | None, error: str) -> None:
    if content is None:
        (ready.home / name).unlink()
    else:
        (ready.home / name).write_bytes(content)
    misuse = error.startswith(("site.toml", "envelope.key: no such"))
    said = ready.terminal.fail(*ready.approve(), code=2 if misuse else 1, hint=False)
    assert said.error.startswith(error)
    assert said.hint or misuse


@pytest.mark.parametrize("verb", ["approve", "preview", "status", "ingest"])
def test_a_cohort_of_a_newer_format_is_refused_and_kept(ready: Hospital, verb: str) -> None:
    manifest = ready.home / "cohort/00001/cohort.json"
    manifest.write_text(manifest.read_text().replace("fedrad-cohort-1", "fedrad-cohort-2"))
    commands = {
        "approve": ready.approve(),
        "preview": (SITE, "preview", *ready.approve()[2:]),
        "status": (SITE, "status", "--home", ready.home),
    }

    said = ready.ingest_fails(code=1) if verb == "ingest" else ready.terminal.fail(*commands[verb], code=1)

    assert said.error == "cohort.json: format 'fedrad-cohort-2' is not 'fedrad-cohort-1'"
    assert "written by another version" in said.hint


@pytest.mark.parametrize("verb", ["ledger", "approve", "preview"])
def test_a_ledger_of_another_version_is_refused(ready: Hospital, verb: str) -> None:
    for name in ("ledger.chain", "ledger.chain.mark"):
        (ready.home / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrad_common.chain.FORMAT", "fedrad-chain-2")
        patch.setattr("fedrad_common.chain_format.FORMAT", "fedrad-chain-2")
        Chain.create(ready.home / "ledger.chain", "ledger", {"site": "north"}).close()
    arguments = (SITE, "ledger", "--home", ready.home) if verb == "ledger" else (SITE, verb, *ready.approve()[2:])

    said = ready.terminal.fail(*arguments, code=1)

    assert said.error == "ledger.chain.mark: format 'fedrad-chain-2' is not 'fedrad-chain-1'"


def test_two_processes_never_hold_one_site(ready: Hospital) -> None:
    with open_site(ready.home):
        said = ready.terminal.fail(*ready.approve(), code=1)
    assert said.error == "ledger.chain is in use by another process"


def test_two_ingests_never_run_at_once(ready: Hospital) -> None:
    with new_generation(ready.home / "cohort", height=12, width=12) as other:
        said = ready.terminal.type(SITE, "ingest", ready.dicom, *ready.input)
        assert other.folder.is_dir(), "the running one's draft is not swept away"
    assert (said.code, said.error) == (1, "the cohort is in use by another process")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "missing option '--name'"),
        (("--name", "north"), "missing option '--invitation'"),
        (("--name", "north", "--invitation", "nowhere.json"), "--invitation: nowhere.json: no such file"),
        (("--local", "--name", "no/slash"), "site.toml: site.name: "),
        (("--local", "--name", 'quo"te'), "site.toml: "),
        (("--local", "--name", "x", "--epsilon", "nan"), ""),
        (("--local", "--name", "x", "--epsilon", "inf"), ""),
        (("--local", "--name", "x", "--epsilon", "-1"), "invalid value for '--epsilon'"),
        (("--local", "--name", "x", "--delta", "0"), "site.toml: privacy.delta: "),
        (("--local", "--name", "x", "--delta", "1e-400"), "site.toml: privacy.delta: "),
        (("--local", "--name", "x", "--validation-fraction", "0.9"), "site.toml: privacy.validation_fraction: "),
        (("--local", "--name", "x", "--coordinator", "nowhere.pub"), "--coordinator: nowhere.pub: no such file"),
    ],
)
def test_a_site_is_made_whole_or_not_at_all(terminal: Terminal, options: tuple[str, ...], error: str) -> None:
    said = terminal.fail(SITE, "init", "--home", terminal.folder / "new", *options, hint=False)
    assert said.error.startswith(error)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00 not text", b"00", b""])
def test_a_coordinators_key_that_is_none(terminal: Terminal, content: bytes) -> None:
    (terminal.folder / "coordinator.pub").write_bytes(content)
    options = ("--local", "--name", "x", "--home", terminal.folder / "new", "--coordinator", terminal.folder / "coordinator.pub")
    assert terminal.fail(SITE, "init", *options).error.startswith("--coordinator: coordinator.pub: public key: ")


def test_a_home_that_is_taken(hospital: Hospital) -> None:
    for taken in (hospital.home, hospital.labels, hospital.labels / "below"):
        hospital.terminal.fail(SITE, "init", "--local", "--name", "x", "--home", taken)


@pytest.mark.parametrize("verb", ["status", "ledger", "pause", "resume", "start", "audit verify"])
def test_no_site_here(terminal: Terminal, verb: str) -> None:
    (terminal.folder / "a file").touch()
    more = ["--show-keys"] if verb == "start" else []
    for home in (terminal.folder / "nowhere", terminal.folder, terminal.folder / "a file"):
        assert terminal.fail(SITE, *verb.split(), "--home", home, *more).error == "site.toml: no site here"


# ── interrupted ──


@pytest.mark.parametrize("point", ["while reading", "while writing", "before the pointer"])
def test_an_interrupted_ingest_leaves_the_old_generation(ready: Hospital, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    spoil_text(ready.files()[0])
    before = on_disk(ready.home)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    name = {"while reading": "ingest.Draft.add", "while writing": "ingest.Draft._write", "before the pointer": "ingest.publish"}[point]
    monkeypatch.setattr(f"fedrad_client.intake.{name}", interrupt)
    if point == "before the pointer":
        monkeypatch.undo()
        monkeypatch.setattr("fedrad_client.cohort.draft.write_atomic", interrupt)
    said = ready.terminal.type(SITE, "ingest", ready.dicom, *ready.input)

    assert (said.code, said.err) == (130, "fedrad-site: interrupted\n")
    assert changes(before, on_disk(ready.home)) == []


def test_a_killed_ingest_leaves_the_old_generation_and_the_next_one_sweeps(ready: Hospital) -> None:
    first = ready.home / "cohort/current"
    program = (
        "import os, signal, sys\nfrom fedrad_client.intake import ingest\nfrom fedrad_client.cli import main\n"
        "ingest.Draft.settle = lambda draft: os.kill(os.getpid(), signal.SIGKILL)\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "ingest", str(ready.dicom), *map(str, ready.input)], capture_output=True, check=False
    )

    assert done.returncode == -signal.SIGKILL
    assert first.read_text() == "00001\n"
    spoil_text(ready.files()[0])
    assert ready.ingest()["generation"] == 2
    assert sorted(path.name for path in (ready.home / "cohort").iterdir() if not is_progress(path)) == [
        ".lock",
        "00001",
        "00002",
        "current",
    ]


@pytest.mark.parametrize("title", ["\\u001b[2J", "a\\nb", "\\u202e", "x" * 201], ids=["escape", "line", "direction", "length"])
def test_a_title_that_could_move_the_terminal_of_whoever_approves_is_refused(protocol_bytes: bytes, title: str) -> None:
    with pytest.raises(ConfigError, match="title"):
        parse_protocol(protocol_bytes.replace(b'name = "tiny"', f'name = "tiny"\ntitle = "{title}"'.encode()))
