"""Every name of Flower that we touch below its public API is there and behaves as we assume. A new Flower fails here first."""

import dataclasses
import importlib
import inspect

import httpx
import pytest

from fedrad_common import offline

# isort: split
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common import constant
from flwr.supercore import telemetry
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink import extensions
from flwr.superlink.config_loader import SuperLinkLifespanConfig


@pytest.mark.parametrize(
    ("module", "owner", "names"),
    [
        ("flwr.supernode.fleet_http_client", "FleetHttpClient",
         ("from_server_address ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages PullObject PushObject "
         "ConfirmMessageReceived")),
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


def test_the_guard_gets_in_through_the_middleware_extension():
    assert list(inspect.signature(extensions.get_middleware).parameters) == []
    assert "get_middleware" in inspect.getsource(importlib.import_module("flwr.superlink.main"))


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
    from fedrad_server.superlink.serving import BODY_CAP

    pieces = Array("float32", (5_000_000,), "x", bytes(20_000_000)).slice_array()

    assert all(len(piece.data) + 65536 < BODY_CAP for _, piece in pieces)
    assert all(len(piece.data) >= _SMALLEST_PIECE for _, piece in pieces[:-1])


def test_an_object_is_its_kind_children_and_length_then_its_body():
    content = RecordDict({"v": ArrayRecord({"v": Array("float32", (1,), "x", b"1234")})}).deflate()

    assert HEAD_BODY_DIVIDER == b"\0"
    assert inflatable_object.get_object_head_values_from_object_content(content)[0] == "RecordDict"


def test_pieces_are_pulled_with_the_bounds_that_we_pass():
    assert {"initial_backoff", "backoff_cap", "max_time"} <= set(inspect.signature(inflatable_utils.pull_objects).parameters)


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
