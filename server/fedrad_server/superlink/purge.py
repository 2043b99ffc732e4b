"""Nothing stays in Flower's database that nobody waits for: vectors and messages of ended runs, and what a round left behind.

Flower deletes an object when its receiver confirms it. It keeps for good what is never confirmed: an order to a site that went away, an
answer that the coordinator would not read, an upload that broke off, and everything of a run that has ended. This is called every few
seconds inside the server's process; nobody else has to.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedrad_server.superlink.objects import FileObjectStore

# Seconds for the receiver of a message to fetch its pieces. However full the store is: whose answer is just being fetched cannot be told
# from whose was not wanted.
GRACE = 90.0
KEEP = 600  # seconds for which the name of an ended run can still be asked for
_ENDED = "SELECT run.run_id FROM run JOIN task ON task.task_id = run.primary_task_id WHERE task.finished_at IS NOT NULL"
_OLD = f"{_ENDED} AND julianday(task.finished_at) < julianday('now') - :keep / 86400.0"
# A message's own object has no parent. It is needed while the message is there: undelivered, unanswered or unread.
_ROOTS = """
    SELECT object_id FROM objects WHERE ref_count = 0
    AND object_id NOT IN (SELECT message_id FROM message_ins UNION SELECT message_id FROM message_res)
"""
_ROOTS_OF_RUN = "SELECT object_id FROM objects JOIN run_objects USING (object_id) WHERE run_id = :run AND ref_count = 0"
_LEFT = ("message_ins", "message_res", "run_objects", "object_push_sessions")
# Each table that names a run, children first.
_ROWS = (
    "DELETE FROM task_event WHERE run_id = :run",
    "DELETE FROM task_usage WHERE run_id = :run",
    "DELETE FROM task_message WHERE run_id = :run",
    "DELETE FROM task_logs WHERE task_id IN (SELECT task_id FROM task WHERE run_id = :run)",
    "DELETE FROM task WHERE run_id = :run",
    "DELETE FROM run_connector WHERE run_id = :run",
    "DELETE FROM series_runs WHERE run_id = :run",
    "DELETE FROM run WHERE run_id = :run",
)
_SERIES = "SELECT series_id FROM series_runs"
_EMPTY_SERIES = (
    f"DELETE FROM series_context WHERE series_id NOT IN ({_SERIES})",  # noqa: S608
    f"DELETE FROM compacted_contexts WHERE series_id NOT IN ({_SERIES})",  # noqa: S608
    f"DELETE FROM run_series WHERE series_id NOT IN ({_SERIES})",  # noqa: S608
)


@dataclass
class Purge:
    """`state` is Flower's SqlLinkState over `objects`."""

    state: Any
    objects: FileObjectStore
    clock: Callable[[], float] = time.monotonic
    _unwanted: dict[str, float] = field(default_factory=dict)  # objects that nobody waits for: since when

    def __call__(self) -> None:
        self._empty_ended_runs()
        self._forget_old_runs()
        self._delete_unwanted()

    def _empty_ended_runs(self) -> None:
        for row in self.state.query(_ENDED):
            run = {"run": row["run_id"]}
            if any(self.state.query(f"SELECT 1 FROM {table} WHERE run_id = :run LIMIT 1", run) for table in _LEFT):  # noqa: S608
                for root in self.state.query(_ROOTS_OF_RUN, run):  # each in a turn of its own: Flower would take one for them all
                    self.objects.delete(root["object_id"])
                self.state.cleanup_run(row["run_id"] % 2**64)  # stored signed
                self.state.query("DELETE FROM message_res WHERE run_id = :run", run)

    def _forget_old_runs(self) -> None:
        old = self.state.query(_OLD, {"keep": KEEP})
        if not old:
            return
        with self.state.session():
            for row in old:
                for statement in _ROWS:
                    self.state.query(statement, {"run": row["run_id"]})
            for statement in _EMPTY_SERIES:
                self.state.query(statement)

    def _delete_unwanted(self) -> None:
        now = self.clock()
        roots = [str(row["object_id"]) for row in self.state.query(_ROOTS)]
        self._unwanted = {root: self._unwanted.get(root, now) for root in roots}
        for root in roots:
            if now - self._unwanted[root] >= GRACE:
                self.objects.delete(root)
