"""A site that is who it says answers its own orders only, with one small tree, and fetches only what was sent to it."""

import asyncio
import base64
import hashlib
import shutil
import threading
import time

import httpx
import pytest
from fakes.stage import Stage
from fakes.superlink import Site

# isort: split
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.superlink.servicer.fleet import fleet_handlers

from fedrad_common.chain import utc_now
from fedrad_server.superlink.bounds import MOST_PER_ANSWER, PUSHING
from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.superlink.fleet import DEEPEST, NotAllowed, check
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


@pytest.fixture
def order(stage, run):
    """For the stage's node."""
    return stage.order(run)


def name(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def push(node: int, reply, *, tree: ObjectTree | None = None, times: int = 1) -> PushMessagesRequest:
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        tree = get_object_tree(reply) if tree is None else tree
        proto = message_to_proto(remove_content_from_message(reply))
    return PushMessagesRequest(node=Node(node_id=node), messages_list=[proto] * times, message_object_trees=[tree] * times)


def wide(root: str, n_objects: int) -> ObjectTree:
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=name(root, number)) for number in range(n_objects - 1)])


def deep(root: str, levels: int) -> ObjectTree:
    return ObjectTree(object_id=root, children=[deep(name(root), levels - 1)] if levels > 1 else [])


def everything(stage) -> list:
    return [(table, stage.rows(table)) for table in ("objects", "run_objects", "message_ins", "message_res", "object_push_sessions")]


def test_what_our_node_asks_passes(stage, run, order):
    pulled = PullObjectRequest(node=Node(node_id=stage.node), run_id=run, object_id=order.object_id)
    confirmed = ConfirmMessageReceivedRequest(node=Node(node_id=stage.node), run_id=run, message_object_id=order.object_id)
    assert check(pulled, stage.state) is None
    assert all(check(PullObjectRequest(node=pulled.node, object_id=piece), stage.state) is None for piece in pieces(order))
    assert check(confirmed, stage.state) is None
    request = push(stage.node, stage.answer(order, run))
    assert check(request, stage.state) is None
    assert check(confirmed, stage.state) is None, "again: the answer to the first time was lost"
    found = fleet_handlers.push_messages(request, stage.state)
    assert check(request, stage.state) is None, "again, as a retry is"
    assert fleet_handlers.push_messages(request, stage.state).objects_to_push == found.objects_to_push


def pieces(message) -> list[str]:
    with no_object_id_recompute():
        open_trees, found = [get_object_tree(message)], []
    while open_trees:
        tree = open_trees.pop()
        open_trees += tree.children
        found.append(tree.object_id)
    return found


def test_nobody_answers_another_sites_order(stage, run, order):
    evil = stage.join("evil")
    request = push(evil, stage.answer(order, run))
    with pytest.raises(NotAllowed):
        check(request, stage.state)
    for answered, claimed in ((order, evil), (stage.order(run, evil), stage.node)):
        other = stage.message(run, reply_to=answered)
        other.metadata.__dict__["_src_node_id"] = claimed
        with pytest.raises(NotAllowed):
            check(push(evil, other), stage.state)

    # The positive control: Flower's own handler takes what is signed by one node and says that it is another's.
    assert fleet_handlers.push_messages(request, stage.state).objects_to_push
    assert stage.rows("message_res") == 1


def test_no_node_sends_an_order(stage, run):
    evil = stage.join("evil")
    forged = stage.message(run, dst_node_id=stage.node, message_type="train", ttl=60.0)
    request = push(evil, forged)
    with pytest.raises(NotAllowed):
        check(request, stage.state)

    fleet_handlers.push_messages(request, stage.state)  # the positive control
    assert stage.state.get_message_ins(stage.node, limit=1)[0].metadata.message_id == forged.object_id


def test_nobody_pulls_or_deletes_what_was_sent_to_or_by_another_site(stage, run, order):
    evil = stage.join("evil")
    stage.order(run, evil)
    answer = stage.message(run, source=stage.node, reply_to=order)
    stage.push(answer)
    theirs = [*pieces(order), *pieces(answer)]
    for piece in theirs:
        found = check(PullObjectRequest(node=Node(node_id=evil), run_id=run, object_id=piece), stage.state)
        assert found is not None
        assert not found.object_found
    for root in (order.object_id, answer.object_id):
        with pytest.raises(NotAllowed):
            check(ConfirmMessageReceivedRequest(node=Node(node_id=evil), run_id=run, message_object_id=root), stage.state)

    # The positive control.
    for piece in theirs:
        request = PullObjectRequest(node=Node(node_id=evil), run_id=run, object_id=piece)
        assert fleet_handlers.pull_object(request, stage.state).object_content
    request = ConfirmMessageReceivedRequest(node=Node(node_id=evil), run_id=run, message_object_id=order.object_id)
    fleet_handlers.confirm_message_received(request, stage.state, stage.objects)
    assert order.object_id not in stage.objects


def test_a_reply_to_an_order_that_is_gone_leaves_no_trace(stage, run, order):
    """Such a one is honest: it came too late. Flower itself keeps a row of each."""
    answer = stage.answer(order, run)
    stage.state.delete_messages({order.object_id})
    request, before = push(stage.node, answer), everything(stage)
    assert check(request, stage.state) is None
    token = PUSHING.set("north")
    assert not fleet_handlers.push_messages(request, stage.state).objects_to_push
    PUSHING.reset(token)

    assert everything(stage) == before


@pytest.mark.parametrize(
    "tree",
    [
        lambda root: wide(root, 17 + MOST_PER_ANSWER // 2**20),
        lambda root: deep(root, DEEPEST + 1),
        lambda root: ObjectTree(object_id=name("another")),
        lambda root: ObjectTree(),
    ],
)
def test_a_tree_that_no_answer_has_is_refused(stage, run, order, tree):
    answer = stage.answer(order, run)
    with pytest.raises(NotAllowed):
        check(push(stage.node, answer, tree=tree(answer.object_id)), stage.state)


def test_one_message_with_one_tree_is_pushed_at_a_time(stage, run, order):
    answer = stage.answer(order, run)
    for times in (0, 2):
        with pytest.raises(NotAllowed):
            check(push(stage.node, answer, times=times), stage.state)


def test_a_reply_has_one_tree_and_one_order(stage, run, order):
    answer = stage.answer(order, run)
    request = push(stage.node, answer, tree=wide(answer.object_id, 5))
    assert check(request, stage.state) is None
    fleet_handlers.push_messages(request, stage.state)
    before = everything(stage)
    other = push(stage.node, answer, tree=wide(answer.object_id, 6))
    token = PUSHING.set("north")
    with pytest.raises(ValueError, match="other children"):
        fleet_handlers.push_messages(other, stage.state)
    PUSHING.reset(token)
    assert everything(stage) == before

    again = push(stage.node, answer)
    again.messages_list[0].metadata.reply_to_message_id = stage.order(run).object_id
    again.message_object_trees[0].CopyFrom(wide(answer.object_id, 5))
    with pytest.raises(NotAllowed):
        check(again, stage.state)


def waited(stage, work) -> tuple[float, float]:
    """Seconds that `work` takes, and the longest of a site's heartbeats meanwhile."""
    beats, ended = [], threading.Event()
    other = stage.join("other")

    def beat() -> None:
        while not ended.is_set():
            began = time.monotonic()
            stage.state.acknowledge_node_heartbeat(other, 30)
            beats.append(time.monotonic() - began)

    thread = threading.Thread(target=beat)
    thread.start()
    began = time.monotonic()
    try:
        work()
    finally:
        took = time.monotonic() - began
        ended.set()
        thread.join()
    return took, max(beats)


def refused(request, stage) -> None:
    with pytest.raises(NotAllowed):
        check(request, stage.state)


def test_a_hundred_thousand_objects_keep_nobody_waiting(stage, run, order):
    answer = stage.answer(order, run)
    request = push(stage.node, answer, tree=wide(answer.object_id, 120_000))
    before = everything(stage)

    took, longest = waited(stage, lambda: refused(request, stage))

    assert took < 2  # 0.1 s on a machine with nothing else to do; Flower alone takes minutes
    assert longest < 2
    assert everything(stage) == before


def test_the_largest_tree_that_is_allowed_takes_a_few_statements_and_so_does_its_end(stage, run, order, monkeypatch):
    """Flower alone takes five for each object, in one turn, and as many to delete it."""
    answer = stage.answer(order, run)
    request = push(stage.node, answer, tree=wide(answer.object_id, 16 + MOST_PER_ANSWER // 2**20))
    assert check(request, stage.state) is None
    statements, ask = [], stage.objects.query
    monkeypatch.setattr(stage.objects, "query", lambda *asked: statements.append(asked) or ask(*asked))

    fleet_handlers.push_messages(request, stage.state)
    assert stage.rows("objects") > 500
    assert stage.objects.get_object_tree(answer.object_id) == ObjectTree(
        object_id=answer.object_id, children=sorted(request.message_object_trees[0].children, key=lambda child: child.object_id)
    )
    stage.objects.delete(answer.object_id)
    assert stage.rows("objects") == 0
    assert len(statements) < 30


def test_the_rules_stand_behind_flowers_authentication_and_before_its_handlers(stage, run, order):
    """Over HTTP, through Flower's own application, as the guard hands it on."""
    site = Site("evil")
    evil = stage.join("evil", site.public.pem.encode())

    def ask(call: str, request):
        stamp = utc_now().isoformat()
        signed = {"flwr-timestamp": stamp, "flwr-signature": base64.b64encode(sign_message(site.key, stamp.encode())).decode()}
        headers = {"content-type": "application/protobuf", **site.headers("/"), **signed}

        async def post():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.app), base_url="http://server") as client:
                return await client.post(f"/v1/fleet/{call}", content=request.SerializeToString(), headers=headers)

        return asyncio.run(post())

    assert ask("push-messages", push(evil, stage.message(run, source=stage.node, reply_to=order))).status_code == 403
    assert stage.rows("message_res") == 0
    piece = PullObjectRequest(node=Node(node_id=evil), run_id=run, object_id=order.object_id)
    answer = ask("pull-object", piece)
    assert (answer.status_code, PullObjectResponse.FromString(answer.content).object_found) == (200, False)
    own = stage.order(run, evil)
    piece.object_id = own.object_id
    assert PullObjectResponse.FromString(ask("pull-object", piece).content).object_content
    wanted = PushMessagesResponse.FromString(ask("push-messages", push(evil, stage.answer(own, run))).content)
    assert wanted.objects_to_push
    assert ask("pull-messages", PullMessagesRequest(node=Node(node_id=stage.node))).status_code == 401, (
        "who it says it is, is Flower's part"
    )
