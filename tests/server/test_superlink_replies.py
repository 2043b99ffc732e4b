"""The coordinator's program is given whole answers, one at a time, and waits for nobody's upload."""

import shutil
import time
from types import SimpleNamespace

import pytest
from fakes.stage import LENGTH, Stage

# isort: split
from flwr.superlink.servicer.runtime import runtime_handlers

from fedrad_common import messages
from fedrad_common.records import Answer
from fedrad_server.app.sites import GridSites, _Asked
from fedrad_server.app.task import BoundedGrid
from fedrad_server.superlink import state as states
from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.superlink.flower import build

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations, a newer alembic


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    files = SuperLinkFiles(folder / "superlink")
    files.prepare()
    build(files)
    return folder


@pytest.fixture
def stage(empty, tmp_path, monkeypatch):
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def run(stage):
    return stage.start()


def given(stage, run, *orders) -> list[str]:
    """Which of the orders are answered, by one request of the coordinator's program."""
    found = stage.state.get_message_res({order.metadata.message_id for order in orders}, run)
    answered = [reply.metadata.reply_to_message_id for reply in found]
    stage.state.delete_messages(set(answered))  # as Flower's handler does
    return answered


def test_an_upload_that_goes_on_is_not_seen_and_delays_no_other(stage, run):
    south = stage.join("south")
    slow, quick = stage.order(run), stage.order(run, south)
    upload = stage.announce(stage.answer(slow, run))
    assert given(stage, run, slow, quick) == []
    upload.send(2)
    stage.reply(quick, run)
    assert given(stage, run, slow, quick) == [quick.metadata.message_id]
    assert given(stage, run, slow) == []

    upload.send()
    assert given(stage, run, slow) == [slow.metadata.message_id]


def test_whole_answers_are_given_one_at_a_time_in_the_order_in_which_they_came(stage, run):
    orders = [stage.order(run, stage.join(name)) for name in "abc"]
    for order in reversed(orders):
        stage.reply(order, run)

    while orders:
        assert given(stage, run, *orders) == [orders.pop().metadata.message_id]


def test_an_upload_without_another_piece_for_a_minute_is_given_up(stage, run, monkeypatch):
    order = stage.order(run)
    upload = stage.announce(stage.answer(order, run))
    upload.send(1)
    assert given(stage, run, order) == []
    monkeypatch.setattr(states, "STALLED", -1.0)

    assert given(stage, run, order) == [order.metadata.message_id]


def test_flower_itself_gives_an_answer_of_which_no_piece_is_there(stage, run):
    """The positive control: its reader would wait for the pieces."""
    order = stage.order(run)
    stage.announce(stage.answer(order, run))
    found = super(states.LinkState, stage.state).get_message_res({order.metadata.message_id}, run)

    assert [reply.metadata.reply_to_message_id for reply in found] == [order.metadata.message_id]


def test_an_order_that_died_with_the_node_that_fetched_it_is_handed_out_again(stage, run):
    """A node looks for orders only while it is at work on none."""
    order = stage.order(run)
    lost = stage.look()
    assert stage.look() == lost == [order.metadata.message_id]
    stage.reply(order, run)

    assert stage.look() == []


def test_an_order_that_was_fetched_whole_is_not_handed_out_again(stage, run):
    """Its pieces are gone; the node has it on disk, and says that it was interrupted."""
    stage.answer(stage.order(run), run)

    assert stage.look() == []


def test_another_node_is_not_given_what_one_lost(stage, run):
    stage.order(run)
    stage.look()

    assert stage.look(stage.join("south")) == []


def test_flower_itself_hands_out_an_order_once(stage, run):
    """The positive control: the node that was killed with it in hand is asked nothing until the round's deadline."""
    stage.order(run)
    for expected in (1, 0):
        assert len(super(states.LinkState, stage.state).get_message_ins(stage.node, limit=1)) == expected


def test_a_site_that_was_killed_while_it_uploaded_may_reply_anew(stage, run):
    order = stage.order(run)
    stage.announce(stage.answer(order, run)).send(1)
    before = stage.bytes
    word = stage.push(stage.message(run, source=stage.node, reply_to=order))

    [found] = stage.state.get_message_res({order.metadata.message_id}, run)
    assert found.metadata.message_id == word
    assert before > 0
    assert (stage.rows("message_res"), stage.rows("object_push_sessions")) == (1, 0)
    stage.state.delete_messages({order.metadata.message_id})
    stage.objects.delete(word)
    assert stage.bytes == 0, "nothing of the first upload stays"


def test_a_whole_answer_is_not_replaced(stage, run):
    order = stage.order(run)
    first = stage.reply(order, run)
    with pytest.raises(AssertionError):
        stage.push(stage.message(run, source=stage.node, reply_to=order))

    assert [reply.metadata.message_id for reply in stage.state.get_message_res({order.metadata.message_id}, run)] == [first]


def test_a_site_that_never_finishes_makes_no_other_late(stage, run):
    """The whole way: Flower's handlers, the coordinator's Grid, and the names of sites."""
    task = SimpleNamespace(run_id=run)
    grid = BoundedGrid("127.0.0.1:1", "token", most_bytes=messages.most_bytes(LENGTH))
    grid._client = SimpleNamespace(
        PullMessages=lambda request: runtime_handlers.pull_messages(request, stage.state, task),
        PullObject=lambda request: runtime_handlers.pull_object(request, stage.state, task),
        ConfirmMessageReceived=lambda request: runtime_handlers.confirm_message_received(request, stage.state, task),
    )
    orders = {"north": stage.order(run), "south": stage.order(run, stage.join("south"))}
    sites = GridSites(grid, lifetime=600.0)
    sites._open = {order.metadata.message_id: _Asked(name, 0) for name, order in orders.items()}
    sites._orders[0] = ""
    stage.announce(stage.answer(orders["north"], run)).send(2)
    stage.reply(orders["south"], run)
    began = time.monotonic()

    assert sites.poll(0.0) == [("south", Answer())]  # no answer of ours in form: what it is does not matter here
    assert sites.poll(0.0) == []
    assert time.monotonic() - began < 5
