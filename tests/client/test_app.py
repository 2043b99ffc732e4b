"""The ClientApp: one message in, one message out, and never a word of an exception."""

import logging
from contextlib import contextmanager

import numpy as np
import pytest
from fakes.orders import content_of

from fedrad_client import app as client
from fedrad_client.app import answer_in_slot, handle, make_app, open_and_handle
from fedrad_client.site import open_site
from fedrad_common import messages
from fedrad_common.errors import BusyError
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Asked, Evidence, Refused, sign

# isort: split
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

CANARY = "Jane Doe, 1.2.840.7, /pacs/4711"


@pytest.fixture
def message(monkeypatch) -> Message:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    signed = sign(Refused(code="busy"), SigningKey.generate())
    made = Message(
        content_of(Asked(signed, np.ones(3, np.float32), Evidence(launch=signed, manifests=()))), dst_node_id=2, message_type="train"
    )
    made.metadata.__dict__["_message_id"] = "m"
    return made


def work(job, model):
    raise AssertionError("nobody works here")


def answers(monkeypatch, result) -> None:
    def fake(site, asked, *, work, entropy):
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(client, "answer", fake)


def test_what_answer_says_is_what_is_sent(message, monkeypatch):
    said = Answer(envelope=sign(Refused(code="busy"), SigningKey.generate()), vector=np.ones(5, np.float32))
    answers(monkeypatch, said)

    reply = handle(message, site=None, work=work)

    assert messages.read_answer(reply.content).envelope == said.envelope
    assert reply.metadata.reply_to_message_id == "m"


@pytest.mark.parametrize("error", [RuntimeError(CANARY), KeyError(CANARY), MemoryError(CANARY)])
def test_an_exception_becomes_the_code_internal_and_its_text_stays_nowhere(message, monkeypatch, caplog, error):
    answers(monkeypatch, error)

    with caplog.at_level(logging.DEBUG):
        reply = handle(message, site=None, work=work)

    assert not reply.has_error()
    assert messages.read_answer(reply.content) == Answer(refusal="internal")
    assert "Jane" not in caplog.text
    assert type(error).__name__ in caplog.text


def test_a_message_that_is_no_order_is_answered_with_version_and_is_in_the_audit_log(message, site_home):
    message.content = RecordDict()
    with open_site(site_home) as site:
        assert messages.read_answer(handle(message, site=site, work=work).content) == Answer(refusal="version")
        assert (site.audit.entries[-1].type, site.audit.entries[-1].body["code"]) == ("refuse", "version")


def test_a_site_that_its_own_people_use_is_busy(message):
    @contextmanager
    def opening():
        raise BusyError("ledger.chain is in use")
        yield

    assert messages.read_answer(open_and_handle(message, opening, work=work).content) == Answer(refusal="busy")


def test_a_folder_that_is_no_site_is_internal_and_has_no_slot(message, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waited"))

    assert messages.read_answer(answer_in_slot(message, tmp_path, work=work).content) == Answer(refusal="internal")


def test_a_site_that_cannot_be_opened_is_internal(message):
    @contextmanager
    def opening():
        raise OSError(CANARY)
        yield

    assert messages.read_answer(open_and_handle(message, opening, work=work).content) == Answer(refusal="internal")


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_app_of_a_site_answers_real_orders(make_site, monkeypatch, message, kind):
    opened = make_site()
    made = make_app(lambda context: opened.path, work=work)
    message.metadata.message_type = kind
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})

    reply = made(message=message, context=context)

    assert messages.read_answer(reply.content) == Answer(refusal="policy")  # signed, but not by its coordinator


def test_the_installed_app_is_a_plain_assignment_that_flower_finds():
    assert isinstance(client.app, ClientApp)
