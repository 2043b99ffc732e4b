"""Vectors on their way lie in files that are gone when they have arrived."""

import os
import shutil

import pytest

from fedrad_common import messages  # noqa: F401 - first: it switches off what Flower reads at import

# isort: split
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import NoObjectInStoreError

from fedrad_common.errors import DiskError
from fedrad_server.superlink.bounds import PUSHING
from fedrad_server.superlink.objects import FileObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations, a newer alembic


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database as Flower makes it; making one takes longer than a test."""
    folder = tmp_path_factory.mktemp("empty")
    opened(folder)
    return folder / "state.db"


@pytest.fixture
def store(empty, tmp_path):
    shutil.copy(empty, tmp_path)
    return opened(tmp_path)


def opened(folder, **settings):
    made = FileObjectStore(folder / "state.db", folder / "objects", **settings)
    made.open()
    return made


def vector(content: bytes):
    """(tree, id of its root, contents by id) of a record with one array."""
    record = RecordDict({"v": ArrayRecord({"v": Array("float32", (len(content) // 4,), "fedrad", content)})})
    return get_object_tree(record), record.object_id, {name: one.deflate() for name, one in get_all_nested_objects(record).items()}


def stored(store, content: bytes = b"secret--", run: int = 1):
    tree, root, contents = vector(content)
    for name in store.preregister(run, tree):
        store.put(name, contents[name])
    return root, contents


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_what_was_put_is_what_comes_out(store):
    _, contents = stored(store)

    assert {name: store.get(name) for name in contents} == contents
    assert store.total == sum(map(len, contents.values()))


def test_nothing_of_a_vector_is_in_the_database(store, tmp_path):
    stored(store)

    assert not any(b"secret--" in path.read_bytes() for path in tmp_path.glob("state.db*"))


def test_when_its_receiver_has_it_nothing_is_left_on_the_disk(store, tmp_path):
    root, contents = stored(store)
    store.delete(root)

    assert files(store) == []
    assert store.total == 0
    assert [store.get(name) for name in contents] == [None] * len(contents)


def test_a_piece_that_another_message_needs_stays_for_it(store):
    shared, first = stored(store)
    root, _ = stored(store)
    assert shared == root
    other = RecordDict({"again": RecordDictArray(), "x": RecordDictArray(b"other---")})
    for name in store.preregister(1, get_object_tree(other)):
        store.put(name, get_all_nested_objects(other)[name].deflate())
    store.delete(other.object_id)

    assert {name: store.get(name) for name in first} == first


def RecordDictArray(content: bytes = b"secret--"):  # noqa: N802
    return ArrayRecord({"v": Array("float32", (len(content) // 4,), "fedrad", content)})


def test_an_awaited_object_is_empty_and_an_unknown_one_is_none(store):
    tree, root, _ = vector(b"secret--")
    store.preregister(1, tree)

    assert (store.get(root), store.get("0" * 64)) == (b"", None)


def test_what_nobody_announced_or_was_announced_otherwise_is_not_taken(store):
    _, root, contents = vector(b"secret--")
    with pytest.raises(NoObjectInStoreError):
        store.put(root, contents[root])
    with pytest.raises(ValueError, match="its id"):
        store.put("0" * 64, contents[root])

    assert files(store) == []


@pytest.mark.parametrize("name", ["../state.db", "../../etc/passwd", "/etc/passwd", "", "x" * 64])
def test_no_id_leads_out_of_the_folder(store, name):
    before = (store.folder.parent / "state.db").read_bytes()
    store.delete(name)

    assert store.get(name) is None
    with pytest.raises(ValueError, match="id"):
        store.put(name, b"content")
    assert (store.folder.parent / "state.db").read_bytes() == before


def test_a_restart_keeps_what_is_waited_for_and_drops_the_rest(store, tmp_path):
    _, contents = stored(store)
    (store.folder / "ab.tmp").write_bytes(b"an upload that was not complete")
    (store.folder / ("0" * 64)).write_bytes(b"without a row")
    again = opened(tmp_path)

    assert files(again) == sorted(contents)
    assert again.total == store.total


def test_a_file_that_a_power_cut_left_short_counts_as_absent(store):
    _, contents = stored(store)
    name = next(iter(contents))
    os.truncate(store.folder / name, 3)

    assert store.get(name) is None


def test_a_full_store_takes_nothing_more_and_forgets_nothing(store):
    store.most_bytes = 400
    tree, _, contents = vector(b"x" * 1000)
    store.preregister(1, tree)
    large = max(contents, key=lambda name: len(contents[name]))

    with pytest.raises(DiskError, match="full"):
        store.put(large, contents[large])
    assert (store.get(large), files(store)) == (b"", [])


def test_the_objects_of_a_run_go_with_it(store):
    stored(store, b"first---", run=1)
    _, contents = stored(store, b"second--", run=2)
    store.delete_objects_in_run(1)

    assert files(store) == sorted(contents)


def test_one_site_cannot_fill_the_store_for_the_others(empty, tmp_path):
    shutil.copy(empty, tmp_path)
    store = opened(tmp_path, most_bytes=100_000, most_per_site=10_000)
    pushed = {"north": list[str](), "south": list[str]()}
    for number in range(12):
        for site in pushed:
            PUSHING.set(site)
            try:
                pushed[site].append(stored(store, f"{site}{number:03}".encode() * 250)[0])
            except DiskError:
                assert site == "north", "the other's share is full"
            if site == "south":  # its receiver takes each at once
                store.delete(pushed[site][-1])
    PUSHING.set("")

    assert 3 <= len(pushed["north"]) <= 5
    assert len(pushed["south"]) == 12
    assert store.total <= 10_000

    store.delete(pushed["north"][0])
    PUSHING.set("north")
    stored(store, b"there is room again.")
    PUSHING.set("")


def test_the_coordinators_own_orders_are_no_sites_share(empty, tmp_path):
    shutil.copy(empty, tmp_path)
    store = opened(tmp_path, most_per_site=10)

    stored(store)


def test_flower_works_on_a_request_where_the_store_knows_whose_it_is(tmp_path, monkeypatch):
    """Through its own layers and threads."""
    import asyncio

    import httpx
    from fakes.superlink import Site
    from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
    from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
    from flwr.proto.node_pb2 import Node
    from flwr.supercore.protobuf.client import ProtobufRequestContext
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    from fedrad_server.superlink.files import SuperLinkFiles
    from fedrad_server.superlink.flower import build
    from fedrad_server.superlink.guard import PublicGuard
    from fedrad_server.superlink.state import LinkState
    from fedrad_server.superlink.times import SignedTimes

    north, path = Site("north"), "/v1/fleet/push-object"
    files, seen = SuperLinkFiles(tmp_path / "superlink"), []
    files.prepare()
    flower = build(files)
    node = flower.purge.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, north.public.pem.encode(), 30, name="north")
    flower.purge.state.activate_node(node, 30)
    monkeypatch.setattr("flwr.superlink.servicer.fleet.fleet_handlers.check_abort", lambda *arguments: None)
    monkeypatch.setattr(LinkState, "store_object", lambda *arguments: seen.append(PUSHING.get()))
    guard = PublicGuard(flower.app, lambda: {"north": north.public}, lambda site, now: None, SignedTimes(tmp_path / "signed.json", 0.0))
    request = PushObjectRequest(node=Node(node_id=node), run_id=1, object_id="0" * 64, object_content=b"x")
    asked = httpx.Request("POST", f"https://localhost{path}", content=(body := request.SerializeToString()))
    NodeAuthHttpInterceptor(north.key, north.key.public_key()).intercept(
        ProtobufRequestContext("", request, asked), lambda context: httpx.Response(200)
    )
    asked.headers.update({**north.headers(path, body), "content-type": "application/protobuf"})

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard)) as client:
            return await client.send(asked)

    answer = asyncio.run(ask())
    assert (answer.status_code, PushObjectResponse.FromString(answer.content).stored) == (200, False)
    assert seen == ["north"]
