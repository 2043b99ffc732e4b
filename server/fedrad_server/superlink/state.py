"""Flower's state of nodes, runs and messages, which shares its database and its turns with our store of objects.

Flower hands out an order once and takes one reply. Here neither is lost with a node that is killed at that moment: a node does one thing at
a time, so one that looks for an order has lost what it was given before, and one that replies anew has given up its former upload.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import OBJECT_PUSH_SESSION_TTL_SECONDS
from flwr.supercore.utils import uint64_to_int64

from fedrad_common.errors import DiskError
from fedrad_server.superlink.bounds import PUSHING
from fedrad_server.superlink.objects import FileObjectStore

STALLED = 60.0  # seconds without another piece, after which an upload is not waited for
_IN_VAIN = """
    DELETE FROM object_push_sessions WHERE session_id = :id AND session_id NOT IN (SELECT session_id FROM object_push_session_roots)
"""
# Orders of a node whose pieces are all here still, and to which nobody has replied.
_LOST = """
    UPDATE message_ins SET delivered_at = ''
    WHERE dst_node_id = :node AND delivered_at != '' AND message_id IN (SELECT object_id FROM objects)
    AND message_id NOT IN (SELECT reply_to_message_id FROM message_res)
"""
_UNFINISHED = """
    SELECT reply.message_id AS id, root.session_id AS session FROM message_res AS reply
    JOIN object_push_session_roots AS root ON root.root_object_id = reply.message_id
    JOIN object_push_sessions AS push ON push.session_id = root.session_id
    WHERE reply.reply_to_message_id = :order AND reply.message_id != :id AND push.pending_count > 0
"""
# Replies that nobody has fetched, the oldest first. Flower moves a session's end on with each piece.
_REPLIES = """
    SELECT reply.reply_to_message_id AS answered, EXISTS (
        SELECT 1 FROM object_push_session_roots AS root JOIN object_push_sessions AS push ON push.session_id = root.session_id
        WHERE root.root_object_id = reply.message_id AND push.pending_count > 0
        AND julianday(push.expires_at) > julianday('now') + :left / 86400.0
    ) AS arriving
    FROM message_res AS reply
    WHERE reply.delivered_at = '' AND reply.reply_to_message_id IN (SELECT value FROM json_each(:ids)) ORDER BY reply.rowid
"""


class LinkState(SqlLinkState):  # type: ignore[misc] # Flower's classes are Any to mypy
    """Waits for its turn like the store; an object is checked and written before that. A reply is handed out when it is whole."""

    def __init__(self, database_path: str, federation_manager: Any, object_store: FileObjectStore) -> None:
        super().__init__(database_path, federation_manager, object_store)
        self._turn = object_store.turn
        self._objects = object_store

    @contextmanager
    def session(self) -> Iterator[Any]:
        with self._turn, super().session() as session:
            yield session

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        try:
            with self._objects.beforehand(object_id, object_content):
                return bool(super().store_object(run_id, session_id, object_id, object_content))
        except (ValueError, OSError, DiskError):  # not what its id says, or no room: not stored, as Flower says of its own errors
            return False

    def store_message_and_object_tree(self, message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        stored = False
        try:
            with self.session():
                self._give_up_former(message)
                stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            return stored, missing
        finally:
            if not stored and PUSHING.get():  # Flower begins a session before it looks, and would keep it as long as the run
                self.query(_IN_VAIN, {"id": session_id})

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        """Orders for a node: those that it never saw, and those of which it has confirmed and answered nothing."""
        with self.session():
            self.query(_LOST, {"node": uint64_to_int64(node_id)})
            return list(super().get_message_ins(node_id, limit, run_id=run_id))

    def _give_up_former(self, reply: Message) -> None:
        """Drop an upload that another reply to the same order takes the place of; one that is whole stays."""
        replied, new = reply.metadata.reply_to_message_id, reply.metadata.message_id
        for former in self.query(_UNFINISHED, {"order": replied, "id": new}) if replied else ():
            self.query("DELETE FROM message_res WHERE message_id = :id", {"id": former["id"]})
            self.query("DELETE FROM object_push_sessions WHERE session_id = :id", {"id": former["session"]})
            self._objects.delete(former["id"])

    def get_message_res(self, message_ids: Collection[str], run_id: int) -> list[Message]:
        """At most one reply a call, whose reader takes its time; one that is still being uploaded keeps nobody waiting.

        One whose upload has stalled is handed out too: its reader finds that it is not whole, and gives it up.
        """
        with self.session():
            left = OBJECT_PUSH_SESSION_TTL_SECONDS - STALLED
            replies = self.query(_REPLIES, {"ids": json.dumps(sorted(message_ids)), "left": left})
            whole = [reply["answered"] for reply in replies if not reply["arriving"]]
            later = {reply["answered"] for reply in replies} - set(whole[:1])
            return list(super().get_message_res(set(message_ids) - later, run_id))
