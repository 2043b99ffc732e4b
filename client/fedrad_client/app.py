"""The ClientApp: message → order → `answer` → message. Nothing of an exception but a code ever becomes part of a reply.

A node and the installed app answer in the protocol's time slots; simulations, whose time is simulated, at once.
"""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrad_client.answer import Entropy, answer, refused
from fedrad_client.node.slots import Clock, hold, slot_of
from fedrad_client.site import Home, Site, open_site
from fedrad_client.work import Job, Work, run_child
from fedrad_common.errors import BusyError, DiskError, FormatError, RefusalCode, SyncError
from fedrad_common.packing import Vector
from fedrad_common.records import Answer

log = logging.getLogger(__name__)
Opening = AbstractContextManager[Site]  # a site is opened for one answer, so that its own people can use it in between


@dataclass(frozen=True)
class _Said:
    answer: Answer
    failure: type[Exception] | None = None  # the class of what went wrong, for this site's log; never its text


def handle(message: Message, *, site: Site, work: Work, entropy: Entropy = os.urandom) -> Message:
    """Answer one message with one message, at once; whatever goes wrong is a code, and here only the name of the exception's class."""
    return _reply(message, _answered(message, site, work=work, entropy=entropy))


def open_and_handle(message: Message, opening: Callable[[], Opening], *, work: Work, entropy: Entropy = os.urandom) -> Message:
    """The same with the site opened for this one message; `busy` while another program of the hospital holds it."""
    return _reply(message, _opened_and_answered(message, opening, work=work, entropy=entropy))


def answer_in_slot(message: Message, home: Path, *, work: Work, entropy: Entropy = os.urandom, clock: Clock | None = None) -> Message:
    """The same as a hospital does it: whatever the reply is, it leaves in the protocol's next time slot.

    No reply leaves after a SyncError, which ends a node; started again, it reports that it was interrupted.

    The answer is sealed and the site closed before the wait, so that a process which dies there loses nothing and sends nothing early.
    """
    clock = clock or Clock()
    received = clock.now()
    slot = _slot(message, Home(home))
    said = _opened_and_answered(message, lambda: open_site(home), work=work, entropy=entropy)
    hold(received, slot, clock)
    return _reply(message, said)  # made now: Flower stamps a message with the time at which it is made


def make_app(home_of: Callable[[Context], Path], *, work: Work, entropy: Entropy = os.urandom, clock: Clock | None = None) -> ClientApp:
    """Nothing of the coordinator's configuration in `Context` is read; `home_of` may look at the node's own."""
    made = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        times, home = clock or Clock(), home_of(context)
        received = times.now()
        try:
            return answer_in_slot(message, home, work=work, entropy=entropy, clock=times)
        except SyncError:  # the process is Flower's, which would quote the exception
            hold(received, _slot(message, Home(home)), times)
            return _reply(message, _failed("disk", SyncError))

    made.train()(respond)
    made.evaluate()(respond)
    return made


def _installed(_: Context) -> Path:
    return Path(os.environ["FEDRAD_SITE"])


def _work(job: Job, model: Vector) -> Vector:
    return run_child(job, model, home=Path(os.environ["FEDRAD_SITE"]))


def _slot(message: Message, home: Home) -> float:
    try:
        return slot_of(home, messages.read_order(message.content).order)
    except Exception:  # no order: no protocol, no slot, and no work. What else is wrong with it ends no node: `_answered` makes it a code
        return 0.0


def _answered(message: Message, site: Site, *, work: Work, entropy: Entropy) -> _Said:
    try:
        return _Said(answer(site, messages.read_order(message.content), work=work, entropy=entropy))
    except SyncError:
        raise
    except FormatError:  # no order at all: that it came is in the audit log, too
        return _Said(refused(site, None, code="version", reason="version"), FormatError)
    except Exception as error:
        return _failed("internal", type(error))


def _opened_and_answered(message: Message, opening: Callable[[], Opening], *, work: Work, entropy: Entropy) -> _Said:
    try:
        with opening() as site:
            return _answered(message, site, work=work, entropy=entropy)
    except SyncError:
        raise
    except BusyError:
        return _failed("busy", BusyError)
    except DiskError:
        return _failed("disk", DiskError)
    except Exception as error:
        return _failed("internal", type(error))


def _failed(code: RefusalCode, failure: type[Exception]) -> _Said:
    return _Said(Answer(refusal=code), failure)


def _reply(message: Message, said: _Said) -> Message:
    if said.failure is not None:  # with the reply and not before it: the log's clock must not tell how long the work took
        log.error("answered with code %s (%s)", said.answer.refusal, said.failure.__name__)
    return Message(messages.answer_content(said.answer), reply_to=message)


app = make_app(_installed, work=_work)
