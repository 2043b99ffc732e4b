"""No train loss, gradient norm, clip fraction, batch size, step time or count leaves a site or is written down there (privacy.md, rule 15).

What leaves, what is logged and what may be imported are closed lists here: whoever adds to one has to change this file, and a person
reads that.
"""

import ast
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from fakes.patients import Asking, Patient, network_protocol, patients, write_patients

from fedrad_client.app import answer_in_slot
from fedrad_client.audit import Event
from fedrad_client.node.pieces import push
from fedrad_client.site import Home
from fedrad_client.work import run_child, run_inline
from fedrad_common import messages, records
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer

# isort: split
from flwr.proto.node_pb2 import Node
from flwr.supercore.task_identity import TaskIdentity

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "client" / "fedrad_client"


# ── (a) a whole run, twice: two sites of other patients and counts, and the same declared size ──


@pytest.fixture
def sites(make_site, coordinator, protocol_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Asking]:
    """Two sites of one name; the second has three times the patients, all of one class, and more images."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def make(place: str, people: list[Patient]) -> Asking:
        (tmp_path / place).mkdir()
        home = Home(make_site().path.rename(tmp_path / place / "north"))
        settings = home.path / "site.toml"
        settings.write_text(settings.read_text().replace("threads = 0", "threads = 1"))
        shutil.rmtree(home.cohort)
        write_patients(home.cohort, people)
        return Asking.approved(home, coordinator, network_protocol(protocol_bytes))

    return [make("first", patients(60)), make("second", patients(180, label=1, n_images=3, seed=5))]


def keys(value: object) -> object:
    """A JSON value without its values: keys and types, to any depth."""
    if isinstance(value, dict):
        return {key: keys(inner) for key, inner in sorted(value.items())}
    return [keys(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def documents(content: bytes) -> Iterator[object]:
    """Every JSON document in a file of lines, framed or not."""
    for line in content.splitlines():
        start = line.find(b"{")
        if start >= 0:
            try:
                yield keys(json.JSONDecoder().raw_decode(line[start:].decode())[0])
            except ValueError:  # the vector behind an outbox's first line
                return


def traces(home: Path) -> dict[str, tuple[int, list[object]]]:
    """Name, size and JSON keys of everything below the home but the cohort."""
    return {
        str(path.relative_to(home)): (path.stat().st_size, list(documents(path.read_bytes())))
        for path in sorted(home.rglob("*"))
        if path.is_file() and "cohort" not in path.relative_to(home).parts and path.suffix != ".key"
    }


def test_a_whole_run_leaves_the_same_traces_whoever_the_patients_are(
    sites: list[Asking], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for ask in sites:
        caplog.clear()
        capfd.readouterr()
        with caplog.at_level(logging.DEBUG):
            replies = [answer_in_slot(ask.message(round=number, kind=kind), ask.home.path, work=run_inline)
                       for number, kind in ((1, "train"), (1, "evaluate"), (2, "train"))]  # fmt: skip
        assert [messages.read_answer(reply.content).refusal for reply in replies] == [None] * 3
        logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
        seen.append((traces(ask.home.path), logged, tuple(capfd.readouterr())))

    assert seen[0] == seen[1]
    assert seen[0][1:] == ([], ("", ""))  # what went well is not worth a word
    assert len(seen[0][0]) > 8


def test_the_child_that_works_can_say_nothing_and_leaves_no_file(
    make_site, coordinator, protocol_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it would say goes nowhere. The task is an echo, which spares the child six seconds of imports."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    user, begun, real = tmp_path / "user", [], subprocess.Popen
    user.mkdir()
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(user))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **settings: begun.append(settings) or real(command, **settings))
    ask = Asking.approved(make_site(), coordinator, parse_protocol(protocol_bytes))
    reply = answer_in_slot(ask.message(), ask.home.path, work=run_child)

    assert messages.read_answer(reply.content).refusal is None
    assert [(settings["stdout"], settings["stderr"]) for settings in begun] == [(subprocess.DEVNULL, subprocess.DEVNULL)]
    assert list(user.iterdir()) == []


def test_the_traces_of_a_count_in_a_log_a_file_or_a_key_are_seen(tmp_path: Path) -> None:
    """The comparison itself: another size, another name and another key each make a difference."""
    pairs = (
        ("audit.chain", '00000031 aa {"body":{"n":1}}', '00000031 aa {"body":{"n":11}}'),
        ("audit.chain", '00000031 aa {"body":{"loss":1}}', '00000031 aa {"body":{"rate":1}}'),
        ("audit.chain", '00000031 aa {"body":{"rate":1}}', '00000031 aa {"body":{"rate":.1}}'),
    )
    for number, (name, one, other) in enumerate(pairs):
        for side, text in (("one", one), ("other", other)):
            (tmp_path / f"{number}" / side).mkdir(parents=True)
            (tmp_path / f"{number}" / side / name).write_text(text)
        assert traces(tmp_path / f"{number}" / "one") != traces(tmp_path / f"{number}" / "other")


# ── (b) the words that a node may log ──

LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
MATHEMATICS = {"math", "np", "torch"}
SPEAKING = {"print", "echo", "secho", "emit", "warn", "showwarning", "print_exc", "write_stderr"}
# What a person types and reads at a terminal: results of verbs, none of which runs while an order is answered.
TERMINAL = {"intake/verb", *(f"cli/{path.stem}" for path in (CLIENT / "cli").glob("*.py"))}
# room, level, words, and what stands in them: classes of errors, and codes of closed lists. No number.
LOGGED = {
    ("work/worker", "warning", "the work is not wholly confined on this machine, open to it: %s", ("held.open_to",)),
    ("answer", "info", "refused: %s", ("REASONS[reason][1]",)),  # one sentence of a closed table, by the code that leaves
    ("app", "error", "answered with code %s (%s)", ("said.answer.refusal", "said.failure.__name__")),
    ("node/executor", "info", "connecting", ()),
    ("node/executor", "info", "online", ()),
    ("node/executor", "info", "order received: %s", ("what",)),  # node/wording: run, round and kind of the order
    ("node/executor", "info", "answered with %s: %s", ("answered(reply)", "what")),  # `update`, or a refusal's code
    ("node/executor", "error", "an order could not be read", ()),
    ("node/executor", "warning", "%s could not be noted: %s", ("name", "type(error).__name__")),
    ("node/executor", "warning", "an interrupted order could not be reported: %s", ("type(error).__name__",)),
    ("node/contact", "info", "the coordinator answers again", ()),
    ("node/contact", "warning", "%s: %s; %s", ("trouble.code", "trouble.sentence", "trouble.hint")),  # of the table in node/troubles
    ("node/service", "warning", "the audit log could not be written: %s", ("type(error).__name__",)),
    ("node/service", "info", "stopped", ()),
}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the last part of its name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
            yield name, node


def logged(room: str, source: str) -> set[tuple[str, str, str, tuple[str, ...]]]:
    """Every line that this source may log; the words of one that is no constant are its source text."""
    found = set()
    for name, call in calls(source):
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        mathematics = name == "log" and (owner in MATHEMATICS or len(call.args) < 2)  # a logger's has a level and words
        if name in LEVELS and owner and not mathematics:
            first, *rest = [*call.args, *(keyword.value for keyword in call.keywords)] or [ast.Constant("")]
            words = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
            found.add((room, name, str(words), tuple(map(ast.unparse, rest))))
    return found


def rooms() -> Iterator[tuple[str, str]]:
    for path in sorted(CLIENT.rglob("*.py")):
        yield str(path.relative_to(CLIENT).with_suffix("")), path.read_text()


def test_a_node_logs_nothing_but_a_closed_list_of_words() -> None:
    assert set().union(*(logged(room, source) for room, source in rooms())) == LOGGED


def test_nothing_else_speaks_while_an_order_is_answered() -> None:
    speaking = {(room, name) for room, source in rooms() if room not in TERMINAL for name, _ in calls(source) if name in SPEAKING}
    streams = {room for room, source in rooms() if room not in TERMINAL and ("sys.stdout" in source or "sys.stderr" in source)}

    assert speaking == set()
    assert streams == {"node/logs"}  # where the log's lines go


@pytest.mark.parametrize(
    "planted",
    [
        'log.info("step took %.3f s", time.monotonic() - begun)',
        'log.debug(f"loss {loss}")',
        'logging.getLogger("x").warning("norm %s", norm)',
        'logger.log(10, "batch %d", len(rows))',
        'self._log.info("connecting", extra={"loss": loss})',
    ],
)
def test_a_planted_line_is_noticed(planted: str) -> None:
    assert logged("app", planted) - LOGGED


# ── (c) what leaves: every record, field by field ──

FIELDS = {
    records.Envelope: (
        "format site run epoch round kind sequence protocol model manifest dtype length payload declared_size privacy ledger audit"
    ),
    records.Privacy: "noise_multiplier sampling_rate steps delta marked",
    records.Receipt: "format site run round kind envelope payload sequence ledger",
    records.Refused: "format code",
    records.Signed: "body signature",
    records.Order: "format run epoch round kind protocol model dtype length",
}


@pytest.mark.parametrize("record", FIELDS, ids=lambda record: record.__name__)
def test_a_record_has_no_field_for_a_loss_a_norm_a_count_or_a_time(record) -> None:
    assert list(record.model_fields) == FIELDS[record].split()


def test_an_answer_and_its_message_have_no_place_for_anything_else(sites: list[Asking]) -> None:
    content = answer_in_slot(sites[0].message(), sites[0].home.path, work=lambda job, model: np.ones(model.size, np.float32)).content

    assert set(Answer.__dataclass_fields__) == {"envelope", "vector", "refusal"}
    assert {name: set(record) for name, record in content.items()} == {"answer": {"body", "signature"}, "vector": {"vector"}}
    assert len(content.metric_records) == 0


def test_the_audit_log_has_no_event_for_training_itself() -> None:
    by_a_person = {"approve", "withdraw-approval", "withdraw", "merge", "review", "ingest", "pause", "resume", "recover", "renew", "leave"}
    by_a_person |= {"checkpoint"}
    of_the_connection = {"start", "stop", "online", "refused-by-coordinator"}
    of_an_order = {"refuse", "evidence-contradiction", "release", "resend"}

    assert set(get_args(Event)) == by_a_person | of_the_connection | of_an_order


def test_flowers_wrapping_of_an_answer_tells_no_more(sites: list[Asking], tmp_path: Path) -> None:
    """What goes over the wire around the message: the node's number, names of objects, and a running time that is always 0."""
    requests: list[Any] = []
    fleet = SimpleNamespace(
        PushMessages=lambda request: requests.append(request) or SimpleNamespace(objects_to_push=[], session_id=""),
        PushObject=lambda request: pytest.fail("nothing was asked for"),
    )
    reply = answer_in_slot(sites[0].message(), sites[0].home.path, work=lambda job, model: np.ones(model.size, np.float32))
    push(fleet, Node(node_id=1), reply)
    (request,) = requests
    (wrapped,) = request.messages_list

    assert {field.name for field, _ in request.ListFields()} == {
        "node", "messages_list", "message_object_trees", "clientapp_runtime_list",
    }  # fmt: skip
    assert list(request.clientapp_runtime_list) == [0.0]
    assert {field.name for field, _ in wrapped.ListFields()} == {"metadata", "content"}
    assert wrapped.content.ByteSize() == 0
    assert {field.name for field, _ in wrapped.metadata.ListFields()} <= {
        "run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "ttl", "message_type", "created_at",
        "src_task_id", "dst_task_id",
    }  # fmt: skip


# ── (d) no trackers ──

TRACKERS = {
    "tensorboard", "tensorboardX", "wandb", "mlflow", "comet_ml", "neptune", "clearml", "aim", "sentry_sdk", "opentelemetry",
    "prometheus_client", "statsd", "datadog", "posthog", "segment",
}  # fmt: skip


def imported(source: str) -> set[str]:
    tree = ast.parse(source)
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return named | {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_no_house_imports_a_tracker_or_flowers_metrics() -> None:
    houses = [ROOT / "client", ROOT / "common", ROOT / "server", ROOT / "simulations" / "fedrad_sim"]
    for path in (path for house in houses for path in house.rglob("*.py")):
        names = imported(path.read_text())
        assert not {name.split(".")[0] for name in names} & TRACKERS, path.name
        assert not any("MetricRecord" in name or name.endswith(("torch.profiler", "utils.tensorboard")) for name in names), path.name


@pytest.mark.parametrize(
    "planted", ["import wandb", "from torch.utils.tensorboard import SummaryWriter", "from flwr.app import MetricRecord"]
)
def test_a_planted_tracker_is_noticed(planted: str) -> None:
    names = imported(planted)
    assert {name.split(".")[0] for name in names} & TRACKERS or any("MetricRecord" in name or "tensorboard" in name for name in names)


def test_a_node_in_a_bare_environment_has_flowers_telemetry_off_and_no_tracker_loaded() -> None:
    """In a process of its own: what this one has imported says nothing."""
    program = (
        "import os, sys; os.environ['FLWR_TELEMETRY_ENABLED'] = '1';"
        "import fedrad_client.node.service; import flwr.supercore.telemetry as telemetry;"
        f"loaded = {{name.split('.')[0] for name in sys.modules}} & {TRACKERS};"
        "print(os.environ['FLWR_TELEMETRY_ENABLED'], telemetry.FLWR_TELEMETRY_ENABLED, sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "0", "[]"]
