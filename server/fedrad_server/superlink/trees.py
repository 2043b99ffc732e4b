"""Trees of objects, announced, read and removed a level at a time: Flower does it object by object, while everybody else waits for a turn.

The rules are Flower's own: an id is a SHA-256, an object that is known keeps the children that it was announced with, and one that
something else names stays. A list of ids travels as JSON, for SQLite takes a limited number of parameters.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.utils import uint64_to_int64

ID = re.compile("[0-9a-f]{64}")  # stricter than Flower, which lets 0x and blanks pass: an id becomes the name of a file
Query = Callable[..., list[dict[str, Any]]]  # Flower's; the caller holds a session, which makes it one transaction
_IDS = "(SELECT value FROM json_each(:ids))"
_AVAILABLE = f"SELECT object_id, is_available FROM objects WHERE object_id IN {_IDS}"  # noqa: S608
_UNNAMED = f"SELECT object_id FROM objects WHERE ref_count = 0 AND object_id IN {_IDS}"  # noqa: S608
_EDGES = f"SELECT parent_id, child_id FROM object_children WHERE parent_id IN {_IDS}"  # noqa: S608
_ADD = "INSERT INTO objects (object_id, content, is_available, ref_count) SELECT value, x'', 0, 0 FROM json_each(:ids)"
_ADD_EDGE = "INSERT INTO object_children (parent_id, child_id) VALUES (:parent, :child)"
_COUNT = "UPDATE objects SET ref_count = ref_count + :more WHERE object_id = :id"
_OF_RUN = "INSERT OR IGNORE INTO run_objects (run_id, object_id) SELECT :run, value FROM json_each(:ids)"
_DELETE = f"DELETE FROM objects WHERE object_id IN {_IDS}"  # noqa: S608 # what belongs to them goes by itself


def announce(query: Query, run: int, tree: ObjectTree) -> list[str]:
    """Make rows of a tree; the ids whose content is awaited, children first.

    Raises:
        ValueError: an id is none, or an object has other children than it was announced with.
    """
    children = _children(tree)
    known = {row["object_id"]: row["is_available"] for row in query(_AVAILABLE, _ids(children))}
    before = _edges(query, known)
    if any(before.get(name, set()) != set(children[name]) for name in known):
        raise ValueError("an object was announced with other children")
    new = [name for name in children if name not in known]
    if new:
        query(_ADD, _ids(new))
        _each(query, _ADD_EDGE, [{"parent": name, "child": child} for name in new for child in children[name]])
        named = Counter(child for name in new for child in children[name])
        _each(query, _COUNT, [{"id": name, "more": more} for name, more in named.items()])
    query(_OF_RUN, {"run": uint64_to_int64(run), **_ids(children)})
    return [name for name in children if not known.get(name)]


def read(query: Query, root: str) -> ObjectTree | None:
    """None where the root is unknown."""
    if not query(_AVAILABLE, _ids([root])):
        return None
    edges: dict[str, set[str]] = {}
    level = {root}
    while level:
        found = _edges(query, level)
        edges |= found
        level = set().union(*found.values()) - edges.keys()
    return _tree(root, edges)


def remove(query: Query, root: str) -> list[str]:
    """Delete an object and what only it names; the ids that are gone. Nothing, where something else names it."""
    gone: list[str] = []
    level = [root]
    while level:
        free = [row["object_id"] for row in query(_UNNAMED, _ids(level))]
        if not free:
            break
        named = Counter(child for children in _edges(query, free).values() for child in children)
        query(_DELETE, _ids(free))
        _each(query, _COUNT, [{"id": name, "more": -less} for name, less in named.items()])
        gone += free
        level = list(named)
    return gone


def _children(tree: ObjectTree) -> dict[str, list[str]]:
    """By id, children first."""
    found: dict[str, list[str]] = {}
    for branch in iterate_object_tree(tree):
        name, children = str(branch.object_id), [str(child.object_id) for child in branch.children]
        if not ID.fullmatch(name):
            raise ValueError("an object's id is no SHA-256")
        if len(children) != len(set(children)) or set(found.setdefault(name, children)) != set(children):
            raise ValueError("an object names a child twice, or stands there with two kinds of children")
    return found


def _edges(query: Query, parents: Iterable[str]) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for row in query(_EDGES, _ids(parents)):
        edges.setdefault(row["parent_id"], set()).add(row["child_id"])
    return edges


def _tree(root: str, edges: Mapping[str, set[str]]) -> ObjectTree:
    return ObjectTree(object_id=root, children=[_tree(child, edges) for child in sorted(edges.get(root, ()))])


def _ids(names: Iterable[str]) -> dict[str, str]:
    return {"ids": json.dumps(list(names))}


def _each(query: Query, statement: str, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        query(statement, rows)
