"""How a node's log names an order and its answer: run, round and kind, an update or a code. Nothing of what is in them."""

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Message
from pydantic import ValidationError

from fedrad_common.errors import REFUSAL_CODES, FormatError
from fedrad_common.records import Order, Signed


def asked(message: Message) -> str:
    """What an order says of itself, not yet verified; only what has an order's form is repeated."""
    try:
        record = message.content[messages.ORDER]
        order = Signed(body=record["body"], signature=record["signature"]).peek(Order, what="order")
    except (FormatError, ValidationError, KeyError, TypeError, ValueError):
        return "not an order of this release"
    return f"run {order.run}, round {order.round}, {order.kind}"


def answered(reply: Message) -> str:
    """`update`, or the code of the refusal."""
    if messages.REFUSED not in reply.content:
        return "update"
    code = str(reply.content[messages.REFUSED]["code"])
    return code if code in REFUSAL_CODES else "internal"
