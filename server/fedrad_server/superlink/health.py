"""Flower's gRPC health service on loopback: whether the server listens and its loop turns. gRPC is loaded when needed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]

Health = Literal["serving", "not-serving", "unreachable"]
_PATIENCE = 2.0  # seconds


def check_health(address: str, *, patience: float = _PATIENCE) -> Health:
    """What the service at HOST:PORT says; "unreachable" where there is none."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
    from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            found = HealthStub(channel).Check(HealthCheckRequest(), timeout=patience)
        except grpc.RpcError:
            return "unreachable"
    return "serving" if found.status == HealthCheckResponse.SERVING else "not-serving"


def serve_health(is_serving: Callable[[], bool], *, host: str = "127.0.0.1") -> "tuple[grpc.Server, int]":
    """Start the service on a free port; returns it, to be stopped, and its port."""
    from flwr.supercore.grpc import generic_create_grpc_server
    from flwr.supercore.grpc_health import SimpleHealthServicer
    from grpc_health.v1.health_pb2 import HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

    class Servicer(SimpleHealthServicer):  # type: ignore[misc] # Flower's always says that it serves
        def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            del request, context
            return HealthCheckResponse(status=HealthCheckResponse.SERVING if is_serving() else HealthCheckResponse.NOT_SERVING)

    server = generic_create_grpc_server((Servicer(), add_HealthServicer_to_server), f"{host}:0", max_concurrent_workers=4)
    server.start()
    return server, int(server.bound_address.rpartition(":")[2])
