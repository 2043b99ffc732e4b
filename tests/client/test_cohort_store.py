"""A cohort is opened only when every byte is what its manifest says."""

import json

import numpy as np
import pytest

from fedrad_client.cohort import draft
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.store import current, newest_fitting, open_cohort
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.profiles import PROFILES
from fedrad_common.protocol import parse_protocol


@pytest.fixture
def cohort(tmp_path, patients, run_ingest):
    folder = patients(8)
    rows = "".join(f"P{number},{number % 2},{'' if number == 3 else 1}\n" for number in range(8))
    (tmp_path / "labels.csv").write_text("PatientID,Mass,Nodule\n" + rows)
    run_ingest(folder, tmp_path / "labels.csv")
    return tmp_path / "cohort"


def test_nothing_ingested_is_said_so(tmp_path):
    with pytest.raises(MisuseError, match="nothing was ingested yet"):
        open_cohort(tmp_path / "cohort")


def test_records_are_sorted_by_pseudonym_and_match_the_pixels_row_by_row(cohort):
    opened = open_cohort(cohort)
    names = [(record.patient, record.image) for record in opened.records]

    assert names == sorted(names)
    assert opened.manifest.n_images == len(names) == sum(len(part) for part in opened.pixels) == len(opened.labels) == 16
    assert opened.pixels[0].dtype == np.uint16


def test_the_parts_together_are_the_cohort_and_share_no_patient(cohort):
    opened = open_cohort(cohort)
    sets = [load_dataset(opened, part=part, labels=("Nodule", "Mass")) for part in ("training", "validation")]

    assert sum(len(one.pixels) for one in sets) == 16
    assert sum(one.n_patients for one in sets) == 8
    for one in sets:
        assert one.labels.shape == (len(one.pixels), 2)
        assert np.array_equal(np.unique(one.owner), np.arange(one.n_patients))
        assert (np.diff(one.owner) >= 0).all()


def test_labels_follow_their_images_and_an_empty_cell_is_nan(cohort):
    opened = open_cohort(cohort)
    both = [load_dataset(opened, part=part, labels=("Mass", "Nodule")).labels for part in ("training", "validation")]
    found = np.concatenate(both)

    assert sorted(found[:, 0].tolist()) == [0.0] * 8 + [1.0] * 8
    assert np.isnan(found[:, 1]).sum() == 2


def test_an_unknown_label_is_refused(cohort):
    with pytest.raises(MisuseError, match="has no label 'Edema'"):
        load_dataset(open_cohort(cohort), part="training", labels=("Edema",))


def test_a_newer_format_is_refused_with_a_hint(cohort):
    path = cohort / "00001" / "cohort.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "fedrad-cohort-2"}))

    with pytest.raises(FormatError, match="'fedrad-cohort-2' is not 'fedrad-cohort-1'") as caught:
        open_cohort(cohort)

    assert "another version" in caught.value.hint


@pytest.mark.parametrize("name", ["records.jsonl", "labels/labels.jsonl", "pixels/00000.npy", "pixels.sha256"])
@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_a_damaged_file_is_named(cohort, name, damage):
    path = cohort / "00001" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "changed" else b""))

    with pytest.raises(FormatError, match=f"generation 1: {name} is missing or was changed"):
        open_cohort(cohort)


def test_a_damaged_generation_is_mended_by_ingesting_again(cohort, tmp_path, run_ingest):
    (cohort / "00001" / "records.jsonl").write_bytes(b"")
    done = run_ingest(labels=tmp_path / "labels.csv")

    assert (done.generation, done.changed) == (2, True)
    assert open_cohort(cohort).generation == 2


def test_pixels_of_another_profile_version_are_not_trained_on(cohort, monkeypatch):
    monkeypatch.setitem(PROFILES, "xr", PROFILES["xr"].model_copy(update={"version": 99}))

    with pytest.raises(FormatError, match="another version of the profile 'xr'"):
        load_dataset(open_cohort(cohort), part="training", labels=())


def test_an_old_generation_stays_readable(cohort, tmp_path, patients, run_ingest):
    before = open_cohort(cohort).records
    patients(1, first=50)
    run_ingest()

    assert current(cohort) == 2
    assert open_cohort(cohort, 1).records == before
    with pytest.raises(MisuseError, match="no generation 3"):
        open_cohort(cohort, 3)


def test_many_parts_hold_what_one_part_would(tmp_path, patients, run_ingest, monkeypatch):
    patients(5)
    run_ingest()
    whole = open_cohort(tmp_path / "cohort")
    monkeypatch.setattr(draft, "PART_BYTES", 3 * 2 * 16 * 16)
    run_ingest(cohort=tmp_path / "other")
    parted = open_cohort(tmp_path / "other")

    assert [len(part) for part in parted.pixels] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate(parted.pixels), whole.pixels[0])
    assert np.array_equal(load_dataset(parted, part="training", labels=()).pixels, load_dataset(whole, part="training", labels=()).pixels)


def test_the_folder_is_for_its_owner_only(cohort):
    assert {path.stat().st_mode & 0o077 for path in cohort.rglob("*")} == {0}


def test_a_run_takes_the_newest_generation_that_fits_its_protocol(make_site, write_cohort, protocol_bytes: bytes) -> None:
    """A later ingest may have been for another project: its labels or its geometry are not this one's."""
    directory, protocol = make_site().cohort, parse_protocol(protocol_bytes)
    write_cohort(directory, labels=("fracture",))
    assert newest_fitting(directory, protocol) == 1

    write_cohort(directory, labels=("fracture", "lesion"))
    assert newest_fitting(directory, protocol) == 3


def test_a_protocol_that_no_generation_fits_is_told_why(make_site, protocol_bytes: bytes) -> None:
    wider = parse_protocol(protocol_bytes.replace(b"width = 8", b"width = 16"))

    with pytest.raises(MisuseError, match="cohort: holds xr 8×8, the protocol wants xr 8×16"):
        newest_fitting(make_site().cohort, wider)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"depth": 4, "spacing": (3.0, 1.0, 1.0)}, "holds xr 8×8, the protocol wants xr 4×8×8 at 3×1×1 mm"),
        ({"spacing": (0.5, 0.5)}, "holds xr 8×8, the protocol wants xr 8×8 at 0.5×0.5 mm"),
    ],
)
def test_a_volume_or_another_spacing_is_another_cohort(make_site, protocol_bytes: bytes, changed, said: str) -> None:
    protocol = parse_protocol(protocol_bytes)
    wanted = protocol.model_copy(update={"input": protocol.input.model_copy(update=changed)})

    with pytest.raises(MisuseError, match=said):
        newest_fitting(make_site().cohort, wanted)
