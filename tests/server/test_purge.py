"""Flower's database forgets: after a round its vectors are gone, after a run its messages, after a while its name."""

import shutil

import pytest
from fakes.stage import LENGTH, Stage

from fedrad_server.superlink import purge as purging
from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.superlink.flower import build

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations, a newer alembic


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database as Flower makes it; making one takes longer than a test."""
    folder = tmp_path_factory.mktemp("empty")
    files = SuperLinkFiles(folder / "superlink")
    files.prepare()
    build(files)
    return folder


@pytest.fixture
def stage(empty, tmp_path, monkeypatch):
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    return Stage(tmp_path, monkeypatch)


def test_a_round_that_went_well_leaves_nothing_and_a_long_run_does_not_grow(stage):
    run = stage.start()
    sizes = []
    for _ in range(30):
        order = stage.order(run)
        stage.reply(order, run)
        stage.take(order, run)
        sizes.append((stage.bytes, stage.files.database.stat().st_size))
        stage.purge()

    assert {size for size, _ in sizes} == {0}
    assert sizes[-1][1] == sizes[5][1]
    assert stage.rows("objects") == stage.rows("message_ins") == stage.rows("message_res") == 0


def test_what_is_waited_for_stays_however_long_it_takes(stage):
    run = stage.start()
    stage.order(run)
    for _ in range(3):
        stage.now += 10 * purging.GRACE
        stage.purge()

    assert stage.bytes > LENGTH


def test_an_answer_that_the_coordinator_would_not_read_goes_after_a_while(stage):
    run = stage.start()
    order = stage.order(run)
    stage.reply(order, run)
    stage.state.delete_messages({order.metadata.message_id})  # pulled, never confirmed
    stage.purge()
    stage.now += purging.GRACE - 1
    stage.purge()
    assert stage.bytes > LENGTH, "its pieces may still be fetched"
    stage.now += 1
    stage.purge()

    assert stage.bytes == stage.rows("objects") == 0


def test_an_answer_that_is_just_being_fetched_stays_however_full_the_store_is(stage):
    """Flower deletes a message when it hands it out; its pieces are pulled afterwards."""
    run = stage.start()
    orders = [stage.order(run) for _ in range(3)]
    names = [stage.reply(order, run) for order in orders]
    stage.state.delete_messages({order.metadata.message_id for order in orders})
    stage.objects.total = stage.objects.most_bytes
    for stage.now in range(0, int(purging.GRACE), 5):
        stage.purge()

        assert all(stage.objects.get(name) for name in names)


def test_an_ended_run_leaves_no_message_and_no_vector(stage):
    run = stage.start()
    stage.order(run)
    stage.reply(stage.order(run), run, pieces=False)  # an upload that broke off
    stage.finish()
    assert stage.bytes > 0
    stage.purge()

    assert stage.bytes == 0
    assert [stage.rows(table) for table in ("objects", "run_objects", "message_ins", "message_res", "object_push_sessions")] == [0] * 5


def test_another_run_keeps_its_own(stage):
    stage.start()
    stage.finish()
    run = stage.start()
    order = stage.order(run)
    stage.purge()

    assert stage.bytes > LENGTH
    assert stage.state.get_message_ins(stage.node, limit=1)[0].metadata.message_id == order.metadata.message_id


def test_the_name_of_an_ended_run_is_forgotten_after_a_while(stage, monkeypatch):
    run = stage.start()
    stage.finish()
    stage.purge()
    assert stage.state.get_run_info(run_ids=[run])
    monkeypatch.setattr(purging, "KEEP", -1)
    stage.purge()

    assert not stage.state.get_run_info(run_ids=[run])
    assert [stage.rows(table) for table in ("run", "task", "series_runs", "series_context", "run_series")] == [0] * 5


def test_a_run_that_goes_on_is_never_forgotten(stage, monkeypatch):
    run = stage.start()
    monkeypatch.setattr(purging, "KEEP", -1)
    stage.purge()

    assert stage.state.get_run_info(run_ids=[run])


def test_without_the_purge_flower_keeps_it_all(stage):
    """The positive control: Flower deletes nothing when a run completes."""
    run = stage.start()
    stage.order(run)
    stage.finish()

    assert stage.bytes > LENGTH
    assert stage.rows("message_ins") == 1
