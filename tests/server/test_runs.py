"""A run's folder: created whole, locked, verified, and never anybody else's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import N_PARAMETERS, World, honest, numbers, protocol, unsynced

from fedrad_common.errors import BusyError, ChainError, ConfigError, FedradError, FormatError, MisuseError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol, render_protocol, replace_settings
from fedrad_common.records import Envelope, sign
from fedrad_server import history
from fedrad_server.history import read_run
from fedrad_server.layout import read_signed, write_signed
from fedrad_server.runs import Run

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "runs" / "echo")


def test_a_new_run_has_an_id_a_signed_launch_and_round_zero(world: World) -> None:
    with world.create(protocol()) as run:
        records = read_run(world.directory)
    assert records.launch.run.startswith("echo-")
    assert records.launch.roster == world.roster
    assert (records.round, records.epoch, run.epoch) == (0, 1, 1)
    assert records.model(0).tolist() == numbers("initial", size=N_PARAMETERS).tolist()
    assert (world.directory / "protocol.toml").read_bytes() == protocol()


def test_two_runs_of_one_protocol_have_different_ids(world: World, tmp_path: Path) -> None:
    with world.create(protocol()) as one, World(tmp_path / "other").create(protocol()) as other:
        assert one.launch.run != other.launch.run


def test_a_folder_that_holds_something_is_left_alone(world: World) -> None:
    world.directory.mkdir(parents=True)
    (world.directory / "notes.txt").write_text("mine")
    with pytest.raises(MisuseError, match="echo: exists already"):
        world.create(protocol())
    assert [path.name for path in world.directory.parent.rglob("*")] == ["echo", "notes.txt"]


@pytest.mark.parametrize(
    ("content", "initial", "error", "words"),
    [
        (protocol().replace(b"retries", b"retrys"), np.zeros(3, np.float32), ConfigError, "protocol.toml: rounds.retrys: unknown key"),
        (protocol(quorum=4), np.zeros(3, np.float32), MisuseError, "rounds.quorum: 4 of 3 sites"),
        (protocol(), np.float32([1, np.nan]), MisuseError, "initial model"),
        (protocol(), np.zeros(3), MisuseError, "initial model"),
        (protocol(), np.zeros(0, np.float32), MisuseError, "initial model"),
    ],
)
def test_a_launch_that_cannot_work_leaves_nothing_behind(
    world: World, content: bytes, initial: np.ndarray, error: type[FedradError], words: str
) -> None:
    with pytest.raises(error, match=words):
        Run.create(world.directory, content, roster=world.roster, key=world.key, initial=initial)
    assert not world.directory.parent.exists() or list(world.directory.parent.iterdir()) == []


def test_a_part_is_not_continued_as_a_whole(world: World) -> None:
    """Whole networks and parts have other lengths: no site could answer such a run, and its order would be refused in every round."""
    whole = parse_protocol(protocol().replace(b'"linear" }', b'"linear", options = { length = 20 } }'))
    part = numbers("a part", size=12)
    lineage = {"kind": "run", "model": vector_hash(part), "protocol": "0" * 64, "unit": "none"}
    content = render_protocol(replace_settings(whole, {"model.initial": lineage}))
    with pytest.raises(MisuseError, match=r"model\.initial: that run released 12 numbers, and this protocol's network has 20") as refused:
        Run.create(world.directory, content, roster=world.roster, key=world.key, initial=part)
    assert "public weights" in refused.value.hint
    assert not world.directory.exists()

    fitting = replace_settings(whole, {"model.options.length": 12, "model.initial": lineage})
    Run.create(world.directory, render_protocol(fitting), roster=world.roster, key=world.key, initial=part).close()


def test_one_process_at_a_time(world: World) -> None:
    with world.create(protocol()), pytest.raises(BusyError, match="run echo is in use"):
        world.open()


def test_every_opening_is_a_new_epoch(world: World) -> None:
    world.create(protocol()).close()
    with world.open() as run:
        assert run.epoch == 2
    assert read_run(world.directory).epoch == 2


def test_another_coordinators_key_opens_nothing(world: World) -> None:
    world.create(protocol()).close()
    with pytest.raises(MisuseError, match="another coordinator"):
        Run.open(world.directory, SigningKey.generate())
    with world.open() as run:
        assert run.epoch == 2  # the failed try was no epoch


def test_a_folder_that_is_no_run_is_named_as_such_and_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="is no run"):
        Run.open(tmp_path, SigningKey.generate())
    assert list(tmp_path.iterdir()) == []


def test_a_running_run_can_be_read(world: World) -> None:
    with world.create(protocol()):
        assert read_run(world.directory).round == 0


@pytest.mark.parametrize(
    "name",
    [
        "launch.json",
        "protocol.toml",
        "protocol.json",
        "events.chain",
        "rounds/0000/model.f32",
        "rounds/0001/manifest.json",
        "rounds/0001/model.f32",
        "rounds/0001/released.f32",
        "rounds/0001/state.npz",
        "rounds/0001/receipts.chain",
        "rounds/0001/updates/bergen.f32",
        "rounds/0001/updates/bergen.json",
        "rounds/0001/evaluations/bergen.f32",
    ],
)
def test_damage_to_any_file_is_found(world: World, name: str) -> None:
    world.finish(protocol(rounds=2, evaluated=(1,), aggregation="ema = 0.5"))
    path = world.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises((FormatError, ConfigError)):
        read_run(world.directory)


def test_an_update_swapped_for_another_signed_one_is_found(world: World) -> None:
    """The site's signature fits, the manifest does not."""
    world.finish(protocol(rounds=1))
    folder = world.directory / "rounds" / "0001" / "updates"
    envelope = read_signed(folder / "cadiz.json").peek(Envelope, what="envelope")
    other = numbers("other", size=N_PARAMETERS)
    changed = envelope.model_copy(update={"payload": vector_hash(other)})
    (folder / "cadiz.f32").write_bytes(other.tobytes())
    write_signed(folder / "cadiz.json", sign(changed, world.sites["cadiz"].key))

    with pytest.raises(FormatError, match="round 1: update of cadiz: is not the one in the signed manifest"):
        read_run(world.directory)


def test_an_accepted_answer_that_is_gone_is_missed(world: World) -> None:
    world.finish(protocol(rounds=1))
    (world.directory / "rounds/0001/updates/cadiz.json").unlink()
    with pytest.raises(FormatError, match="round 1: update of cadiz"):
        read_run(world.directory)


def test_a_manifest_of_another_run_does_not_fit_the_chain(world: World, tmp_path: Path) -> None:
    world.finish(protocol(rounds=1))
    other = World(tmp_path / "other", key=world.key)
    other.sites = world.sites
    other.finish(protocol(rounds=1))
    shutil.copy(other.directory / "rounds/0001/manifest.json", world.directory / "rounds/0001/manifest.json")

    with pytest.raises(FormatError, match=r"round 1: manifest\.json: does not follow"):
        read_run(world.directory)


def test_a_lost_manifest_in_the_middle_is_no_shorter_run(world: World) -> None:
    world.finish(protocol(rounds=3))
    (world.directory / "rounds/0002/manifest.json").unlink()
    with pytest.raises(FormatError, match=r"round 2: manifest\.json: is missing"):
        read_run(world.directory)


def test_shortened_events_are_refused(world: World) -> None:
    world.finish(protocol(rounds=1))
    path = world.directory / "events.chain"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ChainError):
        world.open()


def test_an_evaluation_that_is_gone_is_missed(world: World) -> None:
    """No manifest names it, but its receipt does."""
    world.finish(protocol(rounds=1, evaluated=(1,)))
    (world.directory / "rounds/0001/evaluations/cadiz.json").unlink()
    with pytest.raises(FormatError, match="round 1: cadiz: an answer is not the one"):
        read_run(world.directory)


def test_receipts_are_signed_and_name_what_was_accepted(world: World) -> None:
    world.finish(protocol(rounds=1, evaluated=(1,)))
    records = read_run(world.directory)
    receipts = records.receipts(1)
    assert [(receipt.site, receipt.kind) for receipt in receipts] == [
        (site, kind) for kind in ("train", "evaluate") for site in world.names
    ]
    assert receipts[0].payload == records.manifests[1].updates["ankara"]


def test_the_result_is_the_released_model_and_says_what_it_is(world: World) -> None:
    world.finish(protocol(rounds=2, aggregation="ema = 0.9"))
    records = read_run(world.directory)
    result = json.loads((world.directory / "result" / "result.json").read_bytes())
    assert (world.directory / "result" / "model.f32").read_bytes() == records.released(2).tobytes()
    assert result == {
        "format": "fedrad-result-1", "run": records.launch.run, "protocol": records.protocol.hash, "rounds": 2,
        "model": records.manifests[2].released, "length": N_PARAMETERS, "manifest": records.head, "seeded": False,
    }  # fmt: skip


def test_no_temporary_file_is_left(world: World) -> None:
    world.finish(protocol(rounds=2))
    assert not list(world.directory.parent.rglob(".*"))


def test_a_new_run_knows_each_sites_last_answer_even_of_one_that_was_silent_at_the_end(world: World) -> None:
    """Its site compares it with its own ledger: an older answer would prove less, and none proves nothing."""
    silent_later = lambda site, order, model: honest(site, order, model) if order.round == 1 else []  # noqa: E731
    world.finish(protocol(rounds=4), bergen=silent_later)
    last = {name: site.sequence for name, site in world.sites.items()}
    following = replace(world, directory=world.directory.parent / "following")
    following.sites = world.sites

    with following.create(protocol(rounds=4)) as run:
        held = {name: signed.peek(Envelope, what="envelope").sequence for name, signed in run.witnesses.items()}
    assert held == last
    assert held["bergen"] < held["ankara"]


def test_a_round_that_is_closed_while_the_run_is_read_leaves_no_gap(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.finish(protocol(rounds=2))
    last = world.directory / "rounds" / "0002" / "manifest.json"
    hidden, folder = last.rename(tmp_path / "hidden.json"), history.round_folder

    def closed_just_now(run: Path, number: int) -> Path:
        if number == 2 and hidden.exists():
            hidden.rename(last)
            return tmp_path  # as it was when somebody looked
        return folder(run, number)

    monkeypatch.setattr(history, "round_folder", closed_just_now)

    assert history.read_run(world.directory, files=False).round == 1
