"""Replay: the stored updates give the stored models, or it says where they do not."""

from pathlib import Path

import pytest
from fakes.coordinator import N_PARAMETERS, World, protocol, unsynced

from fedrad_common.errors import FormatError
from fedrad_common.records import RoundManifest, sign
from fedrad_server.history import read_run
from fedrad_server.layout import read_signed, write_signed
from fedrad_server.replay import Replay, replay
from fedrad_server.retention import Deleted

ADAM = 'strategy = "fedadam", ema = 0.9'

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "echo")


@pytest.mark.parametrize("aggregation", ['strategy = "fedavg"', "momentum = 0.9", ADAM])
def test_a_run_replays_bit_for_bit(world: World, aggregation: str) -> None:
    world.finish(protocol(rounds=3, aggregation=aggregation))
    assert replay(world.directory) == Replay(start=0, rounds=3, equal=True)


def test_a_run_that_is_under_way_replays_as_far_as_it_is(world: World) -> None:
    world.create(protocol()).close()
    assert replay(world.directory) == Replay(start=0, rounds=0, equal=True)


@pytest.mark.parametrize("name", ["updates/bergen.f32", "updates/bergen.json", "model.f32", "state.npz"])
def test_damage_is_named_with_its_round(world: World, name: str) -> None:
    world.finish(protocol(rounds=3))
    path = world.directory / "rounds" / "0002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    outcome = replay(world.directory)

    assert (outcome.equal, outcome.rounds, outcome.first_difference) == (False, 1, 2)
    assert outcome.reason


def test_a_coordinator_that_signs_another_model_than_the_updates_give_is_found(world: World) -> None:
    """Every hash and signature is right; only the arithmetic is not."""
    world.finish(protocol(rounds=2))
    records = read_run(world.directory)
    last = world.directory / "rounds" / "0002"
    (last / "model.f32").write_bytes(records.model(1).tobytes())
    manifest = read_signed(last / "manifest.json").open(RoundManifest, world.key.public, what="manifest")
    forged = manifest.model_copy(update={"model": records.manifests[1].model, "released": records.manifests[1].model})
    write_signed(last / "manifest.json", sign(forged, world.key))

    outcome = replay(world.directory)

    assert (outcome.first_difference, outcome.reason) == (2, "the folded updates do not give the stored model")


def test_where_old_updates_were_deleted_replay_begins_at_a_later_checkpoint(world: World) -> None:
    world.create(protocol(rounds=4, aggregation=ADAM)).close()
    size = sum(path.stat().st_size for path in world.directory.glob("rounds/0000/*") if path.suffix != ".json")
    round_bytes = size + len(world.names) * 4 * N_PARAMETERS
    with world.open(keep_bytes=3 * round_bytes) as run:
        world.play(run)

    assert read_run(world.directory).deleted == Deleted(through=3, before=3)
    assert replay(world.directory) == Replay(start=3, rounds=1, equal=True)


def test_a_float16_run_replays_bit_for_bit_too(world: World) -> None:
    content = protocol(rounds=2).replace(b"retries = 2 }", b'retries = 2, dtype = "float16" }')
    world.finish(content)
    assert len(list(world.directory.glob("rounds/*/updates/*.f16"))) == 2 * 3
    assert replay(world.directory) == Replay(start=0, rounds=2, equal=True)


def test_an_update_that_is_gone_without_word_is_a_difference(world: World) -> None:
    world.finish(protocol(rounds=2))
    (world.directory / "rounds/0001/updates/bergen.f32").unlink()
    assert replay(world.directory).first_difference == 1
    with pytest.raises(FormatError, match=r"0001/updates/bergen\.f32: is missing"):
        read_run(world.directory)
