"""Arrays become DICOM per hospital without losing, changing or inventing anything; what doesn't fit is refused precisely."""

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fedrad_common.errors import MisuseError
from fedrad_sim.importer import Imported, import_arrays

RNG = np.random.default_rng(0)


def arrays(folder: Path, **changes: object) -> Path:
    """30 images of 10 patients at 3 places; a None leaves the array out."""
    content: dict[str, object] = {
        "x": RNG.integers(0, 256, (30, 9, 7), dtype=np.uint8),
        "y": np.arange(30) // 3 % 2,
        "who": np.array([f"patient {number // 3}" for number in range(30)]),
        "where": np.array([f"Clinic {number // 3 % 3}" for number in range(30)]),
        **changes,
    }
    path = folder / "some.npz"
    np.savez(path, **{key: value for key, value in content.items() if value is not None})  # type: ignore[arg-type]
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def datasets(out: Path) -> dict[str, list[pydicom.Dataset]]:
    return {
        site.name: [pydicom.dcmread(path) for path in sorted((site / "dicom").iterdir())] for site in sorted(out.iterdir()) if site.is_dir()
    }


def patients_by_site(out: Path) -> dict[str, set[str]]:
    return {site: {ds.PatientID for ds in found} for site, found in datasets(out).items()}


def test_pixels_labels_and_patients_survive_unchanged(tmp_path: Path) -> None:
    source = arrays(tmp_path)
    import_arrays(source, image="x", label="y", patient="who", out=tmp_path / "out")
    with np.load(source) as expected:
        labels = {row["SOPInstanceUID"]: int(row["y"]) for row in rows(tmp_path / "out" / "H1" / "labels.csv")}
        for row, ds in enumerate(datasets(tmp_path / "out")["H1"]):
            assert (ds.pixel_array == expected["x"][row]).all()
            assert ds.PatientID == expected["who"][row]
            assert labels[ds.SOPInstanceUID] == expected["y"][row]
            assert len(list(ds.iterall())) > 15  # warnings are errors here
    assert len(labels) == 30


def test_site_names_come_from_the_column(tmp_path: Path) -> None:
    imported = import_arrays(arrays(tmp_path), image="x", label="y", patient="who", site="where", out=tmp_path / "out")
    assert imported.sites == {"Clinic-0": 12, "Clinic-1": 9, "Clinic-2": 9}
    assert patients_by_site(tmp_path / "out")["Clinic-1"] == {"patient 1", "patient 4", "patient 7"}


def test_without_patients_each_image_is_one_and_the_meta_says_so(tmp_path: Path) -> None:
    imported = import_arrays(arrays(tmp_path), image="x", label="y", out=tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "import.json").read_text())

    assert (imported.unit, imported.n_patients, meta["unit"], meta["format"]) == ("image", 30, "image", "fedrad-import-1")
    assert len(patients_by_site(tmp_path / "out")["H1"]) == 30


@pytest.mark.parametrize("alpha", ["0.05", "2.0", "500"])
def test_a_split_keeps_every_image_once_and_every_patient_at_one_site(tmp_path: Path, alpha: str) -> None:
    imported = import_arrays(
        arrays(tmp_path), image="x", label="y", patient="who", split=f"dirichlet:{alpha}", n_sites=4, out=tmp_path / "out"
    )
    found = patients_by_site(tmp_path / "out")

    assert sum(imported.sites.values()) == imported.n_images == 30
    assert all(imported.sites.values()), "no site is empty while there are patients enough"
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 10
    assert imported.n_shared == 0


def test_a_small_alpha_skews_labels_and_a_large_one_does_not(tmp_path: Path) -> None:
    def spread(alpha: str) -> float:
        n = 2000
        source = arrays(tmp_path, x=np.zeros((n, 2, 2), np.uint8), y=np.arange(n) % 2, who=None, where=None)
        import_arrays(source, image="x", label="y", split=f"dirichlet:{alpha}", seed=1, out=tmp_path / alpha)
        shares = [[int(row["y"]) for row in rows(path)] for path in (tmp_path / alpha).glob("*/labels.csv")]
        return float(np.std([np.mean(share) for share in shares]))

    assert spread("10000") < 0.02 < 0.1 < spread("0.5")


def test_the_seed_decides_who_goes_where_and_what_each_image_is_called(tmp_path: Path) -> None:
    source = arrays(tmp_path)

    def run(name: str, seed: int) -> dict[str, bytes]:
        out = tmp_path / name
        import_arrays(source, image="x", label="y", split="dirichlet:1.0", seed=seed, out=out)
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = run("first", 1)
    assert run("again", 1) == first
    assert run("other", 2) != first


def test_several_labels_become_several_columns(tmp_path: Path) -> None:
    source = arrays(tmp_path, y=np.tile([[True, False], [True, True]], (15, 1)))
    import_arrays(source, image="x", label="y", names=("edema", "effusion"), out=tmp_path / "out")
    assert [(row["edema"], row["effusion"]) for row in rows(tmp_path / "out" / "H1" / "labels.csv")[:2]] == [("1", "0"), ("1", "1")]


@pytest.mark.parametrize("packed", [True, False])
def test_masks_lie_beside_the_labels_by_instance(tmp_path: Path, packed: bool) -> None:
    masks = RNG.integers(0, 2, (30, 9, 7), dtype=np.uint8)
    stored = np.packbits(masks.reshape(30, -1), axis=1) if packed else masks
    import_arrays(arrays(tmp_path, m=stored), image="x", label="y", mask="m", site="where", out=tmp_path / "out")
    site = tmp_path / "out" / "Clinic-2"
    kept = np.unpackbits(np.load(site / "masks.npy"), axis=1, count=63).reshape(-1, 9, 7)
    row_of = {row["SOPInstanceUID"]: int(row["row"]) for row in rows(site / "masks.csv")}

    with np.load(tmp_path / "some.npz") as source:
        for ds in datasets(tmp_path / "out")["Clinic-2"]:
            mine = int(ds.InstanceNumber) - 1
            assert (source["x"][mine] == ds.pixel_array).all()
            assert (kept[row_of[ds.SOPInstanceUID]] == masks[mine]).all()


def test_floats_are_scaled_by_constants_and_bad_ones_left_out_and_counted(tmp_path: Path) -> None:
    images = np.full((30, 9, 7), 0.25, dtype=np.float32)
    images[1, 0, 0], images[4, 3, 3], images[5, 0, 0] = np.nan, 1.5, -0.1
    imported = import_arrays(arrays(tmp_path, x=images), image="x", label="y", out=tmp_path / "out")
    found = datasets(tmp_path / "out")["H1"]

    assert (imported.n_images, imported.n_nan, imported.n_outside, len(found)) == (27, 1, 2, 27)
    assert {int(value) for ds in found for value in np.unique(ds.pixel_array)} == {16384}
    assert found[0].BitsStored == 16


def test_the_mr_profile_gets_mr_images(tmp_path: Path) -> None:
    import_arrays(arrays(tmp_path), image="x", label="y", profile="mr", out=tmp_path / "out")
    ds = datasets(tmp_path / "out")["H1"][0]
    assert (ds.Modality, ds.SOPClassUID) == ("MR", "1.2.840.10008.5.1.4.1.1.4")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"image": "xyz"}, r"^some.npz: image: no array 'xyz'$"),
        ({}, {"patient": "nobody"}, r"^some.npz: patient: no array 'nobody'$"),
        ({"y": np.zeros(29)}, {}, r"^some.npz: label: 29 entries, but there are 30 images$"),
        ({"y": np.float64(1)}, {}, r"^some.npz: label: 0 entries"),
        ({"y": np.arange(30)}, {}, r"^some.npz: label: 28 of 30 values are neither 0 nor 1$"),
        ({"y": np.full(30, np.nan)}, {}, r"^some.npz: label: 30 of 30 values"),
        ({"y": np.array(["yes"] * 30)}, {}, r"^some.npz: label: type <U3, expected 0 and 1$"),
        ({"who": np.array([None] * 30, dtype=object)}, {"patient": "who"}, r"^some.npz: patient: array 'who' holds Python objects$"),
        ({"who": np.array([""] * 30)}, {"patient": "who"}, r"^some.npz: patient: 30 of 30 values are empty"),
        ({"x": np.zeros((30, 4, 4), np.int64)}, {}, r"^some.npz: image: type int64, expected uint8, uint16 or float"),
        ({"x": np.zeros((30, 4, 4, 3), np.uint8)}, {}, r"^some.npz: image: shape \(30, 4, 4, 3\)"),
        ({"x": np.full((30, 4, 4), np.nan)}, {}, r"^some.npz: image: none of 30 images"),
        ({"where": np.array(["A B", "A-B"] * 15)}, {"site": "where"}, r"^site: values #1 and #2 both become 'A-B'$"),
        ({"m": np.zeros((30, 3), np.uint8)}, {"mask": "m"}, r"^some.npz: mask: uint8 of shape \(30, 3\)"),
        ({}, {"split": "iid"}, r"^--split: 'iid' is not a split$"),
        ({}, {"split": "dirichlet:nan"}, r"^--split: 'dirichlet:nan'"),
        ({}, {"split": "dirichlet:2.0", "site": "where"}, r"^--site and --split"),
        ({}, {"names": ("a", "b")}, r"^label names: 2 different names for 1 labels$"),
    ],
)
def test_what_does_not_fit_is_refused_precisely_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, object], options: dict[str, str], message: str
) -> None:
    source = arrays(tmp_path, **changes)

    with pytest.raises(MisuseError, match=message):
        import_arrays(source, **{"image": "x", "label": "y", "out": tmp_path / "out", **options})  # type: ignore[arg-type]

    assert [path.name for path in tmp_path.iterdir()] == ["some.npz"]


def test_a_missing_key_is_answered_with_the_keys_there_are(tmp_path: Path) -> None:
    with pytest.raises(MisuseError) as caught:
        import_arrays(arrays(tmp_path), image="xyz", label="y", out=tmp_path / "out")
    assert caught.value.hint == "the file holds: x, y, who, where"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(MisuseError, match=r"^bad.npz: is not a NumPy archive$"):
        import_arrays(tmp_path / "bad.npz", image="x", label="y", out=tmp_path / "out")


def test_an_existing_folder_needs_force_and_force_replaces_only_an_earlier_import(tmp_path: Path) -> None:
    source, out = arrays(tmp_path), tmp_path / "out"

    def run(*, force: bool) -> Imported:
        return import_arrays(source, image="x", label="y", out=out, force=force)

    first = run(force=False)
    with pytest.raises(MisuseError, match="exists already"):
        run(force=False)
    (out / "stale").write_text("x")
    assert run(force=True) == first
    assert not (out / "stale").exists()
    (out / "import.json").unlink()
    with pytest.raises(MisuseError, match="not an earlier import"):
        run(force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "some.npz"]


def test_an_interrupted_import_keeps_the_earlier_one(tmp_path: Path) -> None:
    source, out = arrays(tmp_path), tmp_path / "out"
    import_arrays(source, image="x", label="y", out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_arrays(source, image="x", label="y", out=out, seed=9, force=True, progress=interrupt)

    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "some.npz"]


def test_the_five_institutions_of_lgg_keep_their_110_patients(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "lgg_mri" / "lgg64_flair_mask.npz"
    imported = import_arrays(
        source, image="flair", label="label", mask="mask", patient="patient", site="site", profile="mr", out=tmp_path / "lgg"
    )
    assert imported.sites == {"CS": 358, "DU": 1878, "EZ": 24, "FG": 640, "HT": 1029}
    assert (imported.n_patients, imported.n_shared, imported.n_images) == (110, 0, 3929)


def test_pneumonia_splits_into_five_hospitals(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "pneumonia_cxr" / "pneumonia_cxr_28.npz"
    imported = import_arrays(
        source, image="train_images", label="train_labels", names=("pneumonia",), split="dirichlet:2.0", out=tmp_path / "pneumonia"
    )
    assert list(imported.sites) == ["H1", "H2", "H3", "H4", "H5"]
    assert all(imported.sites.values())
    assert (imported.n_images, imported.unit) == (4708, "image")
