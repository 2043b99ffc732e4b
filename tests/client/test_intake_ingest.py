"""A folder becomes a generation: whole or absent, and nobody's record depends on who else is there."""

import errno
import json
import shutil

import numpy as np
import pytest
from fakes.terminal import on_disk

from fedrad_client.cohort import draft
from fedrad_client.cohort.store import current, open_cohort
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.pixels.image import Geometry
from fedrad_common.errors import BusyError, FedradError, MisuseError
from fedrad_common.files import exclusive_lock
from fedrad_common.profiles import profile


def picture(seed):
    return np.random.default_rng(seed).integers(0, 4096, (40, 40)).astype(np.uint16)


def content(folder):
    """Every file's bytes by name, of the current generation."""
    generation = folder / f"{current(folder):05d}"
    return {str(path.relative_to(generation)): path.read_bytes() for path in generation.rglob("*") if path.is_file()}


def rows(folder):
    """All that is kept of each image, by pseudonym."""
    cohort = open_cohort(folder)
    pixels = np.concatenate(cohort.pixels)
    return {
        (record.patient, record.image): (record.line(), tuple(label), image.tobytes())
        for record, label, image in zip(cohort.records, cohort.labels.astype(str), pixels, strict=True)
    }


def test_an_ingest_counts_what_it_did(tmp_path, patients, write_dicom, run_ingest):
    patients(3)
    write_dicom(tmp_path / "dicom" / "z.dcm", Modality="US")
    (tmp_path / "dicom" / "notes.txt").write_text("hello")
    steps = []
    done = run_ingest(progress=lambda *step: steps.append(step))

    assert (done.generation, done.n_files, done.n_images, done.n_patients) == (1, 8, 6, 3)
    assert done.counts == {"modality": 1, "not-dicom": 1}
    assert steps == [(number, 8) for number in range(1, 9)]


def test_a_quarantine_entry_is_a_number_a_code_and_a_series_number(tmp_path, patients, write_dicom, run_ingest):
    patients(2)
    write_dicom(tmp_path / "dicom" / "2" / "a.dcm", SeriesInstanceUID="1.2.0.0.7", Modality="US")
    (tmp_path / "dicom" / "3").write_text("hello")
    run_ingest()
    lines = content(tmp_path / "cohort")["quarantine.jsonl"].splitlines()

    assert [json.loads(line) for line in lines] == [
        {"entry": 5, "code": "modality", "series": 1},
        {"entry": 6, "code": "not-dicom", "series": None},
    ]


def test_the_same_folder_again_changes_nothing(tmp_path, patients, run_ingest):
    patients()
    run_ingest()
    before = content(tmp_path / "cohort")
    again = run_ingest()

    assert (again.generation, again.changed) == (1, False)
    assert content(tmp_path / "cohort") == before
    assert sorted(path.name for path in (tmp_path / "cohort").iterdir()) == [".lock", "00001", "current", "read", "states.sqlite"]


def test_the_same_bytes_come_out_whatever_the_order_of_files(tmp_path, patients, run_ingest):
    folder = patients()
    run_ingest(cohort=tmp_path / "one")
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.dcm"), reverse=True)):
        shutil.copy(path, shuffled / f"{number:03d}")
    run_ingest(shuffled, cohort=tmp_path / "two")

    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_same_bytes_come_out_whatever_the_number_of_workers(tmp_path, patients, write_dicom, run_ingest):
    patients(12)
    write_dicom(tmp_path / "dicom" / "z.dcm", Modality="US")
    (tmp_path / "labels.csv").write_text("PatientID,A\n" + "".join(f"P{number},{number % 2}\n" for number in range(12)))
    one = run_ingest(labels=tmp_path / "labels.csv", cohort=tmp_path / "one")
    two = run_ingest(labels=tmp_path / "labels.csv", cohort=tmp_path / "two", workers=2)

    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert one == two


@pytest.mark.parametrize("hostile", ["stranger", "copies", "same uids"])
def test_one_more_patient_changes_nobody_elses_record_labels_or_pixels(tmp_path, patients, write_dicom, run_ingest, hostile):
    folder = patients()
    (tmp_path / "labels.csv").write_text("PatientID,A\nNEW,1\n" + "".join(f"P{number},0\n" for number in range(6)))
    run_ingest(labels=tmp_path / "labels.csv", cohort=tmp_path / "without")
    images = ["1.9.9"] if hostile == "stranger" else [f"1.2.{number}.0" for number in range(6)]
    for image in images:
        write_dicom(folder / "0" / f"-{image}.dcm", "NEW", image, picture(0 if hostile == "copies" else 99), SeriesInstanceUID="1.2.0.0.7")
    run_ingest(labels=tmp_path / "labels.csv", cohort=tmp_path / "with")
    before, after = rows(tmp_path / "without"), rows(tmp_path / "with")

    assert len(after) == len(before) + len(images)
    assert {name: after[name] for name in before} == before


def test_a_patient_never_changes_part(tmp_path, patients, run_ingest):
    patients(10)
    run_ingest()
    before = {record.patient: record.part for record in open_cohort(tmp_path / "cohort").records}
    patients(10, first=20)
    run_ingest()
    after = {record.patient: record.part for record in open_cohort(tmp_path / "cohort").records}

    assert set(before.values()) == {"training", "validation"}
    assert {patient: after[patient] for patient in before} == before


def test_another_key_or_fraction_would_move_patients_and_is_refused(tmp_path, patients, run_ingest):
    patients()
    run_ingest()

    with pytest.raises(MisuseError, match="another pseudonym key"):
        run_ingest(keys=PseudonymKeys.from_secret(b"x" * 32))
    with pytest.raises(MisuseError, match=r"validation_fraction: 0\.5, this cohort was split at 0\.3"):
        run_ingest(validation_fraction=0.5)


def test_another_geometry_is_a_new_generation(tmp_path, patients, run_ingest):
    patients()
    run_ingest()
    done = run_ingest(geometry=Geometry(profile("xr"), 8, 24))

    assert (done.generation, done.changed) == (2, True)
    assert open_cohort(tmp_path / "cohort").pixels[0].shape == (12, 8, 24)


def test_the_same_image_twice_is_kept_once_and_the_choice_does_not_depend_on_order(tmp_path, write_dicom, run_ingest):
    for name, order in (("one", (0, 1)), ("two", (1, 0))):
        for place, age in enumerate(order):
            write_dicom(tmp_path / name / f"{place}.dcm", PatientAge=f"03{age}Y")
        assert run_ingest(tmp_path / name, cohort=tmp_path / f"cohort-{name}").counts == {"duplicate": 1}

    assert rows(tmp_path / "cohort-one") == rows(tmp_path / "cohort-two")


def test_images_without_a_label_stay_out_and_labels_without_an_image_are_counted(tmp_path, patients, run_ingest):
    patients(3)
    (tmp_path / "labels.csv").write_text("PatientID,A\nP0,1\nP1,0\nP2,\nP77,1\nP78,0\n")
    done = run_ingest(labels=tmp_path / "labels.csv", label_names=("A",))

    assert done.counts == {"unlabelled": 2}
    assert done.warnings == ("labels: 2 keys belong to no image that was read",)


def test_one_class_and_one_patient_are_warnings(tmp_path, patients, run_ingest):
    patients(1)
    (tmp_path / "labels.csv").write_text("PatientID,A\nP0,1\n")

    assert run_ingest(labels=tmp_path / "labels.csv").warnings == ("cohort: one patient only", "labels: A: every image is 1")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "source: no such folder"),
        (lambda folder: folder.mkdir(), "source: the folder is empty"),
        (lambda folder: (folder.mkdir(), (folder / "a.txt").write_text("x")), "source: none of 1 files can be used: 1 not-dicom"),
    ],
)
def test_a_folder_without_images_is_misuse_and_leaves_nothing(tmp_path, run_ingest, prepare, message):
    prepare(tmp_path / "dicom")

    with pytest.raises(MisuseError, match=message) as caught:
        run_ingest()

    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert not (tmp_path / "cohort").exists()


def test_no_labels_where_the_protocol_wants_some_is_misuse(tmp_path, patients, run_ingest):
    patients(1)

    with pytest.raises(MisuseError, match="labels: none given") as caught:
        run_ingest(label_names=("Mass",))

    assert "Mass" in caught.value.hint


def test_a_full_disk_leaves_the_old_generation_current_and_nothing_else(tmp_path, patients, run_ingest, monkeypatch):
    patients()
    run_ingest()
    before = on_disk(tmp_path / "cohort")
    patients(1, first=30)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(draft.Draft, "_write", full)
    with pytest.raises(FedradError, match="no space left") as caught:
        run_ingest()

    assert "free space" in caught.value.hint
    assert on_disk(tmp_path / "cohort") == before


def test_an_interrupted_ingest_leaves_no_generation(tmp_path, patients, run_ingest):
    patients()

    def interrupt(done, _):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ingest(progress=interrupt)

    assert on_disk(tmp_path / "cohort") == {}


def test_what_a_killed_ingest_left_is_swept_away(tmp_path, patients, run_ingest):
    patients(2)
    (tmp_path / "cohort" / ".draft.tmp" / "pixels").mkdir(parents=True)
    run_ingest()

    assert sorted(path.name for path in (tmp_path / "cohort").iterdir()) == [".lock", "00001", "current", "read", "states.sqlite"]


def test_two_ingests_at_a_time_are_refused(tmp_path, patients, run_ingest):
    patients(1)
    (tmp_path / "cohort").mkdir()

    with exclusive_lock(tmp_path / "cohort" / ".lock", what="the cohort"), pytest.raises(BusyError):
        run_ingest()


def test_the_source_is_not_changed(tmp_path, patients, run_ingest):
    folder = patients(2)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.dcm")}
    run_ingest()

    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.dcm")} == before
