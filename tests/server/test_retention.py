"""A run's disk stays bounded: what goes first, what never goes, and what a reader of the records is told."""

import shutil
from pathlib import Path

import pytest
from fakes.coordinator import Killed, Site, World, killed_at, numbers, protocol, unsynced

from fedrad_common.errors import MisuseError
from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Order
from fedrad_server.history import read_run
from fedrad_server.replay import Replay, replay
from fedrad_server.retention import KEEP_BYTES, Deleted, plan
from fedrad_server.runs import Run

N_PARAMETERS = 25_000  # 100 kB a model, so that the state beside it hardly counts
MODEL = 4 * N_PARAMETERS
ROUND = 4 * MODEL + 2_000  # three updates and a model, with its state

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "runs" / "echo")


def finish(world: World, *, rounds: int, keep_bytes: int) -> Path:
    Run.create(
        world.directory,
        protocol(rounds=rounds, evaluated=(1,)),
        roster=world.roster,
        key=world.key,
        initial=numbers("initial", size=N_PARAMETERS),
    ).close()
    with world.open(keep_bytes=keep_bytes) as run:
        world.play(run)
    return world.directory


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "rounds").rglob("*") if path.suffix in (".f32", ".npz"))


def kept(folder: Path, pattern: str) -> list[int]:
    return sorted({int(path.relative_to(folder / "rounds").parts[0]) for path in (folder / "rounds").glob(pattern)})


def test_a_small_run_keeps_everything(world: World) -> None:
    folder = finish(world, rounds=4, keep_bytes=KEEP_BYTES)
    assert read_run(folder).deleted == Deleted()
    assert replay(folder) == Replay(start=0, rounds=4, equal=True)


def test_no_round_finds_more_on_the_disk_than_was_granted_its_own_answers_included(world: World) -> None:
    sizes = []

    def watch(site: Site, order: Order, model: Vector) -> list[Answer]:
        sizes.append(size(world.directory))
        return [site.answer(order, model)]

    Run.create(
        world.directory, protocol(rounds=12), roster=world.roster, key=world.key, initial=numbers("initial", size=N_PARAMETERS)
    ).close()
    with world.open(keep_bytes=4 * ROUND) as run:
        world.play(run, ankara=watch)
    sizes.append(size(world.directory))

    assert max(sizes) + ROUND <= 4 * ROUND
    assert max(sizes) > 2 * ROUND  # and not less than there is room for


def test_the_oldest_go_first_and_replay_begins_at_the_oldest_model_that_has_all_later_updates(world: World) -> None:
    folder = finish(world, rounds=12, keep_bytes=4 * ROUND)

    records = read_run(folder)
    through = records.deleted.through
    assert kept(folder, "*/updates/*.f32") == list(range(through + 1, 13))
    assert kept(folder, "*/model.f32") == list(range(records.deleted.before, 13))
    assert records.deleted.before <= through
    assert replay(folder) == Replay(start=through, rounds=12 - through, equal=True)
    assert through < 12


def test_what_was_signed_stays_and_the_whole_run_still_verifies(world: World) -> None:
    folder = finish(world, rounds=12, keep_bytes=4 * ROUND)

    assert kept(folder, "*/manifest.json") == list(range(13))
    assert kept(folder, "*/updates/*.json") == kept(folder, "*/receipts.chain") == list(range(1, 13))
    assert kept(folder, "*/evaluations/*.f32") == [1]
    records = read_run(folder)
    assert len(records.envelopes(1, "train")) == len([r for r in records.receipts(1) if r.kind == "train"]) == 3
    assert len(records.histograms(1)) == 3


def test_the_newest_two_models_stay_however_little_is_granted(world: World) -> None:
    folder = finish(world, rounds=5, keep_bytes=1)
    assert (kept(folder, "*/model.f32"), kept(folder, "*/updates/*.f32")) == ([4, 5], [])
    assert read_run(folder).released(5).size == N_PARAMETERS


def test_a_deleted_model_is_no_damage(world: World) -> None:
    records = read_run(finish(world, rounds=5, keep_bytes=1))
    for read in (records.model, records.released, records.state):
        with pytest.raises(MisuseError, match="round 3: its model was deleted to bound the run's disk") as refusal:
            read(3)
        assert refusal.value.hint == "those of round 4 and later are kept"


def test_each_deletion_is_announced_before_it_is_done(world: World) -> None:
    folder = finish(world, rounds=5, keep_bytes=1)
    events = [entry for entry in read_run(folder).events if entry.type in ("closed", "deleted")]
    assert [entry.body for entry in events if entry.type == "deleted"] == [
        {"through": number, "before": max(number - 1, 0)} for number in range(1, 6)
    ]


def test_a_kill_anywhere_in_a_deletion_leaves_a_run_that_verifies_and_the_next_start_ends_it(world: World, tmp_path: Path) -> None:
    world.finish(protocol(rounds=3))
    for write in range(60):
        folder = shutil.copytree(world.directory, tmp_path / f"kill-{write}" / "echo")
        with pytest.MonkeyPatch.context() as patch, killed_at(write, patch):
            try:
                Run.open(folder, world.key, keep_bytes=1).close()
                break
            except Killed:
                pass
        read_run(folder)
        Run.open(folder, world.key, keep_bytes=1).close()
        assert (kept(folder, "*/updates/*.f32"), kept(folder, "*/model.f32"), kept(folder, "*/state.npz")) == ([], [2, 3], [2, 3])
        assert replay(folder) == Replay(start=3, rounds=0, equal=True)
    assert 13 < write < 59  # nine updates and four files of models were unlinked, each of them once the last thing done


def test_a_plan_without_excess_changes_nothing(world: World) -> None:
    folder = finish(world, rounds=2, keep_bytes=KEEP_BYTES)
    assert plan(folder, 2, Deleted(1, 1), keep_bytes=10 * ROUND) == Deleted(1, 1)
