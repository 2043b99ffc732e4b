"""A phantom's truth is known, its files are valid DICOM, and its planted identifiers are really there."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from fedrad_common.errors import FedradError, MisuseError
from fedrad_sim.anatomy import Drift
from fedrad_sim.dicom_write import encode_file, pixel_elements
from fedrad_sim.phantom import HELD_OUT, HOSPITALS, MAX_IMAGES, Hospital, Truth, scaled, write_hospital

SMALL = Hospital("small", 12, 0.5, 0.0, Drift(padding=5))


def dataset(out: Path, truth: Truth, index: int = 0) -> pydicom.Dataset:
    return pydicom.dcmread(out / "dicom" / truth.images[index].file)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    out = tmp_path_factory.mktemp("phantom") / "small"
    return out, write_hospital(SMALL, out, seed=7)


def test_every_element_of_every_scanners_files_is_read_without_a_warning(tmp_path: Path) -> None:
    for hospital in HOSPITALS:
        out = tmp_path / hospital.name
        truth = write_hospital(replace(hospital, n_patients=2), out, seed=1)
        for image in truth.images:
            ds = pydicom.dcmread(out / "dicom" / image.file)
            elements = list(ds.iterall())  # warnings are errors here
            assert len(elements) > 60
            assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID


def test_pixels_say_what_the_drift_says(tmp_path: Path) -> None:
    drift = Drift(photometric="MONOCHROME1", bits_stored=10, rows=80, columns=100, padding=3, rescale=(2.0, -5.0), modality="CR")
    truth = write_hospital(Hospital("one", 1, 0.0, 0.0, drift), tmp_path / "one", seed=1)
    ds = dataset(tmp_path / "one", truth)

    assert (ds.Rows, ds.Columns, ds.BitsStored, ds.HighBit, ds.BitsAllocated) == (86, 106, 10, 9, 16)
    assert (ds.PhotometricInterpretation, ds.Modality, ds.RescaleSlope, ds.RescaleIntercept) == ("MONOCHROME1", "CR", 2.0, -5.0)
    pixels = ds.pixel_array
    assert (pixels[:3] == ds.PixelPaddingValue).all()
    assert pixels[3:-3, 3:-3].max() < ds.PixelPaddingValue < 2**10


def test_monochrome1_stores_the_same_picture_upside_down(tmp_path: Path) -> None:
    hospital = Hospital("one", 1, 0.0, 0.0, Drift())
    plain = write_hospital(hospital, tmp_path / "plain", seed=1)
    inverse = write_hospital(replace(hospital, drift=Drift(photometric="MONOCHROME1")), tmp_path / "inverse", seed=1)

    total = dataset(tmp_path / "plain", plain).pixel_array.astype(int) + dataset(tmp_path / "inverse", inverse).pixel_array

    assert np.abs(total - (2**12 - 1)).max() <= 1


def test_the_lesion_is_where_the_truth_says(tmp_path: Path) -> None:
    """The same seed with and without disease differs at the lesions and nowhere else."""
    drift = Drift(rows=128, columns=112, padding=4, noise=0.0, bits_stored=16)
    ill = write_hospital(Hospital("one", 6, 1.0, 0.0, drift), tmp_path / "ill", seed=3)
    well = write_hospital(Hospital("one", 6, 0.0, 0.0, drift), tmp_path / "well", seed=3)

    for index, image in enumerate(ill.images):
        change = np.abs(
            dataset(tmp_path / "ill", ill, index).pixel_array.astype(float) - dataset(tmp_path / "well", well, index).pixel_array
        )
        y, x = np.indices(change.shape)
        near = np.zeros(change.shape, dtype=bool)
        for lesion in image.lesions:
            near |= np.hypot(y - lesion.row, x - lesion.column) < 2.6 * lesion.radius + 2
        assert image.lesion
        assert change[near].max() > 500
        assert change[~near].max() < 0.1 * change.max()


def test_truth_counts_what_was_asked_for(small: tuple[Path, Truth]) -> None:
    out, truth = small
    ill = {image.PatientID for image in truth.images if image.lesion}
    everyone = [image.PatientID for image in truth.images]

    assert len(set(everyone)) == truth.n_patients == 12
    assert len(ill) == 6
    assert max(everyone.count(patient) for patient in set(everyone)) <= MAX_IMAGES
    assert {path.relative_to(out / "dicom").as_posix() for path in out.rglob("*.dcm")} == {image.file for image in truth.images}
    assert all(bool(image.lesions) == image.lesion for image in truth.images)


def test_truth_lies_beside_the_dicom_folder_never_in_it(small: tuple[Path, Truth]) -> None:
    out, truth = small
    assert {path.name for path in out.iterdir()} == {"dicom", "labels.csv", "truth.csv", "canaries.txt"}
    written = rows(out / "truth.csv")
    assert {row["SOPInstanceUID"] for row in written} == {image.SOPInstanceUID for image in truth.images}
    assert {row["SOPInstanceUID"] for row in written if row["lesion"] == "1"} == {i.SOPInstanceUID for i in truth.images if i.lesion}


@pytest.mark.parametrize("key", ["SOPInstanceUID", "PatientID"])
def test_label_noise_flips_the_asked_part_of_patients_in_labels_only(tmp_path: Path, key: str) -> None:
    hospital = replace(SMALL, n_patients=40, label_noise=0.1, labels_by=key)  # type: ignore[arg-type]
    truth = write_hospital(hospital, tmp_path / "noisy", seed=2)
    told = {row[key]: row["lesion"] == "1" for row in rows(tmp_path / "noisy" / "labels.csv")}

    assert len({image.PatientID for image in truth.images if told[getattr(image, key)] != image.lesion}) == 4


def test_every_canary_is_in_the_raw_files_or_their_names(small: tuple[Path, Truth]) -> None:
    """The positive control of every test that greps for canaries and finds none."""
    out, truth = small
    files = list(out.rglob("*.dcm"))
    everything = b"".join(path.read_bytes() + os.fsencode(path) for path in files)

    assert [canary for canary in truth.canaries if canary.encode() not in everything] == []
    assert len(truth.canaries) > 35 * len(files)
    assert (out / "canaries.txt").read_text().split() == list(truth.canaries)


def test_canaries_hide_where_identifiers_hide(small: tuple[Path, Truth]) -> None:
    out, truth = small
    ds = dataset(out, truth)
    raw = (out / "dicom" / truth.images[0].file).read_bytes()
    places = [
        str(ds.PatientName),
        ds.InstitutionAddress,
        ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].ProtocolContextSequence[0].TextValue,
        ds.OtherPatientIDsSequence[0].PatientID,
        ds[0x0009, 0x1002].value.decode("latin1"),
        ds.file_meta.PrivateInformation.decode(),
        ds.file_meta.SourceApplicationEntityTitle,
        raw[:128].decode(),
        ds.DataSetTrailingPadding.decode(),
    ]
    assert all(any(canary in place for canary in truth.canaries) for place in places)
    assert ds[0x0009, 0x1002].VR == "UN"


def test_no_two_files_share_a_token(small: tuple[Path, Truth]) -> None:
    out, truth = small
    holders = [
        {canary for canary in truth.canaries if canary.startswith("ZQ") and canary.encode() in path.read_bytes()}
        for path in out.rglob("*.dcm")
    ]
    assert all(holders)
    assert sum(map(len, holders)) == len(set().union(*holders))


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path: Path, small: tuple[Path, Truth]) -> None:
    out, truth = small
    again = write_hospital(SMALL, tmp_path / "again", seed=7)
    other = write_hospital(SMALL, tmp_path / "other", seed=8)

    assert again == truth
    assert all((tmp_path / "again" / "dicom" / i.file).read_bytes() == (out / "dicom" / i.file).read_bytes() for i in truth.images)
    assert not set(truth.canaries) & set(other.canaries)


def test_held_out_patients_come_from_all_scanners_and_no_hospital(tmp_path: Path) -> None:
    truth = write_hospital(replace(HELD_OUT, n_patients=20), tmp_path / "held-out", seed=1)
    modalities = {
        (ds.Modality, ds.BitsStored) for ds in (dataset(tmp_path / "held-out", truth, index) for index in range(len(truth.images)))
    }
    at_north = write_hospital(replace(HOSPITALS[0], n_patients=20), tmp_path / "north", seed=1)

    assert len(modalities) >= 4
    assert not {image.PatientID for image in truth.images} & {image.PatientID for image in at_north.images}


def test_a_folder_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("x")

    with pytest.raises(MisuseError, match="exists already"):
        write_hospital(SMALL, tmp_path / "there", seed=1)

    assert (tmp_path / "there" / "precious").read_text() == "x"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hospital(SMALL, tmp_path / "out", seed=1, progress=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FedradError, match="no space left"):
        write_hospital(SMALL, tmp_path / "out", seed=1, progress=full)

    assert list(tmp_path.iterdir()) == []


def test_progress_counts_up_to_all_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    truth = write_hospital(SMALL, tmp_path / "out", seed=1, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(truth.images), len(truth.images))


def test_scaled_hospitals_keep_everything_but_their_size() -> None:
    assert scaled(SMALL, 0.5) == replace(SMALL, n_patients=6)
    assert scaled(SMALL, 0.001).n_patients == 1


def test_an_odd_number_of_8_bit_pixels_is_padded_to_even_length(tmp_path: Path) -> None:
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    path = tmp_path / "odd.dcm"
    path.write_bytes(encode_file({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "2.25.1", **pixel_elements(pixels)}))

    ds = pydicom.dcmread(path)

    assert len(ds.PixelData) == 16
    assert (ds.pixel_array == pixels).all()
