"""Public first weights: the named file of the named network and nothing else; a difference is named, with a remedy."""

import json
import os
import struct
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from fedrad_common import weights
from fedrad_common.errors import ConfigError, FedradError, MisuseError
from fedrad_common.models import build
from fedrad_common.packing import pack, vector_hash
from fedrad_common.protocol import Lineage, TrainingProtocol, parse_protocol, render_lineage, render_protocol, replace_settings
from fedrad_common.weights import check_public, file_hash, keep_file, kept_file, public_vector, write_weights

PROTOCOL = parse_protocol(b"""
format = "fedrad-protocol-1"
name = "chest"
task = { kind = "classification", labels = ["effusion"] }
input = { profile = "xr", height = 28, width = 28 }
model = { name = "resnet", options = { channels = 8, stages = 1 }, seed = 5 }
privacy = { unit = "patient", epsilon = 2.0, expected_batch = 5.0, steps_per_round = 2, rounds = 1 }
training = { learning_rate = 0.1 }
rounds = { quorum = 2, deadline_seconds = 40.0, retries = 0 }
""")
Tensors = dict[str, np.ndarray]


def tensors(**changed: np.ndarray | None) -> Tensors:
    """Of another seed than the protocol's; `None` leaves one out. Double underscores stand for dots."""
    other = build(PROTOCOL.model.model_copy(update={"seed": 77}), n_outputs=1, height=28, width=28)
    made = {name: parameter.detach().numpy() for name, parameter in other.named_parameters()}
    made |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in made.items() if value is not None}


def written(path: Path, content: Tensors) -> Path:
    save_file(content, path)
    return path


def starting_from(path: Path, *, fresh: str = "") -> TrainingProtocol:
    vector = public_vector(PROTOCOL, path, fresh=fresh)
    lineage = {"kind": "public", "model": vector_hash(vector), "source": "invented, here", "weights": file_hash(path), "fresh": fresh}
    return replace_settings(PROTOCOL, {"model.initial": lineage})


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_the_first_weights_are_the_files(tmp_path: Path, kind: type[np.floating]) -> None:
    content = {name: value.astype(kind) for name, value in tensors().items()}
    path = written(tmp_path / "w.safetensors", content)

    vector = check_public(starting_from(path), path)
    assert np.array_equal(vector, np.concatenate([value.astype(np.float32).ravel() for value in content.values()]))


@pytest.mark.parametrize("in_file", [True, False])
def test_a_fresh_head_is_the_seeds_whether_the_file_has_one_or_not(tmp_path: Path, in_file: bool) -> None:
    changed = {} if in_file else {"head__weight": None, "head__bias": None}
    path = written(tmp_path / "w.safetensors", tensors(**changed))

    vector = check_public(starting_from(path, fresh="head"), path)
    seeds = pack(build(PROTOCOL.model, n_outputs=1, height=28, width=28))
    head = 2 * 8 + 1  # weights of mean and maximum, and the bias
    assert np.array_equal(vector[-head:], seeds[-head:])
    assert not np.array_equal(vector[:-head], seeds[:-head])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tensors(stem__weight=None), r"w.safetensors: weight stem.weight is missing, 1 in all"),
        (tensors(stem__running_mean=np.zeros(8, np.float32)), r"weight 'stem.running_mean' is none of resnet's"),
        (tensors(head__weight=np.zeros((1, 17), np.float32)), r"weight head.weight: shape \(1, 17\), expected \(1, 16\)"),
        (tensors(head__bias=np.zeros(1, np.int32)), r"weight head.bias: type I32, expected one of F16, F32, F64"),
        (tensors(head__bias=np.full(1, np.nan, np.float32)), r"weight head.bias: holds a number that is not finite"),
        (tensors(head__bias=np.full(1, 1e300)), r"weight head.bias: holds a number that is not finite in float32"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_layers_name(tmp_path: Path, content: Tensors, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        public_vector(PROTOCOL, written(tmp_path / "w.safetensors", content))
    assert refused.value.hint


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", tensors())
    protocol = starting_from(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(MisuseError, match=r"w.safetensors: its SHA-256 begins with [0-9a-f]{16}, not with [0-9a-f]{16}"):
        check_public(protocol, path)


def test_a_file_that_changes_while_it_is_copied_spoils_nothing_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "w.safetensors", tensors())
    initial = starting_from(path).model.initial
    keep_file(tmp_path, path, initial)
    kept = kept_file(tmp_path, initial)
    before = kept.read_bytes()

    def changing(file: Path, wanted: Lineage) -> None:
        file.write_bytes(file.read_bytes() + b" ")  # just after it was found to be the right one

    monkeypatch.setattr(weights, "_check_hash", changing)
    with pytest.raises(MisuseError, match=r"w.safetensors: changed while it was read"):
        keep_file(tmp_path, path, initial)
    assert kept.read_bytes() == before
    assert [each.name for each in kept.parent.iterdir()] == [kept.name]  # nor is half of the other left there


def test_a_section_that_does_not_fit_its_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", tensors())
    other = replace_settings(starting_from(path), {"model.seed": 6, "model.initial.fresh": "head"})

    with pytest.raises(ConfigError, match=r"model\.initial\.model: is not the hash"):
        check_public(other, path)
    with pytest.raises(ConfigError, match="its first weights come from no file"):
        check_public(PROTOCOL, path)
    with pytest.raises(ConfigError, match=r"model\.initial\.fresh: 'tail' is no layer of resnet"):
        public_vector(PROTOCOL, path, fresh="tail")


def header(value: object, *, tail: bytes = b"") -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + tail


HOSTILE = {
    "nothing in it": bytes(16),
    "text": b"never gonna give you up",
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "offsets beyond the end": header({"stem.weight": {"dtype": "F32", "shape": [8, 1, 3, 3], "data_offsets": [0, 288]}}),
    "two tensors in one place": header(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("stem.weight", "head.bias")}, tail=bytes(4)
    ),
    "a shape of trillions": header({"stem.weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, tail=bytes(4)),
    "nested a thousand deep": struct.pack("<Q", 2000) + b"[" * 1000 + b"]" * 1000,
    "a pickle": b"\x80\x04\x95" + bytes(40),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_safetensors_file_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"w\.safetensors: is no safetensors file, or is damaged"):
        public_vector(PROTOCOL, path)


def test_only_a_plain_file_of_bounded_size_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(weights, "MOST_BYTES", 1000)
    large = written(tmp_path / "large", tensors())
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", large):
        with pytest.raises(MisuseError):
            public_vector(PROTOCOL, path)


def test_a_file_that_this_account_may_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    path = written(tmp_path / "w.safetensors", tensors())
    protocol = starting_from(path)
    monkeypatch.setattr(weights, "sha256_file", refuse)
    with pytest.raises(MisuseError, match=r"^w\.safetensors: cannot be read \(PermissionError\)$") as refused:
        check_public(protocol, path)
    assert refused.value.hint


def test_what_is_exported_comes_back_and_names_its_lineage(tmp_path: Path) -> None:
    vector = pack(build(PROTOCOL.model.model_copy(update={"seed": 9}), n_outputs=1, height=28, width=28))
    path = tmp_path / "out.safetensors"
    write_weights(PROTOCOL, vector, path, lineage={"taught on": "phantoms"})

    assert np.array_equal(public_vector(PROTOCOL, path), vector)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"taught on": "phantoms"}


@pytest.mark.parametrize("unit", ["none", "patient"])
def test_what_a_run_released_is_never_taken_for_public(tmp_path: Path, unit: str) -> None:
    """Else what learned from patients without privacy would come back, and begin a private run (privacy.md, rule 12)."""
    vector = pack(build(PROTOCOL.model.model_copy(update={"seed": 9}), n_outputs=1, height=28, width=28))
    path = tmp_path / "out.safetensors"
    write_weights(PROTOCOL, vector, path, lineage={})
    protocol = starting_from(path)
    write_weights(PROTOCOL, vector, path, lineage={"run": "plain-1", "unit": unit})
    told = replace_settings(protocol, {"model.initial.weights": file_hash(path)})

    for read in (lambda: public_vector(PROTOCOL, path), lambda: check_public(told, path)):
        with pytest.raises(ConfigError, match=r"^out\.safetensors: was released by the run 'plain-1': it is not public$") as refused:
            read()
        assert 'model.initial.kind = "run"' in refused.value.hint


@pytest.mark.parametrize("where", ["a weight", "the run"])
def test_a_files_words_do_not_move_the_terminals_cursor(tmp_path: Path, where: str) -> None:
    hostile = "\x1b[2J\x1b[1;32mapproved" + "\u202e" * 1000
    if where == "the run":
        save_file(tensors(), tmp_path / "w.safetensors", metadata={"run": hostile})
    else:
        written(tmp_path / "w.safetensors", tensors() | {hostile: np.zeros(1, np.float32)})
    with pytest.raises(ConfigError) as refused:
        public_vector(PROTOCOL, tmp_path / "w.safetensors")

    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200
    assert "approved" in str(refused.value)


def test_a_protocol_without_public_weights_keeps_its_bytes() -> None:
    assert b"source" not in PROTOCOL.canonical()
    assert b"clipping" not in PROTOCOL.canonical()
    with pytest.raises(FedradError, match="source is required with kind 'public'"):
        replace_settings(PROTOCOL, {"model.initial": {"kind": "public", "model": "0" * 64, "weights": "0" * 64}})
    with pytest.raises(FedradError, match="fresh is forbidden with kind 'random'"):
        replace_settings(PROTOCOL, {"model.initial": {"fresh": "head"}})


@pytest.mark.parametrize("source", ["", " ", "\u00a0\u2003"])
def test_a_blank_source_is_none(source: str) -> None:
    told = {"kind": "public", "model": "0" * 64, "weights": "0" * 64, "source": source}
    with pytest.raises(FedradError, match="source is required with kind 'public'"):
        replace_settings(PROTOCOL, {"model.initial": told})


@pytest.mark.parametrize("source", ["set \U0001d4b3, here", 'in "quotes" \\ and “others”', "Röntgen, 胸部"])
def test_a_source_in_any_script_is_written_as_toml(source: str) -> None:
    told = {"kind": "public", "model": "0" * 64, "weights": "0" * 64, "source": source}
    protocol = replace_settings(PROTOCOL, {"model.initial": told})
    section = "\n".join(render_lineage(protocol.model.initial))

    assert tomllib.loads(section)["model"]["initial"]["source"] == source
    assert parse_protocol(render_protocol(protocol)).hash == protocol.hash


def test_reading_draws_nothing_from_torchs_global_generator(tmp_path: Path) -> None:
    path, state = written(tmp_path / "w.safetensors", tensors()), torch.get_rng_state()
    public_vector(PROTOCOL, path, fresh="head")
    assert torch.equal(state, torch.get_rng_state())
