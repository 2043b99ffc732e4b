"""A malformed answer, of whatever kind, gets a code, and the model is the others'. 1,000: `simulations/benchmarks/malformed.py`."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrad_common import messages
from fedrad_common.errors import FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.records import Evidence, Refused, Signed, sign

# isort: split
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "malformed.py"
MOST = messages.most_bytes(11_000_000)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    command = [sys.executable, str(COMMAND), "--cases", "240", "--folder", str(tmp_path_factory.mktemp("malformed"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_are_refused_each_with_the_code_of_its_kind(said: str) -> None:
    found = re.search(r"^malformed: 240 of 240 refused, in (\d+) kinds; (.*)$", said, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 50
    codes = set(re.findall(r"([a-z-]+) \d+", found[2]))
    assert codes >= {"malformed", "signature", "length", "dtype", "payload", "non-finite", "norm", "histogram", "declared-size", "sequence"}
    assert "WRONG" not in said


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_models_are_the_honest_sites_to_the_bit(said: str, dtype: str) -> None:
    assert f"{dtype}: run finished; models of all rounds equal; " in said


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_but_the_fault_is_the_reason(said: str, dtype: str) -> None:
    """The control: the same site's answers without their faults are accepted, and the models are others."""
    assert f"{dtype}, control: without its fault the same site's answer is accepted in 10 of 10 exchanges, and the models differ" in said


def test_they_take_no_memory_where_flowers_own_inflating_does(said: str) -> None:
    ours = [int(growth) for growth in re.findall(r"memory grew by (\d+) MiB at most", said)]
    (flowers,) = re.findall(r"^control, Flower's inflating: .* takes (\d+) MiB$", said, re.MULTILINE)
    assert len(ours) == 2
    assert max(ours) < 64
    assert int(flowers) > 200


def test_flowers_own_aggregation_is_spoiled_by_one_number(said: str) -> None:
    found = re.search(r"one NaN leaves (\d+) NaN in the model; a site of 1e12 examples moves it from 1 by (\d+)", said)
    assert found is not None
    assert int(found[1]) > 0
    assert int(found[2]) > 0


@pytest.fixture
def signed() -> Signed:
    return sign(Refused(code="busy"), SigningKey.generate())


def objects(content: RecordDict, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, bytes]]:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(content, dst_node_id=2, message_type="train")
    return message.object_id, {number: found.deflate() for number, found in get_all_nested_objects(message).items()}


@pytest.mark.parametrize("kind", ["Array", "RecordDict", "ConfigRecord", "Message"])
def test_what_is_no_piece_of_a_vector_is_small_or_not_read(signed: Signed, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's parsers make up to fifty times its size of it: an answer of a 44 MB run could take two gigabytes."""
    number, contents = objects(messages.order_content(signed, np.zeros(64, np.float32)), monkeypatch)
    bomb = next(number for number, content in contents.items() if content.startswith(kind.encode() + b" "))
    contents[bomb] += b" " * 1_000_000

    with pytest.raises(FormatError, match="larger than its vector and texts need"):
        messages.inflate(number, contents, MOST, most_text=messages.MOST_TEXT)


def test_the_longest_evidence_is_still_read(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = (signed,) * (messages.MOST_EVIDENCE // len(signed.model_dump_json() + ",") - 10)
    evidence = Evidence(launch=signed, manifests=manifests)
    number, contents = objects(messages.with_evidence(messages.order_content(signed, np.zeros(64, np.float32)), evidence), monkeypatch)

    assert messages.read_order(messages.inflate(number, contents, MOST).content).evidence == evidence
