"""A ledger or a setting that cannot be right gets a plain refusal that says what a person may do, and nothing leaves."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.orders import content_of
from fakes.terminal import Terminal

from fedrad_client.app import open_and_handle
from fedrad_client.approval import approve
from fedrad_client.site import Home, open_site
from fedrad_common import messages
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Order
from fedrad_sim.one_site import asked

# isort: split
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

MODEL = np.zeros(16, np.float32)


def never(job, model):
    raise AssertionError("work ran")


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def north(make_site, protocol_bytes) -> Home:
    home = make_site()
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    return home


@pytest.fixture
def ask(coordinator, protocol_bytes, monkeypatch: pytest.MonkeyPatch) -> Callable[[Home], Answer]:
    """One order through the very function that the node calls."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    hashed = parse_protocol(protocol_bytes).hash
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol=hashed, model=vector_hash(MODEL), length=16)

    def through(home: Home) -> Answer:
        message = Message(content_of(asked(order, MODEL, coordinator, home.path)), dst_node_id=1, message_type="train")
        message.metadata.__dict__["_message_id"] = "m"
        return messages.read_answer(open_and_handle(message, lambda: open_site(home.path), work=never).content)

    return through


def setting(home: Home, old: str, new: str) -> None:
    text = (home.path / "site.toml").read_text()
    changed = re.sub(rf"(?m)^{old}", new, text)
    assert changed != text
    (home.path / "site.toml").write_text(changed)


def refused(terminal: Terminal, home: Home, *, code: int, error: str, hint: str) -> None:
    said = terminal.fail("fedrad-site", "ledger", "verify", "--home", home.path, code=code)
    assert re.search(error, said.error), said.error
    assert re.search(hint, said.hint), said.hint


def test_a_ledger_of_another_site(north: Home, make_site, terminal: Terminal, ask) -> None:
    south = make_site("south")
    for name in ("ledger.chain", "ledger.chain.mark"):
        shutil.copy(south.path / name, north.path / name)

    refused(terminal, north, code=1, error="belongs to another site identity", hint="put this site's own ledger and key back")
    assert ask(north) == Answer(refusal="internal")


def test_an_older_copy(north: Home, terminal: Terminal, coordinator, protocol_bytes, ask) -> None:
    older = (north.path / "ledger.chain").read_bytes()
    with open_site(north.path) as site:
        found = site.approved(parse_protocol(protocol_bytes).hash)
        site.ledger.reserve_run("run-00000001", protocol=found[0], plan=found[1], generation=1)
    (north.path / "ledger.chain").write_bytes(older)

    refused(terminal, north, code=1, error="holds 1 whole entries, 2 were acknowledged", hint="compare with a witness")
    assert ask(north) == Answer(refusal="internal")


def test_two_processes_on_one_ledger(north: Home, terminal: Terminal, ask) -> None:
    with open_site(north.path):
        refused(terminal, north, code=1, error="in use by another process", hint="wait for it to end")
        assert ask(north) == Answer(refusal="busy")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("epsilon = 8.0", "epsilon = 20.0", "privacy.epsilon: 20, this site's ledger was opened with 8"),
        ("validation_epsilon = 10.0", "validation_epsilon = 11.0", "privacy.validation_epsilon: 11, .* opened with 10"),
        ("delta = 0.001", "delta = 0.01", "privacy.delta: 0.01, .* opened with 0.001"),
        ("delta = 0.001", "delta = 0.0001", "privacy.delta: 0.0001, .* opened with 0.001"),
        ("validation_fraction = 0.2", "validation_fraction = 0.1", "privacy.validation_fraction: 0.1, .* opened with 0.2"),
    ],
)
def test_settings_that_are_looser_than_the_ledger(north: Home, terminal: Terminal, ask, old: str, new: str, error: str) -> None:
    setting(north, old, new)

    refused(terminal, north, code=2, error=error, hint="for the site's lifetime: set .*; nothing was spent or sent")
    assert ask(north) == Answer(refusal="internal")


def test_a_ceiling_that_was_tightened_is_obeyed_at_once(north: Home, terminal: Terminal, ask) -> None:
    setting(north, "epsilon = 8.0", "epsilon = 0.5")

    assert ask(north) == Answer(refusal="budget")
    assert "ceiling     epsilon 0.5" in terminal.do("fedrad-site", "ledger", "--home", north.path).out


def test_a_ledger_whose_mark_is_missing(north: Home, terminal: Terminal, ask) -> None:
    (north.path / "ledger.chain.mark").unlink()

    refused(terminal, north, code=1, error="is missing", hint="witness")
    assert ask(north) == Answer(refusal="internal")


def test_no_ledger_at_all(north: Home, terminal: Terminal, ask) -> None:
    for name in ("ledger.chain", "ledger.chain.mark"):
        (north.path / name).unlink()

    refused(terminal, north, code=1, error="no such log", hint="recover --assume-spent|restore both files together")
    assert ask(north) == Answer(refusal="internal")
