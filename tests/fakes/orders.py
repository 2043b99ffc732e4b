"""An order to one site as its node receives it from Flower."""

from fedrad_common import messages
from fedrad_common.records import Asked

# isort: split
from flwr.app import RecordDict


def content_of(asked: Asked) -> RecordDict:
    return messages.with_evidence(messages.order_content(asked.order, asked.model), asked.evidence)
