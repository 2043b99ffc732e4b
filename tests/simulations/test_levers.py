"""The ablation of levers, small: every row is a protocol, phantoms teach a network, and a run of each kind of part is scored."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.cohort.dataset import Dataset
from fedrad_common.protocol import load_protocol, replace_settings

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("levers_benchmark", ROOT / "simulations" / "benchmarks" / "levers.py")
assert SPEC is not None
assert SPEC.loader is not None
levers = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = levers  # its dataclasses look themselves up there
SPEC.loader.exec_module(levers)
SHIPPED = load_protocol(ROOT / "configs" / "protocols" / "pneumonia.toml")
TINY = {"privacy.rounds": 1, "privacy.expected_batch": 10.0, "evaluation.rounds": []}


@pytest.mark.parametrize("row", levers.ROWS, ids=lambda row: row.name)
def test_every_row_is_a_protocol_that_differs_from_the_shipped_one_by_its_lever(row) -> None:
    chosen = replace_settings(SHIPPED, {"evaluation.rounds": [], **row.settings})

    assert row.rates
    assert not row.settings or chosen.hash != replace_settings(SHIPPED, {"evaluation.rounds": []}).hash


def test_a_phantom_of_one_seed_is_the_same_and_shows_what_it_says() -> None:
    images, truth = levers.phantoms(128, seed=3)

    assert np.array_equal(images, levers.phantoms(128, seed=3)[0])
    assert images.shape == (128, 28, 28)
    assert 0 <= images.min() < images.max() <= 1
    assert np.array_equal(truth[:, 0], truth[:, 1:3].max(1))  # a lesion is left or right
    assert np.array_equal(truth[:, 0], truth[:, 3:5].max(1))  # and of one kind
    assert 0.3 < truth[:, 0].mean() < 0.7


@pytest.mark.parametrize("part", ["all", "head", "lora"])
def test_a_run_from_public_weights_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    rng = np.random.default_rng(0)

    def some(n: int) -> Dataset:
        labels = (np.arange(n) % 2).astype(np.float32)[:, None]
        return Dataset(rng.integers(0, 65536, (n, 28, 28)).astype(np.uint16), labels, np.arange(n), n)

    monkeypatch.setattr(levers, "phantoms", lambda count, seed, made=levers.phantoms: made(256, seed=seed))
    rank = {"model.rank": 2} if part == "lora" else {}
    protocol = replace_settings(SHIPPED, levers.RESNET | TINY | {"model.trains": part} | rank)
    levers.pretrained(replace_settings(SHIPPED, levers.RESNET), tmp_path / "w.safetensors", epochs=1)
    found = levers.play(protocol, levers.World((some(20), some(24)), some(16)), file=tmp_path / "w.safetensors", seed=1)

    assert 0 <= found.auc <= 1
    assert found.noise >= 0.5
    assert found.n_parameters == {"all": 19465, "head": 65}.get(part, found.n_parameters)
