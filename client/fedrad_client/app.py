"""The ClientApp: message → order → `answer` → message. Nothing of an exception but a code ever becomes part of a reply."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrad_client.answer import Entropy, answer
from fedrad_client.site import Site, open_site
from fedrad_client.work import Work, run_child
from fedrad_common.errors import BusyError, FormatError, RefusalCode
from fedrad_common.records import Answer

log = logging.getLogger(__name__)
Opening = AbstractContextManager[Site]  # a site is opened for one answer, so that its own people can use it in between


def handle(message: Message, *, site: Site, work: Work, entropy: Entropy = os.urandom) -> Message:
    """Answer one message with one message; whatever goes wrong is a code, and here only the name of the exception's class."""
    try:
        order, model = messages.read_order(message.content)
        return _reply(message, answer(site, order, model, work=work, entropy=entropy))
    except FormatError:
        return _refuse(message, "version", FormatError)
    except Exception as error:
        return _refuse(message, "internal", type(error))


def open_and_handle(message: Message, opening: Callable[[], Opening], *, work: Work, entropy: Entropy = os.urandom) -> Message:
    """Open the site for this one message; `busy` while another program of the hospital holds it."""
    try:
        with opening() as site:
            return handle(message, site=site, work=work, entropy=entropy)
    except BusyError:
        return _refuse(message, "busy", BusyError)
    except Exception as error:
        return _refuse(message, "internal", type(error))


def make_app(site_of: Callable[[Context], Opening], *, work: Work, entropy: Entropy = os.urandom) -> ClientApp:
    """Nothing of the coordinator's configuration in `Context` is read; `site_of` may look at the node's own."""
    made = ClientApp()

    def respond(message: Message, context: Context) -> Message:
        return open_and_handle(message, lambda: site_of(context), work=work, entropy=entropy)

    made.train()(respond)
    made.evaluate()(respond)
    return made


def _installed(_: Context) -> Opening:
    return open_site(Path(os.environ["FEDRAD_SITE"]))


def _reply(message: Message, said: Answer) -> Message:
    return Message(messages.answer_content(said), reply_to=message)


def _refuse(message: Message, code: RefusalCode, error: type[Exception]) -> Message:
    log.error("answered with code %s (%s)", code, error.__name__)
    return _reply(message, Answer(refusal=code))


app = make_app(_installed, work=run_child)
