"""Every name of Flower that we touch below its public API is there and behaves as we assume. A new Flower fails here first."""

import dataclasses
import importlib
import inspect
import ssl
from types import SimpleNamespace

import httpx
import pytest

from fedrad_common import offline

# isort: split
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common import constant
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore import telemetry
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, HEAD_BODY_DIVIDER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.supernode.fleet_http_client import FleetHttpClient


@pytest.mark.parametrize(
    ("module", "owner", "names"),
    [
        ("flwr.supernode.fleet_http_client", "FleetHttpClient",
         ("from_server_address ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages PullObject PushObject "
         "ConfirmMessageReceived _unary_unary")),
        ("flwr.supernode.node_auth_http_interceptor", "NodeAuthHttpInterceptor", "intercept"),
        ("flwr.supercore.runtime_version_compatibility", "RuntimeVersionMetadata", "from_local_component as_metadata"),
        ("flwr.supercore.error", "FlowerError", "from_json"),
        ("flwr.supercore.control.control_http_client", "ControlHttpClient",
         "from_server_address RegisterNode UnregisterNode ListNodes StartRun StopRun ListRuns close"),
        ("flwr.supercore.runtime", "RuntimeHttpClient",
         "from_server_address AcquireTask PullTaskInput PushTaskOutput PullMessages PullObject ConfirmMessageReceived close"),
        ("flwr.superlink.grid", "HttpGrid", "_runtime_client set_run close push_messages pull_messages get_nodes"),
        ("flwr.serverapp", "Grid", "get_nodes get_node_ids push_messages pull_messages send_and_receive set_run run create_message"),
        ("flwr.superlink.auth_plugin", "NoOpControlAuthnPlugin", "validate_tokens_in_metadata"),
    ],
)  # fmt: skip
def test_the_classes_have_the_methods_that_we_call(module, owner, names):
    found = getattr(importlib.import_module(module), owner)

    assert [name for name in names.split() if not hasattr(found, name)] == []


def test_the_servers_configuration_has_exactly_the_fields_that_we_fill():
    fields = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}

    assert fields == {
        "control_address", "health_server_address", "host", "port", "insecure", "certificates", "superexec_auth_secret", "authn_plugin",
        "event_log_plugin", "fleet_event_log_plugin", "enable_event_log", "artifact_provider", "enable_supernode_auth", "fleet_api_type",
        "fleet_api_address", "simulation", "ssl_ca_certfile", "ssl_certfile", "ssl_keyfile", "database", "isolation",
        "runtime_dependency_install",
    }  # fmt: skip


def test_the_server_takes_our_store_through_the_one_function_that_chooses_it():
    main = importlib.import_module("flwr.superlink.main")

    assert list(inspect.signature(main.get_objectstore_linkstate_factories).parameters) == ["database", "federation_manager"]
    assert "get_objectstore_linkstate_factories(" in inspect.getsource(main.create_app)
    assert "store_instance is not None" in inspect.getsource(ObjectStoreFactory.store)
    assert "objectstore_factory.store()" in inspect.getsource(LinkStateFactory.state)


def test_flower_deletes_objects_one_by_one_through_the_method_that_we_extend():
    for method in (SqlObjectStore.delete, SqlObjectStore.delete_objects_in_run):
        assert "self.delete(" in inspect.getsource(method)
    assert {"query", "session", "_mutation_session", "initialize", "preregister"} <= set(dir(SqlObjectStore))


def test_a_nodes_key_is_told_in_the_header_that_the_guard_compares():
    assert FLEET_HTTP_PUBLIC_KEY_HEADER == "flwr-public-key"


def test_the_fleet_has_the_calls_that_the_guard_lets_through():
    from flwr.superlink.routers.fleet.router import router

    from fedrad_server.superlink.guard import CALLS, FLEET

    assert {FLEET + call for call in CALLS} <= {route.path for route in router.routes}


@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations, a newer alembic
def test_the_tables_that_are_purged_are_there(tmp_path):
    from fedrad_server.superlink import purge

    tables = set(SqlObjectStore(str(tmp_path / "state.db")).initialize())
    named = {statement.split()[2] for statement in (*purge._ROWS, *purge._EMPTY_SERIES)} | {*purge._LEFT, "objects", "task", "run"}

    assert named <= tables


def test_the_idle_layers_that_are_left_out_are_among_flowers():
    from fedrad_server.superlink.flower import _IDLE

    source = inspect.getsource(importlib.import_module("flwr.superlink.main")._get_middleware)
    assert [layer.__name__ for layer in _IDLE if f"Middleware({layer.__name__})" not in source] == []


def test_the_health_service_is_a_class_that_we_can_extend():
    from flwr.supercore.grpc import generic_create_grpc_server
    from flwr.supercore.grpc_health import SimpleHealthServicer

    assert hasattr(SimpleHealthServicer, "Check")
    assert "bound_address" in inspect.getsource(generic_create_grpc_server)


def test_telemetry_is_off_wherever_our_code_imports_flower():
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert offline.SWITCHES["FLWR_DISABLE_UPDATE_CHECK"] == "1"


@pytest.mark.parametrize(
    "room", ["fedrad_common.messages", "fedrad_client.node.executor", "fedrad_server.app", "fedrad_server.control", "fedrad_sim.localgrid"]
)
def test_each_room_that_may_be_imported_first_switches_telemetry_off_by_itself(room):
    import os
    import subprocess
    import sys

    script = f"import {room}; from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    environment = {name: value for name, value in os.environ.items() if name not in offline.SWITCHES}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)

    assert ended.stdout.strip() == "0", ended.stderr


def test_the_pieces_of_a_vector_fit_below_our_body_cap_and_are_as_few_as_we_count():
    from fedrad_common.messages import _SMALLEST_PIECE
    from fedrad_server.superlink.bodies import CAP

    pieces = Array("float32", (5_000_000,), "x", bytes(20_000_000)).slice_array()

    assert all(len(piece.data) + 65536 < CAP for _, piece in pieces)
    assert all(len(piece.data) >= _SMALLEST_PIECE for _, piece in pieces[:-1])


def test_an_object_is_its_kind_children_and_length_then_its_body():
    content = RecordDict({"v": ArrayRecord({"v": Array("float32", (1,), "x", b"1234")})}).deflate()

    assert HEAD_BODY_DIVIDER == b"\0"
    assert inflatable_object.get_object_head_values_from_object_content(content)[0] == "RecordDict"


def test_only_a_piece_of_a_vector_begins_as_we_tell_it_from_the_rest_of_a_message():
    from fedrad_common.messages import _PIECE

    content = RecordDict({"v": ArrayRecord({"v": Array("float32", (1,), "x", b"1234")})})
    objects = inflatable_object.get_all_nested_objects(content).values()

    assert {found.deflate().partition(b" ")[0] + b" " for found in objects} == {b"RecordDict ", b"ArrayRecord ", b"Array ", _PIECE}


def test_pieces_are_pulled_and_pushed_with_the_bounds_that_we_pass():
    pulled, pushed = inflatable_utils.pull_objects, inflatable_utils.push_object_contents_from_iterable

    assert {"max_concurrent_pulls", "initial_backoff", "backoff_cap", "max_time"} <= set(inspect.signature(pulled).parameters)
    assert list(inspect.signature(pushed).parameters) == ["object_contents", "push_object_fn", "max_concurrent_pushes"]


def test_a_nodes_client_has_exactly_the_parts_that_we_put_in_by_hand():
    """`Fleet` makes its own HTTP client instead of the one that Flower would make, and follows no redirect."""
    with FleetHttpClient("https://127.0.0.1:1", verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as made:
        assert set(vars(made)) == {"_base_url", "_interceptors", "_retry_invoker", "_client"}
        assert made._client.follow_redirects


def test_a_node_that_asks_for_no_interval_is_refused_only_once_it_is_known_and_nothing_changes():
    """What `check_in` asks, to learn whether this site is admitted."""
    request = ActivateNodeRequest(public_key=b"k", heartbeat_interval=0.0)
    known = SimpleNamespace(get_node_id_by_public_key=lambda key: 7, activate_node=lambda *_: pytest.fail("it was activated"))
    unknown = SimpleNamespace(get_node_id_by_public_key=lambda key: None)

    with pytest.raises(FlowerError) as refused:
        fleet_handlers.activate_node(request, known)
    assert refused.value.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL
    with pytest.raises(FlowerError) as stranger:
        fleet_handlers.activate_node(request, unknown)
    assert stranger.value.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    assert ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE == 1001


def test_flowers_own_version_interceptor_would_end_a_node_at_the_servers_word():
    """The reason for ours."""
    assert "flwr_exit" in inspect.getsource(RuntimeVersionHttpInterceptor)


def test_a_message_is_stamped_with_who_we_are_in_this_process(monkeypatch):
    for name, value in (("_run_id", 11), ("_node_id", 12), ("_task_id", 13)):
        monkeypatch.setattr(TaskIdentity, name, value)
    message = Message(RecordDict(), dst_node_id=2, message_type="train", ttl=60.0)

    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.src_task_id) == (11, 12, 13)
    assert message.metadata.message_id == ""


def test_codes_and_intervals_are_those_that_we_count_on():
    assert constant.HEARTBEAT_MIN_INTERVAL == 10
    assert (constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION, constant.ErrorCode.CLIENT_APP_CRASHED) == (2, 8)
    assert constant.SubStatus.COMPLETED
    assert httpx.codes.UNAUTHORIZED == 401


def test_a_run_that_was_stopped_is_a_base_exception_that_we_must_name():
    from flwr.supercore.run import RunNotRunningException

    assert issubclass(RunNotRunningException, BaseException)
    assert not issubclass(RunNotRunningException, Exception)


@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # of the library that makes Flower's tables
def test_a_node_is_listed_with_its_public_key_which_is_never_taken_again(tmp_path):
    """What `admission` counts on: the roster is compared by keys, and a revoked site needs a new one."""
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.superlink.federation import NoOpFederationManager

    database = str(tmp_path / "state.db")
    state = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database)).state()
    number = state.create_node("owner", "name", b"key", 30.0, name="north")
    state.create_node("owner", "name", b"another key", 30.0, name="north")  # a name says nothing
    state.delete_node("owner", number)

    assert {(node.name, node.public_key, node.status) for node in state.get_node_info(owner_aids=["owner"])} == {
        ("north", b"key", "unregistered"),
        ("north", b"another key", "registered"),
    }
    with pytest.raises(ValueError, match="already in use"):
        state.create_node("owner", "name", b"key", 30.0, name="north")


def test_a_heartbeat_to_a_task_that_flower_has_ended_raises_sigint_in_this_process(monkeypatch):
    """What the player counts on: with its own handler it says so, instead of being interrupted as if by a person."""
    import signal
    from types import SimpleNamespace

    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http

    received = []
    former = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        make_task_heartbeat_fn_http(SimpleNamespace(SendTaskHeartbeat=lambda request: SimpleNamespace(success=False)))()
    finally:
        signal.signal(signal.SIGINT, former)

    assert received == [signal.SIGINT]
    assert {"start", "stop"} <= set(dir(HeartbeatSender))


def test_flowers_table_of_requests_names_every_route_that_it_serves():
    """What `simulations/benchmarks/hostile` counts on, which sends an unauthorised request to each."""
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
    from flwr.supercore.routers.runtime.responses import router as responses
    from flwr.supercore.routers.runtime.router import router as runtime
    from flwr.superlink.routers.control.router import router as control
    from flwr.superlink.routers.fleet.router import router as fleet

    served = {route.path for router in (fleet, control, runtime, responses) for route in router.routes}

    assert {path for _, path in PROTOBUF_REQUEST_TYPES} | {"/v1/runtime/responses"} == served
    assert len(served) == 75


def test_flower_unpacks_and_loads_a_bundle_by_the_functions_that_no_room_of_a_site_may_name():
    """The positive control of promise 4."""
    from flwr.cli.install import install_from_fab
    from flwr.supercore.object_ref import load_app

    assert list(inspect.signature(install_from_fab).parameters) == ["fab_file", "install_dir", "skip_prompt"]
    assert list(inspect.signature(load_app).parameters)[:3] == ["module_attribute_str", "error_type", "project_dir"]


@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations, a newer alembic
def test_the_tables_and_columns_that_our_own_statements_name_are_there_and_deleting_an_object_deletes_what_belongs_to_it(tmp_path):
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.superlink.federation import NoOpFederationManager

    from fedrad_server.superlink import fleet, state, trees

    objects = SqlObjectStore(str(tmp_path / "state.db"))
    objects.initialize()
    links = SqlLinkState(str(tmp_path / "state.db"), NoOpFederationManager(), objects)
    links.initialize()
    values = {"ids": "[]", "id": "", "order": "", "node": 0, "left": 0.0, "more": 0, "parent": "a", "child": "b", "run": 1}
    statements = [
        value for name, value in {**vars(fleet), **vars(state), **vars(trees)}.items() if name.isupper() and isinstance(value, str)
    ]
    for statement in statements:
        if statement.lstrip().split()[0] in ("SELECT", "WITH", "UPDATE", "DELETE"):
            assert links.query(statement, values) == []
    objects.preregister(1, inflatable_object.ObjectTree(object_id="a" * 64, children=[inflatable_object.ObjectTree(object_id="b" * 64)]))
    links.query(trees._DELETE, {"ids": f'["{"a" * 64}"]'})

    assert [links.query(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in ("object_children", "run_objects")] == [0, 1]


def test_an_upload_that_goes_on_has_a_session_whose_end_each_piece_moves_on():
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    source = inspect.getsource(SqlCoreState.store_object)
    assert "timedelta(\n                    seconds=OBJECT_PUSH_SESSION_TTL_SECONDS" in source
    assert "expires_at=refreshed_expires_at" in source
    assert "pending_count" in inspect.getsource(SqlCoreState.preregister_object_tree)
    assert "self.object_store.preregister(" in inspect.getsource(SqlCoreState.preregister_object_tree)


def test_a_layer_behind_flowers_authentication_finds_the_request_and_may_hand_over_the_answer():
    from flwr.supercore.protobuf import routing, translation
    from flwr.superlink.routers.fleet import node_auth

    main = importlib.import_module("flwr.superlink.main")
    order = inspect.getsource(main._get_middleware)
    assert order.index("ProtobufTranslationMiddleware") < order.index("NodeAuthMiddleware")
    assert "request.state.protobuf_request" in inspect.getsource(node_auth)
    assert "state.protobuf_response = result" in inspect.getsource(routing)
    assert "return response" in inspect.getsource(translation).split("status_code >= 400")[1]


def test_flower_believes_what_a_node_writes_into_its_requests():
    """The reason for `fleet`: only the number of the node itself is compared with its key."""
    assert "get_node_id_by_public_key(public_key) != node_id" in inspect.getsource(
        importlib.import_module("flwr.superlink.routers.fleet.node_auth")
    )
    for handler in (fleet_handlers.push_messages, fleet_handlers.pull_object, fleet_handlers.confirm_message_received):
        assert "request.node.node_id !=" not in inspect.getsource(handler)


def test_a_reply_without_content_of_its_own_can_be_made():
    from flwr.app import Metadata
    from flwr.app.message import make_message

    names = list(inspect.signature(Metadata).parameters)[:9]
    assert names == [
        "run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "created_at", "ttl", "message_type",
    ]  # fmt: skip
    made = make_message(Metadata(1, "", 0, 0, "", "", 0.0, 0.0, "query"), content=RecordDict())
    made.metadata.__dict__["_reply_to_message_id"] = "asked"
    assert made.metadata.reply_to_message_id == "asked"
    assert "max_tries_per_object" in inspect.signature(inflatable_utils.pull_objects).parameters
