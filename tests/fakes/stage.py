"""Flower's own state in our store, with one node and one run at a time: what a server holds, without its sockets."""

from dataclasses import dataclass

from fedrad_common import messages  # noqa: F401 - first: it switches off what Flower reads at import

# isort: split
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.task_identity import TaskIdentity

from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.superlink.flower import build

LENGTH = 50_000  # bytes of a vector


class Stage:
    """Flower's own state in our store, with one node and one run at a time."""

    def __init__(self, folder, monkeypatch):
        self.files = SuperLinkFiles(folder / "superlink")
        self.files.prepare()
        self.monkeypatch, self.now = monkeypatch, 0.0
        flower = build(self.files)
        self.state, self.purge = flower.purge.state, flower.purge
        self.purge.clock = lambda: self.now
        self.objects = self.purge.objects
        self.app = flower.app
        self.node = self.join("north")
        self.count = 0

    def join(self, name: str, key: bytes = b"") -> int:
        node = int(self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key or name.encode(), 1000, name=name))
        self.state.activate_node(node, 1000)
        return node

    def start(self) -> int:
        """A run whose task is claimed and running."""
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab
        from flwr.supercore.auth.typing import AccountInfo
        from flwr.superlink.servicer.control.control_handlers import start_run

        from fedrad_common.bundle import HASH, stub

        request = StartRunRequest(fab=Fab(hash_str=HASH, content=stub()))
        run = int(start_run(request, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME), self.state, None).run_id)
        self.task = self.state.get_run_info(run_ids=[run])[0].primary_task_id
        self.state.claim_task(self.task)
        self.state.activate_task(self.task)
        return run

    def finish(self) -> None:
        assert self.state.finish_task(self.task, SubStatus.COMPLETED, "")

    def message(self, run: int, **options) -> Message:
        self.count += 1
        content = self.count.to_bytes(4, "big") * (LENGTH // 4)
        record = RecordDict({"v": ArrayRecord({"v": Array("float32", (LENGTH // 4,), "fedrad", content)})})
        for name, value in (("_run_id", run), ("_node_id", options.pop("source", SUPERLINK_NODE_ID)), ("_task_id", self.task)):
            self.monkeypatch.setattr(TaskIdentity, name, value)
        return Message(record, **options)

    def announce(self, message: Message) -> "Upload":
        message.metadata.__dict__["_message_id"] = message.object_id
        run = message.metadata.run_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(message), get_all_nested_objects(message)
            session = self.state.start_session(run)
            stored, missing = self.state.store_message_and_object_tree(remove_content_from_message(message), tree, session)
            assert stored
            return Upload(self, run, session, {name: objects[name].deflate() for name in missing})

    def push(self, message: Message, *, pieces: bool = True) -> str:
        upload = self.announce(message)
        if pieces:
            upload.send()
        return message.object_id

    def order(self, run: int, node: int | None = None) -> Message:
        made = self.message(run, dst_node_id=node or self.node, message_type="train", ttl=3600.0)
        self.push(made)
        return made

    def look(self, node: int | None = None) -> list[str]:
        """What a node is given that asks for orders."""
        return [found.metadata.message_id for found in self.state.get_message_ins(node or self.node, limit=1)]

    def answer(self, order: Message, run: int) -> Message:
        """What its node would push."""
        node = order.metadata.dst_node_id
        [pulled] = self.state.get_message_ins(node, limit=1)
        self.objects.delete(pulled.metadata.message_id)  # as the node's confirmation does
        return self.message(run, source=node, reply_to=order)

    def reply(self, order: Message, run: int, **options) -> str:
        return self.push(self.answer(order, run), **options)

    def take(self, order: Message, run: int) -> None:
        """As the coordinator's program does: pull the answer, confirm it."""
        [found] = self.state.get_message_res({order.metadata.message_id}, run)
        self.state.delete_messages({order.metadata.message_id})
        self.objects.delete(found.metadata.message_id)

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.objects.iterdir())

    def rows(self, table: str) -> int:
        return int(self.state.query(f"SELECT count(*) AS n FROM {table}")[0]["n"])


@dataclass
class Upload:
    """A message that is announced, and the pieces that are awaited."""

    stage: Stage
    run: int
    session: str
    pieces: dict[str, bytes]

    def send(self, most: int | None = None) -> None:
        for name in list(self.pieces)[:most]:
            assert self.stage.state.store_object(self.run, self.session, name, self.pieces.pop(name))
