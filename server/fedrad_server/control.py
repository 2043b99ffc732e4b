"""What the coordinator asks of its own Flower server: register and revoke nodes, start, list and stop runs. Flower's run ids end here."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import httpx
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedrad_common.bundle import HASH, stub
from fedrad_common.errors import FedradError, MisuseError
from fedrad_server.superlink.files import SuperLinkFiles, not_running


@dataclass(frozen=True)
class Node:
    """A registered node. `status` is Flower's: registered, online or offline."""

    name: str
    number: int
    status: str
    public_key: bytes = b""  # as it was registered, PEM


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Any) -> Any:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)


class Control:
    """An open connection to the private socket. Every method raises FedradError when the server is away or says no."""

    def __init__(self, address: str, token: str) -> None:
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        self._client = ControlHttpClient.from_server_address(address, True, None, [version, _Bearer(token)])

    @classmethod
    def open(cls, files: SuperLinkFiles) -> Self:
        return cls(f"127.0.0.1:{files.serving.private}", files.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def register(self, name: str, public_key: bytes) -> int:
        """Let a node in; `public_key` is its PEM SubjectPublicKeyInfo."""
        if any(node.name == name for node in self.nodes()):
            raise MisuseError(f"{name}: a node of this name is admitted already", hint="revoke it first, or use another name")
        return int(self._call("RegisterNode", RegisterNodeRequest(public_key=public_key, name=name)).node_id)

    def remove(self, number: int) -> None:
        """The node is refused from its next call on, and Flower never takes its key again."""
        self._call("UnregisterNode", UnregisterNodeRequest(node_id=number))

    def nodes(self) -> list[Node]:
        found = self._call("ListNodes", ListNodesRequest()).nodes_info
        return [Node(node.name, node.node_id, node.status, node.public_key) for node in found if node.status != "unregistered"]

    def start_run(self, run: str) -> int:
        """Start one with the stub bundle; `run` is only a label of Flower's records. Returns Flower's number of it."""
        request = StartRunRequest(fab=Fab(hash_str=HASH, content=stub()), override_config=user_config_to_proto({"run": run}))
        number = int(self._call("StartRun", request).run_id)
        if number == 0:
            raise FedradError("the coordinator's server did not start the run", hint="see its log")
        return number

    def open_runs(self) -> list[int]:
        found = self._call("ListRuns", ListRunsRequest()).run_dict
        return sorted(number for number, run in found.items() if run.status.status != "finished")

    def stop_run(self, number: int) -> None:
        self._call("StopRun", StopRunRequest(run_id=number))

    def _call(self, name: str, request: Any) -> Any:
        try:
            return getattr(self._client, name)(request)
        except httpx.TimeoutException:
            raise FedradError(
                "the coordinator's server does not answer in time", hint="look at its log and at the machine's load, and try again"
            ) from None
        except httpx.TransportError:
            raise not_running() from None
        except httpx.HTTPStatusError as error:
            raise _refused(name, error.response) from None
        except (httpx.HTTPError, ValueError):
            raise FedradError(f"the coordinator's server: its answer to {name} cannot be read", hint=_OTHER) from None


_OTHER = "the server may be of another release: stop it, and start it with this one"
_ANSWERS: dict[int, tuple[str, str]] = {  # Flower's codes: what they mean here, and what a person may do
    ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE: (
        "this node key is registered, or was once",
        "ask the site for a new key: fedrad-site renew; no key that was revoked comes back",
    ),
    ApiErrorCode.PUBLIC_KEY_NOT_VALID: ("this is no node key", "ask the site for its request again"),
    ApiErrorCode.NODE_NOT_FOUND_OR_NOT_OWNER: ("this node is not registered, or no longer", "nothing is left to do"),
    ApiErrorCode.RUN_ID_NOT_FOUND: ("the server does not know this run, or no longer", "start the run anew: fedrad-coordinator resume"),
    ApiErrorCode.RUN_ALREADY_FINISHED: ("this run has ended already", "nothing is left to do"),
    ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE: ("the server runs another version of Flower", _OTHER),
}


def _refused(name: str, response: httpx.Response) -> FedradError:
    """Flower's refusal in our words: its own could quote whatever it was sent."""
    known = FlowerError.from_json(response.text)
    code = known.code if known else None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        hint = "HOME/superlink/token is not the one that it was started with: stop the server and start it again"
        return FedradError("the coordinator's server does not take our token", hint=hint)
    what, hint = _ANSWERS.get(code or 0, (f"status {response.status_code}, code {code or 'none'}", "look at its log"))
    return FedradError(f"the coordinator's server refused {name}: {what}", hint=hint)
