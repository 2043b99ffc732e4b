"""Every route of Flower 1.41 with a body that would do something there, were it let in."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servers import Place, Site  # type: ignore[import-not-found] # beside this one

# isort: split
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from fedrad_common.bundle import HASH, stub

_JSON = "/v1/runtime/responses"  # the one route that is no protobuf
_LAST = ("stop-run", "push-task-output", "deactivate-node", "unregister-node", "archive-federation")  # they leave nothing to work on


@dataclass(frozen=True)
class Route:
    path: str
    body: bytes

    @property
    def api(self) -> str:
        return self.path.split("/")[2]

    @property
    def call(self) -> str:
        return self.path.rpartition("/")[2]


def routes(place: Place, victim: Site) -> list[Route]:
    """All of them, with `victim`'s number wherever a node is named; those that end something come last."""
    facts = _facts(place, victim)
    found = [Route(path, _filled(kind(), path, facts).SerializeToString()) for (_, path), kind in PROTOBUF_REQUEST_TYPES.items()]
    found.append(Route(_JSON, json.dumps({"model": "any", "input": "hostile"}).encode()))
    return sorted(found, key=lambda route: _LAST.index(route.call) if route.call in _LAST else -1)


def _facts(place: Place, victim: Site) -> dict[str, Callable[[], Any]]:
    """What a field of this name is given. Names are fresh: the same one twice would be refused for that."""
    counter = iter(range(10_000))
    reply = ProtoMessage(
        metadata=Metadata(
            run_id=place.flowing.number, src_node_id=victim.number, dst_node_id=1, reply_to_message_id=place.message, group_id="1",
            ttl=600.0, message_type="train", message_id="0" * 64, created_at=1.0,
        )
    )  # fmt: skip
    return {
        "node": lambda: Node(node_id=victim.number),
        "node_id": lambda: victim.number,
        "pem": lambda: victim.pem,
        "run_id": lambda: place.flowing.number,
        "message_ids": list,
        "message_object_id": lambda: place.message,
        "object_id": lambda: place.message,
        "messages_list": lambda: [reply],
        "message_object_trees": lambda: [ObjectTree(object_id="0" * 64)],
        "clientapp_runtime_list": lambda: [0.0],
        "heartbeat_interval": lambda: 900.0,
        "fab": lambda: Fab(hash_str=HASH, content=stub()),
        "federation": lambda: "",
        "federation_id": lambda: NOOP_FEDERATION_ID,
        "federation_name": lambda: NOOP_FEDERATION_ID,
        "supported_task_types": lambda: ["flwr-serverapp"],
        "name": lambda: f"hostile-{next(counter)}",
        "description": lambda: "hostile",
        "logs": lambda: ["hostile"],
        "sub_status": lambda: "completed",
    }


def _filled(message: Any, path: str, facts: dict[str, Callable[[], Any]]) -> Any:
    for field in message.DESCRIPTOR.fields:
        if field.name == "public_key":  # a node that registers needs a new one, a node that is activated its own
            message.public_key = facts["pem"]() if path.endswith("/activate-node") else Site("new").pem
        elif field.name in facts:
            _put(message, field.name, facts[field.name]())
        elif field.name == "start_run_request":
            _filled(message.start_run_request, path, facts)
    return message


def _put(message: Any, name: str, value: Any) -> None:
    current = getattr(message, name)
    if isinstance(value, list):
        current.extend(value)
    elif hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    else:
        setattr(message, name, value)
