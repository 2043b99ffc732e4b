"""`fedrad-site cohort check` finds what was planted, says nothing against what is sound, and changes nothing."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from fakes.cohorts import Patient, chest, chests, write_cohort
from PIL import Image
from scipy.ndimage import rotate

from fedrad_client.cli.cohort import register
from fedrad_client.cohort.images import Images, open_part
from fedrad_client.cohort.store import RECORDS, open_cohort
from fedrad_client.cohort.withdrawal import withdraw
from fedrad_client.intake.quality import copies, orientation
from fedrad_client.intake.quality.check import CHECKS, examine
from fedrad_client.intake.quality.findings import Finding
from fedrad_client.intake.quality.remembered import REMEMBERED, reminder
from fedrad_client.intake.quality.separation import interval, separation
from fedrad_client.intake.quality.shortcuts import boosted, linear
from fedrad_client.intake.quality.sketches import areas, sketch
from fedrad_client.intake.quality.subject import Subject
from fedrad_common.cli import run_cli

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.callback()(lambda: None)
register(app)
SOUND = chests(160)


def found(folder: Path, patients: list[Patient], **changed: object) -> dict[str, list[Finding]]:
    """What the checks say of a cohort of these people, by check."""
    write_cohort(folder / "cohort", patients, **changed)
    findings: dict[str, list[Finding]] = {check.name: [] for check in CHECKS}
    for finding in examine(Subject.of(open_cohort(folder / "cohort"))):
        findings[finding.check].append(finding)
    return findings


def verdicts(findings: list[Finding]) -> set[str]:
    return {finding.verdict for finding in findings}


def among(others: list[Patient], *planted: Patient) -> list[Patient]:
    return [*others[: -len(planted)], *planted]


def test_a_sound_cohort_passes_every_check(tmp_path: Path) -> None:
    patients = [replace(patient, fields={"Rows": 100 + place // 2 % 8}) for place, patient in enumerate(SOUND)]
    findings = found(tmp_path, patients)

    assert {check: verdicts(said) for check, said in findings.items()} == {check.name: {"pass"} for check in CHECKS}


# ── labels ──


def test_files_without_a_label_and_images_without_a_value_are_counted(tmp_path: Path) -> None:
    patients = among(SOUND, *(replace(patient, labels=(None,)) for patient in SOUND[-3:]))
    unlabelled, missing = found(tmp_path, patients, counts={"unlabelled": 7})["labels"]

    assert (unlabelled.verdict, unlabelled.figures) == ("warn", {"files": 7})
    assert missing.sentence == "lesion: 3 of 160 images have no value"


def test_a_label_that_no_image_has_fails(tmp_path: Path) -> None:
    patients = [replace(patient, labels=(*patient.labels, None)) for patient in SOUND]
    (finding,) = found(tmp_path, patients, labels=("lesion", "mass"))["labels"]

    assert (finding.verdict, finding.sentence) == ("fail", "mass: no image has a value")


def test_rows_of_the_label_table_that_belong_to_nobody_are_counted(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SOUND, label_keys=170, unused_label_keys=10)["labels"]

    assert (finding.verdict, finding.sentence) == ("warn", "10 of 170 keys in the label table belong to no image")


def test_contradictory_rows_fail(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SOUND, counts={"contradictory": 2}, contradictory_label_keys=1)["contradictions"]

    assert finding.verdict == "fail"
    assert finding.sentence == "rows contradict each other: 1 key of the label table, 2 files set aside for it"


@pytest.mark.parametrize(("positive", "verdict"), [(9, "fail"), (10, "pass")])
def test_fewer_than_ten_patients_of_a_class_in_training_fail(tmp_path: Path, positive: int, verdict: str) -> None:
    training = [replace(patient, labels=(int(place < positive),), part="training") for place, patient in enumerate(SOUND[:100])]
    (finding,) = found(tmp_path, [*training, *(replace(patient, part="validation") for patient in SOUND[100:])])["class sizes"]

    assert (finding.verdict, finding.figures["training_positive"]) == (verdict, positive)


def test_patients_are_counted_and_not_their_images(tmp_path: Path) -> None:
    patients = [replace(patient, pictures=(chest(1000 + n), chest(2000 + n))) for n, patient in enumerate(SOUND[:36])]
    (finding,) = found(tmp_path, patients)["class sizes"]

    assert (finding.verdict, finding.figures["training_positive"]) == ("fail", 9)


# ── split ──


def rewrite(cohort: Path, line: int, **changed: str) -> None:
    path = cohort / "00001" / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    for key, value in changed.items():
        before = json.loads(lines[line])[key]
        lines[line] = lines[line].replace(f'"{key}":"{before}"'.encode(), f'"{key}":"{value}"'.encode())
    path.write_bytes(b"".join(lines))


def test_a_patient_in_both_parts_fails(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", [replace(SOUND[0], pictures=(chest(0), chest(1))), *SOUND[2:]])
    opened = open_cohort(tmp_path / "cohort")
    rewrite(tmp_path / "cohort", 1, part="validation")
    (finding,) = (finding for finding in examine(Subject.of(opened)) if finding.check == "split")

    assert (finding.verdict, finding.sentence) == ("fail", "1 patient in training and in validation")


def test_a_patient_who_changed_sides_since_an_older_generation_fails(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", SOUND[:20])
    moved = [replace(SOUND[0], part="validation"), *SOUND[1:20]]
    (finding,) = found(tmp_path, moved)["split"]

    assert (finding.verdict, finding.sentence) == ("fail", "1 patient in another part than in another generation")


def test_labels_of_other_images_than_the_records_fail(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", SOUND[:20])
    opened = open_cohort(tmp_path / "cohort")
    rewrite(tmp_path / "cohort", 3, image="2.25.999")
    (finding,) = (finding for finding in examine(Subject.of(opened)) if finding.check == "split")

    assert "row by row" in finding.sentence


def test_a_split_that_chance_does_not_make_is_a_warning(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SOUND, fraction=0.1)["split"]

    assert (finding.verdict, finding.sentence) == ("warn", "50% of the patients validate, 10% were to")


# ── copies ──


def jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(stream, "JPEG", quality=40)
    return np.asarray(Image.open(stream)).astype(np.uint16) * 257


COPIES = {
    "the same": lambda pixels: pixels,
    "another window": lambda pixels: (np.clip(pixels / 65535 * 1.2 - 0.1, 0, 1) * 65535).astype(np.uint16),
    "JPEG": jpeg,
    "turned by 2 degrees": lambda pixels: np.clip(rotate(pixels.astype(float), 2, reshape=False, order=1, mode="nearest"), 0, 65535).astype(
        np.uint16
    ),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_in_the_other_part_is_found_and_named(tmp_path: Path, copied: str) -> None:
    original = next(place for place, patient in enumerate(SOUND) if patient.part == "training")
    planted = Patient((COPIES[copied](SOUND[original].pictures[0]),), (0,), "validation")
    (finding,) = (said for said in found(tmp_path, among(SOUND, planted))["copies"] if "training and one in validation" in said.sentence)

    assert finding.verdict == "fail" if copied == "the same" else finding.verdict in ("fail", "warn")
    assert finding.look == ((original, 159),)


def test_a_copy_under_another_patient_of_the_same_part_with_the_opposite_label_is_two_warnings(tmp_path: Path) -> None:
    planted = Patient((SOUND[0].pictures[0],), (1 - SOUND[0].labels[0],), SOUND[0].part)
    two_ids, opposed = found(tmp_path, among(SOUND, planted))["copies"]

    assert (two_ids.verdict, opposed.verdict) == ("warn", "warn")
    assert "opposite labels" in opposed.sentence
    assert two_ids.look == opposed.look == ((0, 159),)


def test_images_of_one_patient_may_be_alike(tmp_path: Path) -> None:
    stack = replace(SOUND[0], pictures=(SOUND[0].pictures[0],) * 3)

    assert verdicts(found(tmp_path, [stack, *SOUND[1:]])["copies"]) == {"pass"}


def test_nearly_black_images_are_no_copies_of_each_other(tmp_path: Path) -> None:
    black = [Patient(((SOUND[place].pictures[0] // 100),), (0,), SOUND[place].part) for place in range(3)]

    assert verdicts(found(tmp_path, among(SOUND, *black))["copies"]) == {"pass"}


def test_many_copies_are_counted_up_to_a_bound(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fedrad_client.intake.quality.copies._MOST_PAIRS", 50)
    said = found(tmp_path, among(SOUND, *[SOUND[0]] * 30))["copies"]

    assert all("at least" in finding.sentence for finding in said)


# ── orientation ──


@pytest.mark.parametrize("turn", orientation.TURNS)
def test_an_image_that_lies_otherwise_is_found_and_said_how(tmp_path: Path, turn: str) -> None:
    planted = replace(SOUND[40], pictures=(np.ascontiguousarray(orientation.TURNS[turn](SOUND[40].pictures[0][None])[0]),))
    (finding,) = found(tmp_path, [*SOUND[:40], planted, *SOUND[41:]])["orientation"]

    assert (finding.verdict, finding.look) == ("warn", ((40,),))
    assert finding.figures["turn"] == turn


def test_what_cannot_be_told_is_not_guessed(tmp_path: Path) -> None:
    """A disc looks the same from all sides."""
    noise, disc = np.random.default_rng(0), np.hypot(*np.mgrid[-1:1:32j, -1:1:32j]) < 0.7
    discs = [replace(patient, pictures=((disc * 40000 + noise.integers(0, 9000, (32, 32))).astype(np.uint16),)) for patient in SOUND]
    (finding,) = found(tmp_path, discs)["orientation"]

    assert finding.verdict == "skipped"
    assert "mirrored" in finding.sentence


def test_few_images_say_nothing_about_how_they_lie(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, SOUND[:49])["orientation"]

    assert finding.verdict == "skipped"


# ── shortcuts ──


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        (lambda place, positive: {"Rows": 512 if positive else 1024}, "fail"),
        (lambda place, positive: {"ViewPosition": "AP" if positive else "PA"}, "fail"),
        (lambda place, positive: {"PixelSpacing": [0.1, 0.2] if positive else [0.1, 0.1]}, "fail"),
        (lambda place, positive: {"KVP": 80.0} if positive else {}, "fail"),
        (lambda place, positive: {"Rows": 512 if positive == (place % 5 > 0) else 1024}, "warn"),
        (lambda place, positive: {"PatientAge": "090Y" if positive else "020Y", "Rows": place % 7}, "pass"),
        (lambda place, positive: {"StudyDate": "20200101" if positive else "19990101", "StudyInstanceUID": f"2.25.{positive}"}, "skipped"),
    ],
)
def test_fields_of_the_device_that_tell_the_label_are_found(tmp_path: Path, fields, verdict: str) -> None:
    patients = [replace(patient, fields=fields(place, patient.labels[0])) for place, patient in enumerate(SOUND)]
    (finding,) = found(tmp_path, patients)["metadata"]

    assert finding.verdict == verdict
    if verdict in ("fail", "warn"):
        assert any(name in finding.sentence for name in fields(0, 1) or fields(0, 0))


def test_a_letter_at_the_rim_that_tells_the_label_is_found_and_shown(tmp_path: Path) -> None:
    def marked(patient: Patient) -> Patient:
        pixels = patient.pictures[0].copy()
        if patient.labels[0]:
            pixels[2:6, 2], pixels[5, 2:5] = 65535, 65535
        return replace(patient, pictures=(pixels,))

    (finding,) = found(tmp_path, [marked(patient) for patient in SOUND])["markers"]

    assert finding.verdict == "fail"
    assert finding.figures["low"] > 0.8
    assert {SOUND[row].labels[0] for (row,) in finding.look} == {1}


def test_a_brighter_rim_that_tells_the_label_is_a_warning(tmp_path: Path) -> None:
    def framed(patient: Patient) -> Patient:
        pixels = patient.pictures[0] // 2
        pixels[:2] += 3000 * patient.labels[0]
        return replace(patient, pictures=(pixels,))

    (finding,) = found(tmp_path, [framed(patient) for patient in SOUND])["borders"]

    assert finding.verdict == "warn"


def test_patients_are_the_units_and_nobody_judges_himself() -> None:
    """Forty images of each patient, which a model knows by heart: over patients there is nothing to know."""
    rng = np.random.default_rng(0)
    owner, own = np.repeat(np.arange(60), 40), rng.normal(size=(60, 30))
    labels = rng.permutation(np.arange(60) % 2)[owner].astype(np.float32)
    for fit in (linear, boosted):
        known = separation(own[owner] + rng.normal(0, 0.01, (2400, 30)), labels, owner, fit)

        assert known.auc < 0.8  # by heart it would be 1
        assert known.high - known.low > 0.2


def test_the_interval_has_a_width_also_at_its_end() -> None:
    low, high = interval(1.0, n_positive=20, n_negative=20)

    assert high == 1.0
    assert 0.8 < low < 0.95


def test_squares_of_a_sketch_cover_each_pixel_once() -> None:
    for length in (8, 28, 31, 32, 128, 200):
        weights = areas(length, 32)
        assert np.allclose(weights.sum(axis=1), 1)
        assert np.allclose(weights.sum(axis=0), 32 / length)


def test_a_volume_is_seen_by_its_middle_slice(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 65536, (3, 5, 40, 24)).astype("<u2")
    for name, array in (("volumes", volumes), ("slices", volumes[:, 2])):
        np.save(tmp_path / f"{name}.npy", array)
    found = [
        sketch(Images((open_part(tmp_path / f"{name}.npy", name, array.shape[1:]),), array.shape[1:], np.arange(3), None))
        for name, array in (("volumes", volumes), ("slices", volumes[:, 2]))
    ]

    assert all(np.array_equal(*arrays) for arrays in zip(*(vars(one).values() for one in found), strict=True))


@pytest.mark.parametrize("count", [1, 2, 60])
@pytest.mark.parametrize("labels", [(), ("lesion",)])
def test_a_tiny_or_unlabelled_cohort_is_checked_too(tmp_path: Path, count: int, labels: tuple[str, ...]) -> None:
    noise = np.random.default_rng(0)
    patients = [Patient((noise.integers(0, 65536, (8, 6)).astype(np.uint16),), tuple(n % 2 for _ in labels)) for n in range(count)]
    findings = found(tmp_path, patients, labels=labels, fraction=0.0)

    assert verdicts(findings["copies"]) == verdicts(findings["split"]) == {"pass"}
    assert verdicts(findings["labels"]) == {"pass" if labels else "warn"}


# ── the command ──


def run(home: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-site", ["cohort", "check", "--home", str(home), *arguments])
    return int(end.value.code)


@pytest.fixture
def bare(site_home: Path) -> Path:
    """A site that has ingested nothing."""
    shutil.rmtree(site_home / "cohort")
    return site_home


@pytest.fixture
def home(bare: Path) -> Path:
    """With one copy in the other part, and a patient of the same pictures who withdrew."""
    copied = Patient((SOUND[0].pictures[0],), (0,), "validation")
    write_cohort(bare / "cohort", [*SOUND, copied, Patient((SOUND[3].pictures[0],), (0,), "training")])
    withdraw(bare / "cohort", [f"{161:032x}"], key="k")
    return bare


def test_a_person_is_told_what_was_found_how_to_fix_it_and_where_to_look(home: Path, capsys) -> None:
    assert run(home) == 1
    shown = capsys.readouterr().out.splitlines()

    place = next(number for number, line in enumerate(shown) if line.startswith("FAIL  copies"))
    assert "1 pair of the same image, one in training and one in validation" in shown[place]
    assert shown[place + 1].strip().startswith("fix: ")
    assert shown[place + 2].strip() == "rows 0 and 160"
    assert shown[-1].endswith("1 failed")


def test_a_sound_cohort_ends_with_0_and_who_withdrew_is_not_looked_at(bare: Path) -> None:
    write_cohort(bare / "cohort", [*SOUND, Patient((SOUND[0].pictures[0],), (0,), "validation")])
    assert run(bare) == 1
    withdraw(bare / "cohort", [f"{160:032x}"], key="k")

    assert run(bare) == 0


def test_a_program_gets_one_line_of_json(home: Path, capsys) -> None:
    assert run(home, "--json") == 1
    value = json.loads(capsys.readouterr().out)

    assert (value["format"], value["generation"], value["images"], value["fail"]) == ("fedrad-check-1", 1, 161, 1)
    (failed,) = (finding for finding in value["findings"] if finding["verdict"] == "fail")
    assert (failed["check"], failed["rows"], failed["pairs"]) == ("copies", [[0, 160]], 1)


def test_nothing_was_ingested_is_misuse(bare: Path, capsys) -> None:
    assert run(bare) == 2
    assert "nothing was ingested yet" in capsys.readouterr().err


def test_the_page_shows_the_pictures_to_its_owner_only(home: Path, tmp_path: Path, capsys) -> None:
    run(home, "--page", str(tmp_path / "quality.html"))
    content = (tmp_path / "quality.html").read_text()

    assert (tmp_path / "quality.html").stat().st_mode & 0o077 == 0
    assert content.count("data:image/png;base64,") == 2
    assert "http" not in content.replace("http-equiv", "")
    assert run(home, "--page", str(tmp_path / "quality.html")) == 2
    assert "exists already" in capsys.readouterr().err


def test_it_flags_and_changes_nothing_that_training_reads(home: Path, capsys) -> None:
    def state() -> dict[str, str]:
        files = (path for path in home.rglob("*") if path.is_file() and path.name != REMEMBERED)
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = state()
    run(home)

    assert state() == before
    assert (home / "cohort" / REMEMBERED).stat().st_mode & 0o077 == 0


def test_who_approves_is_reminded_until_this_very_generation_was_checked_and_nothing_failed(bare: Path) -> None:
    cohort = bare / "cohort"
    write_cohort(cohort, [*SOUND, Patient((SOUND[0].pictures[0],), (0,), "validation")])
    assert reminder(cohort, 1) == "data quality: generation 1 was not checked: see `fedrad-site cohort check`"
    run(bare)
    assert "1 check failed" in reminder(cohort, 1)

    write_cohort(cohort, SOUND)
    assert "generation 2 was not checked" in reminder(cohort, 2)
    run(bare)
    assert reminder(cohort, 2) is None
    (cohort / REMEMBERED).write_text("{")
    assert "was not checked" in reminder(cohort, 2)


def test_a_cohort_that_everybody_left_is_said_so(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", SOUND[:2])
    withdraw(tmp_path / "cohort", [f"{number:032x}" for number in range(2)], key="k")
    (finding,) = examine(Subject.of(open_cohort(tmp_path / "cohort")))

    assert (finding.verdict, finding.sentence) == ("fail", "everybody in this generation has withdrawn")


# ── real images ──


def test_of_5232_real_chest_radiographs_only_true_copies_are_called_alike(shared_data: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_data / "pneumonia_cxr" / "pneumonia_cxr_28.npz")
    pixels = np.concatenate([arrays["train_images"], arrays["val_images"]]).astype(np.uint16) * 257
    write_cohort(tmp_path / "cohort", [Patient((image,), (0,)) for image in pixels])
    opened = open_cohort(tmp_path / "cohort")
    pairs, likeness = copies.alike(sketch(opened.images), np.arange(len(pixels)))

    assert len(pairs) == 28
    apart = np.abs(pixels[pairs[:, 0]].astype(float) - pixels[pairs[:, 1]]).mean(axis=(1, 2))
    assert apart.max() < 0.01 * 65535
    assert likeness.min() > 0.98


def test_of_real_chest_radiographs_turned_ones_are_found_and_few_others(shared_data: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_data / "pneumonia_cxr" / "pneumonia_cxr_28.npz")
    pixels = arrays["train_images"].astype(np.uint16) * 257
    pixels[:20] = np.rot90(pixels[:20], axes=(1, 2))
    pixels[20:40] = pixels[20:40, ::-1]
    write_cohort(tmp_path / "cohort", [Patient((image,), (0,)) for image in pixels])
    named, unknown = orientation.turned(sketch(open_cohort(tmp_path / "cohort").images), np.arange(len(pixels)))

    assert unknown == []
    assert (named[:20] == "on its side").sum() >= 18
    assert (named[20:40] == "upside down").sum() >= 18
    assert (named[40:] != "").mean() < 0.01


def test_of_3929_real_brain_slices_few_pairs_are_called_alike_and_none_the_same(shared_data: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_data / "lgg_mri" / "lgg64_flair_mask.npz")
    _, owner = np.unique(arrays["patient"], return_inverse=True)
    write_cohort(tmp_path / "cohort", [Patient((image,), (0,)) for image in arrays["flair"].astype(np.uint16) * 257])
    pairs, likeness = copies.alike(sketch(open_cohort(tmp_path / "cohort").images), owner)

    assert len(pairs) <= 30
    assert likeness.max() < copies.SAME
