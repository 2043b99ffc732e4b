"""A picture with text is held back until a person has looked at it; what they say holds for it, and for its device where they say so."""

import dataclasses
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundImageStorage

from fedrad_client.cohort.store import open_cohort
from fedrad_client.intake.burnin import gate, queue
from fedrad_client.intake.burnin.boxes import Box, merged
from fedrad_client.intake.burnin.rules import BurnRules, DeviceRule, FileVerdict, read_rules, write_rules
from fedrad_client.intake.codes import Code
from fedrad_client.intake.deid.exported import ExportRecipe, export
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.process import Recipe, process
from fedrad_client.intake.verb import withdraw_patients
from fedrad_client.site import AUDIT, Home
from fedrad_common.canonical import sha256_hex
from fedrad_common.chain import read
from fedrad_common.errors import FormatError
from fedrad_common.profiles import profile
from fedrad_sim.burned import Bitmap, burned_in

SIDE, OUT = 256, 128
TEXT = Bitmap("CANARY^NAME 1961", 18)
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
task = { kind = "classification", labels = ["lesion"] }
input = { profile = "xr", height = 128, width = 128 }
model = { name = "resnet", options = { channels = 8, stages = 1 } }
privacy = { unit = "patient", epsilon = 4.0, expected_batch = 4.0, steps_per_round = 1, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 1, deadline_seconds = 60.0 }
"""


def soft(seed: int) -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return (1500 + 800 * np.sin((x + 40 * seed) / 60) * np.cos(y / 45) + np.random.default_rng(seed).normal(0, 8, (SIDE, SIDE))).astype(
        np.uint16
    )


@pytest.fixture
def code_of(keys):
    def code(path: Path, rules: BurnRules = BurnRules()) -> Code | None:  # noqa: B008 - frozen
        return process(path, Recipe(Geometry(profile("xr"), 32, 32), keys, 0.2, burn=rules)).code

    return code


# ── the gate ──


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({}, None),
        ({"BurnedInAnnotation": "NO"}, None),
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "burned-in"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "needs-mask"),
        ({"SOPClassUID": UltrasoundImageStorage}, "needs-mask"),
    ],
)
def test_what_the_header_says_of_a_clean_picture(tmp_path, write_dicom, code_of, elements, code):
    assert code_of(write_dicom(tmp_path / "a.dcm", pixels=soft(1), **elements)) == code


@pytest.mark.parametrize("elements", [{}, {"BurnedInAnnotation": "NO"}, {"ImageType": ["ORIGINAL", "PRIMARY"]}])
def test_a_header_that_denies_the_text_is_not_believed(tmp_path, write_dicom, code_of, monkeypatch, elements):
    path = write_dicom(tmp_path / "a.dcm", pixels=burned_in(soft(1), TEXT), **elements)
    assert code_of(path) == "burned-in"

    monkeypatch.setattr(gate, "find_text", lambda frame: ())  # the positive control: without the detector the name is delivered
    assert code_of(path) is None


def test_text_in_any_frame_counts(keys, dataset):
    frames = np.stack([soft(1), soft(2), burned_in(soft(3), TEXT)])
    verdict = gate.judge(dataset(), frames, BurnRules(), content="0" * 64, device="")

    assert (verdict.code, verdict.frame) == ("burned-in", 2)


def test_a_devices_mask_admits_what_it_covers_and_nothing_else(dataset):
    ds, burned = dataset(SOPClassUID=SecondaryCaptureImageStorage), burned_in(soft(1), TEXT)
    (found, *_) = gate.judge(ds, burned[None], BurnRules(), content="0" * 64, device="d").boxes
    known = BurnRules(devices={"d": DeviceRule(mask=(found,))})
    elsewhere = burned_in(burned, dataclasses.replace(TEXT, place=(0.9, 0.1)))

    assert gate.judge(ds, burned[None], known, content="0" * 64, device="d") == gate.Verdict(masks=(found,))
    assert gate.judge(ds, elsewhere[None], known, content="0" * 64, device="d").code == "burned-in"
    assert gate.judge(ds, burned[None], known, content="0" * 64, device="another").code == "needs-mask"


# ── the review ──


class Ward:
    """A site with a folder of eight pictures of eight people, two of them with text."""

    def __init__(self, folder: Path, home: Home, write_dicom, terminal: Terminal) -> None:
        self.home, self.terminal, self.dicom = home, terminal, folder / "dicom"
        rows = ["PatientID,lesion"]
        for number in range(8):
            pixels = burned_in(soft(number), TEXT) if number < 2 else soft(number)
            write_dicom(self.dicom / f"{number}.dcm", patient=f"Canary-{number}", image=f"1.2.{number}", pixels=pixels)
            rows.append(f"Canary-{number},{number % 2}")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n")
        (folder / "protocol.toml").write_text(PROTOCOL)
        self.arguments = (self.dicom, "--labels", folder / "labels.csv", "--protocol", folder / "protocol.toml", "--home", home.path)

    def ingest(self) -> dict:
        return json.loads(self.terminal.do("fedrad-site", "ingest", *self.arguments, "--json").out)

    def review(self, *arguments: object) -> str:
        return self.terminal.do("fedrad-site", "review", *arguments, "--home", self.home.path).out

    @property
    def waiting(self) -> list[queue.Waiting]:
        return queue.entries(self.home.path)


@pytest.fixture
def ward(tmp_path, make_site, write_dicom, capsys) -> Ward:
    import shutil

    home = make_site()
    shutil.rmtree(home.cohort)
    return Ward(tmp_path, home, write_dicom, Terminal(tmp_path, capsys))


def test_nothing_of_a_picture_with_text_is_taken_in_or_said(ward: Ward):
    done = ward.ingest()
    files = [path for path in (ward.home.path / "review").rglob("*") if path.is_file()]

    assert (done["images"], done["quarantined"]) == (6, {"burned-in": 2})
    assert len(ward.waiting) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (ward.home.path / "review").rglob("*") if path.is_dir()} == {0o700}
    kept = b"".join(path.read_bytes() for path in ward.home.cohort.rglob("*") if path.is_file())
    for one in ward.waiting:
        png = queue.picture_path(ward.home.path, one).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert png[50:500] not in kept
        assert "Canary" not in one.model_dump_json()


def test_a_person_is_shown_what_waits_and_where(ward: Ward, tmp_path):
    ward.ingest()
    listed = ward.review()
    ward.review("--page", tmp_path / "review.html")
    page = (tmp_path / "review.html").read_text()

    assert "2 pictures wait for a review" in listed
    for one in ward.waiting:
        assert one.id in listed
        assert f"fedrad-site review {one.id} --mask" in page
        assert Path(ward.review("--show", one.id).strip()).is_file()
    assert page.count("data:image/png;base64,") == 2
    assert "Canary" not in listed + page
    assert stat.S_IMODE((tmp_path / "review.html").stat().st_mode) == 0o600


@pytest.mark.parametrize(("verdict", "images"), [("--release", 7), ("--mask", 7), ("--reject", 6)])
def test_a_verdict_counts_with_the_next_ingest_and_its_picture_is_gone(ward: Ward, verdict: str, images: int):
    ward.ingest()
    one = ward.waiting[0]
    said = ward.review(one.id, verdict)
    done = ward.ingest()

    assert "1 still wait" in said
    assert done["images"] == images
    assert [left.id for left in ward.waiting] == [left.id for left in ward.waiting if left.id != one.id]
    assert not queue.picture_path(ward.home.path, one).exists()
    last = [entry for entry in read(ward.home.path / AUDIT, "audit") if entry.type == "review"][-1].body
    assert (last["verdict"], last["pictures"], last["devices"]) == (verdict.removeprefix("--"), 1, 0)


def test_what_is_masked_is_black_in_the_cohort(ward: Ward):
    ward.ingest()
    names, before = [one.id for one in ward.waiting], merged(box for one in ward.waiting for box in one.boxes)
    ward.review(*names, "--mask", "--box", ",".join(map(str, before[0])))
    ward.ingest()
    cohort = open_cohort(ward.home.cohort)
    pixels = np.concatenate([np.asarray(part) for part in cohort.pixels])
    top, left, bottom, right = (side * OUT // SIDE for side in before[0])

    assert len(pixels) == 8
    assert sum(not image[top + 1 : bottom - 1, left + 1 : right - 1].any() for image in pixels) == 2


def test_a_rule_holds_for_the_device_and_another_picture_of_it_needs_no_person(ward: Ward, write_dicom):
    ward.ingest()
    said = ward.review(ward.waiting[0].id, "--mask", "--like", "--rule")
    write_dicom(ward.dicom / "2.dcm", patient="Canary-2", image="1.2.2", pixels=burned_in(soft(2), TEXT))
    assert "a rule for 1 device from now on" in said
    assert ward.ingest()["images"] == 8
    assert ward.waiting == []

    other = dataclasses.replace(TEXT, place=(0.8, 0.1))
    write_dicom(ward.dicom / "3.dcm", patient="Canary-3", image="1.2.3", pixels=burned_in(soft(3), other))
    assert ward.ingest()["quarantined"] == {"burned-in": 1}


def test_what_an_export_holds_back_waits_for_the_same_person(ward: Ward, tmp_path):
    places = ("--out", tmp_path / "out", "--map", tmp_path / "map.jsonl", "--home", ward.home.path, "--json")
    first = json.loads(ward.terminal.do("fedrad-site", "deid", ward.dicom, *places).out)
    waiting = ward.waiting
    assert (first["written"], first["set_aside"]["burned-in"]["files"], len(waiting)) == (6, 2, 2)
    ward.review(waiting[0].id, "--mask")
    ward.review(waiting[1].id, "--release")
    then = json.loads(ward.terminal.do("fedrad-site", "deid", ward.dicom, *places).out)

    assert (then["written"], then["unchanged"], then["set_aside"]) == (2, 6, {})
    assert ward.waiting == []
    assert ward.ingest()["images"] == 8
    assert {one.patient for one in waiting} <= {record.patient for record in open_cohort(ward.home.cohort).records}


def test_of_a_patient_who_withdraws_nothing_waits(ward: Ward):
    ward.ingest()
    withdraw_patients(ward.home.path, b"Canary-0\n")

    assert len(ward.waiting) == 1
    assert len(list((ward.home.path / "review" / "waiting").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("ffffffff", "--mask"), "review: id 1 is no picture that waits"),
        (("ff", "--mask"), "review: id 1 is no picture that waits"),
        (("--mask",), "review: ids and one of --release, --mask, --reject belong together"),
        (("ID",), "review: ids and one of --release, --mask, --reject belong together"),
        (("ID", "--mask", "--release"), "review: ids and one of --release, --mask, --reject belong together"),
        (("ID", "--release", "--box", "0,0,5,5"), "--box: only masks have boxes"),
        (("ID", "--mask", "--box", "0,0,5"), "--box: is not TOP,LEFT,BOTTOM,RIGHT"),
        (("ID", "--mask", "--box", "0,0,5,999"), "--box: lies outside a picture"),
        (("ID", "--reject", "--rule"), "--rule: nothing is rejected by rule"),
        (("--rule",), "review: --box, --like and --rule belong to a verdict"),
    ],
)
def test_a_misuse_decides_nothing(ward: Ward, arguments: tuple[str, ...], error: str):
    ward.ingest()
    typed = [ward.waiting[0].id if argument == "ID" else argument for argument in arguments]

    assert ward.terminal.fail("fedrad-site", "review", *typed, "--home", ward.home.path).error == error
    assert len(ward.waiting) == 2
    assert read_rules(ward.home.path) == BurnRules()


def test_nothing_to_review_is_said(ward: Ward):
    assert "no picture waits" in ward.review()


# ── an export ──


def test_an_export_holds_text_back_and_blanks_what_a_person_masked(tmp_path, write_dicom, keys):
    path = write_dicom(tmp_path / "a.dcm", pixels=burned_in(soft(1), TEXT), StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.7")
    recipe = ExportRecipe(keys, keys)
    assert export(path, recipe).code == "burned-in"

    box = Box(0, 0, 60, SIDE)
    rules = BurnRules(files={sha256_hex(path.read_bytes()): FileVerdict(verdict="mask", boxes=(box,))})
    (tmp_path / "out.dcm").write_bytes(export(path, dataclasses.replace(recipe, burn=rules)).content)
    out = dcmread(tmp_path / "out.dcm")

    assert (out.pixel_array[:60] == out.pixel_array.min()).all()
    np.testing.assert_array_equal(out.pixel_array[60:], burned_in(soft(1), TEXT)[60:])
    assert "113101" in [item.CodeValue for item in out.DeidentificationMethodCodeSequence]


def test_rules_survive_and_a_damaged_file_is_not_taken_for_none(tmp_path):
    rules = BurnRules(devices={"d": DeviceRule(harmless=(Box(1, 2, 3, 4),))})
    write_rules(tmp_path, rules)
    assert read_rules(tmp_path) == rules
    assert rules.id != BurnRules().id

    (tmp_path / "review" / "rules.json").write_text("{")
    with pytest.raises(FormatError, match=r"rules\.json"):
        read_rules(tmp_path)
