"""Training reads its images from disk when it wants them, checks each, and computes what it computed from memory."""

import dataclasses
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.cohorts import Patient, chest, chests, write_cohort
from fakes.patients import network_protocol

from fedrad_client.cohort import draft, store
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.images import Images, open_part
from fedrad_client.cohort.store import Owner, open_cohort
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan
from fedrad_client.privacy.training import train
from fedrad_common.errors import FormatError
from fedrad_common.models import build
from fedrad_common.packing import pack

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("many_images_benchmark", ROOT / "simulations" / "benchmarks" / "many_images.py")
many_images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(many_images)


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch) -> Path:
    """14 images in parts of 3."""
    monkeypatch.setattr(draft, "PART_BYTES", 3 * 2 * 32 * 32)
    write_cohort(tmp_path / "cohort", chests(14))
    return tmp_path / "cohort"


def spoil(path: Path, *, at: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


WANTED = [
    0, -1, slice(None), slice(2, 9), slice(9, 2, -3), slice(5, 5), np.array([13, 0, 4, 4, 5, 6, 2]), np.arange(14) % 3 == 0,
    np.array([0, 3, 1, 4]),
    np.array([], dtype=np.int64),
]  # fmt: skip


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_taking_images_gives_what_an_array_of_them_would(cohort: Path, wanted) -> None:
    opened = open_cohort(cohort)
    assert [len(part) for part in opened.pixels] == [3, 3, 3, 3, 2]

    found = opened.images[wanted]
    assert np.array_equal(found, np.concatenate(opened.pixels)[wanted])
    assert found.dtype == np.uint16
    assert found.flags.writeable
    assert np.array_equal(opened.images.only(np.array([7, 2, 11]))[[2, 0]], np.concatenate(opened.pixels)[[11, 7]])


def test_there_is_no_image_beyond_the_last(cohort: Path) -> None:
    images = open_cohort(cohort).images

    assert len(list(images)) == len(images) == 14
    with pytest.raises(IndexError):
        images[14]


def test_loading_a_data_set_reads_no_image(cohort: Path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(os, "preadv", lambda *_: read.append(1) or 0)
    data = load_dataset(open_cohort(cohort), part="training", labels=("lesion",))

    assert data.pixels.shape == (8, 32, 32)
    assert not read


def test_training_from_disk_is_training_from_memory_to_the_bit(cohort: Path, protocol_bytes: bytes) -> None:
    protocol = network_protocol(protocol_bytes, input__height=32, input__width=32, privacy__steps_per_round=3)
    plan = Plan(
        protocol=protocol.hash, n_parameters=1, declared_size=8, sampling_rate=0.5, expected_batch=4.0, noise_multiplier=1.0, delta=1e-4,
        epsilon=8.0, evaluation="none", evaluation_noise=0.0,
    )  # fmt: skip
    on_disk = load_dataset(open_cohort(cohort), part="training", labels=("lesion",))
    trained = []
    for data in (on_disk, dataclasses.replace(on_disk, pixels=np.asarray(on_disk.pixels))):
        torch.manual_seed(0)
        network = build(protocol.model, n_outputs=1, height=32, width=32)
        train(
            data, protocol=protocol, plan=plan, model=network, round=1, noise=AesNoise(bytes(32)),
            resources=Resources(threads=1, device="cpu"),
        )  # fmt: skip
        trained.append(pack(network))

    assert isinstance(on_disk.pixels, Images)
    assert np.array_equal(*trained)


def test_an_image_that_was_changed_after_the_opening_is_noticed_and_the_others_are_read(cohort: Path) -> None:
    images = open_cohort(cohort).images
    spoil(cohort / "00001" / "pixels" / "00001.npy", at=-1 + (cohort / "00001" / "pixels" / "00001.npy").stat().st_size)

    assert len(images[np.array([0, 3, 4, 6])]) == 4
    with pytest.raises(FormatError, match=r"cohort: pixels/00001.npy is missing or was changed") as caught:
        images[5]
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("with_digests", [True, False])
def test_a_file_that_is_cut_short_or_taken_away_while_it_is_read_is_an_error_and_no_death(cohort: Path, with_digests: bool) -> None:
    images = open_cohort(cohort).images
    images = images if with_digests else dataclasses.replace(images, digests=None)
    with (cohort / "00001" / "pixels" / "00000.npy").open("r+b") as stream:
        stream.truncate(500)
    (cohort / "00001" / "pixels" / "00001.npy").unlink()

    for row in (0, 3):
        with pytest.raises(FormatError, match="is missing or was changed"):
            images[row]


def test_many_pixels_are_checked_when_they_are_read_and_not_before(cohort: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "HASHED_AT_ONCE", 0)
    hashed: list[str] = []
    monkeypatch.setattr(store, "_sha256", lambda path, _: hashed.append(path.name) or store.sha256_file(path))
    spoil(cohort / "00001" / "pixels" / "00000.npy", at=-1 + (cohort / "00001" / "pixels" / "00000.npy").stat().st_size)
    images = open_cohort(cohort).images

    assert sorted(hashed) == ["labels.jsonl", "pixels.sha256", "quarantine.jsonl", "records.jsonl"]
    with pytest.raises(FormatError, match=r"pixels/00000.npy is missing or was changed"):
        images[:]


def test_a_generation_from_before_there_were_digests_is_hashed_whole_whatever_its_size(cohort: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "HASHED_AT_ONCE", 0)
    manifest = store.read_manifest(cohort, 1)
    older = manifest.model_copy(update={"files": {name: file for name, file in manifest.files.items() if name != store.DIGESTS}})
    (cohort / "00001" / store.MANIFEST).write_text(older.model_dump_json())
    assert len(open_cohort(cohort).images[:]) == 14

    spoil(cohort / "00001" / "pixels" / "00002.npy", at=-1 + (cohort / "00001" / "pixels" / "00002.npy").stat().st_size)
    with pytest.raises(FormatError, match=r"pixels/00002.npy is missing or was changed"):
        open_cohort(cohort)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 8, 9), "<u2"), np.zeros((4, 8, 8), ">u2"), np.zeros((4, 8, 8), "<f4"), np.zeros((8, 8), "<u2")]
)
def test_a_part_of_another_shape_or_type_is_refused(tmp_path: Path, array) -> None:
    np.save(tmp_path / "00000.npy", array)

    with pytest.raises(FormatError, match=r"pixels/00000.npy"):
        open_part(tmp_path / "00000.npy", "pixels/00000.npy", (8, 8))


def test_volumes_are_read_as_they_lie(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).integers(0, 65536, (4, 3, 8, 6)).astype("<u2")
    np.save(tmp_path / "00000.npy", volumes)
    images = Images((open_part(tmp_path / "00000.npy", "pixels/00000.npy", (3, 8, 6)),), (3, 8, 6), np.arange(4), None)

    assert images.shape == (4, 3, 8, 6)
    assert np.array_equal(images[[3, 1]], volumes[[3, 1]])


def test_whose_an_image_is_survives_fields_that_look_like_the_end_of_a_record(tmp_path: Path) -> None:
    nasty = '","image":"x","part":"validation","patient":"y"}\n'
    write_cohort(tmp_path / "cohort", [Patient((chest(1),), (1,), "training", {"BodyPartExamined": nasty, "zz": "Ü"}), *chests(2, first=2)])
    opened = open_cohort(tmp_path / "cohort")

    assert opened.owners == tuple(Owner(record.patient, record.image, record.part) for record in opened.records)


def test_labels_are_the_same_however_often_a_row_occurs(tmp_path: Path) -> None:
    values = [(1, None), (0, 1), (1, None), (None, 0), (0, 1)]
    write_cohort(tmp_path / "cohort", [Patient((chest(n),), row) for n, row in enumerate(values)], labels=("a", "b"))

    expected = np.array([[np.nan if value is None else value for value in row] for row in values], dtype=np.float32)
    assert np.array_equal(open_cohort(tmp_path / "cohort").labels, expected, equal_nan=True)


def test_memory_stays_flat_with_many_images_and_an_epoch_starts_at_once(tmp_path: Path) -> None:
    """5,000 images of 128²; 100,000 are for `simulations/benchmarks/many_images.py`. Held whole, they would take 164 MB."""
    found = many_images.measure(tmp_path, 5000, workers=2)
    ingested, read = found["ingest"], found["read"]

    assert ingested["images"] == 5000
    assert max(ingested["parent_mb"], ingested["reader_mb"]) < 300
    assert read["images"] > 4000
    assert read["peak_mb"] - read["before_mb"] < 120
    assert max(read["start_seconds"], read["again_seconds"]) < 1
