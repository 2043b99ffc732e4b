"""What both ends of a DIMSE association have in common: classes, transfer syntaxes, sizes, and silence in the log."""

import logging

from pydicom.uid import UID
from pynetdicom import AE, build_context
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext

from fedrad_client.intake.pixels.decode import DECODERS, FRAGILE, NATIVE

MAX_PDU = 1 << 17  # bytes of one piece of a message
TIMEOUT = 30.0  # seconds without a word of the other side
for _name in ("pynetdicom", "pynetdicom.events", "pynetdicom.association", "pynetdicom.acse", "pynetdicom.dimse"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)  # it writes whole data sets
    logging.getLogger(_name).propagate = False
SYNTAXES = [str(syntax) for syntax in (*sorted(NATIVE), *DECODERS, *sorted(FRAGILE))]
# Image storage that a site may hold (PS3.4 B.5); a requestor may offer 128 contexts.
IMAGES = tuple(
    UID(f"1.2.840.10008.5.1.4.1.1.{number}")
    for number in (
        "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "2.2", "4", "4.1", "4.4", "12.1", "12.1.1", "12.2", "12.2.1",
        "13.1.1", "13.1.2", "13.1.3", "20", "128", "130", "7", "7.1", "7.2", "7.3", "7.4", "6.1", "3.1",
    )
)  # fmt: skip


def entity(title: str) -> AE:
    """An application entity with bounds on everything that the other side could stretch."""
    made = AE(ae_title=title)
    made.maximum_pdu_size = MAX_PDU
    made.acse_timeout = made.dimse_timeout = made.network_timeout = TIMEOUT
    made.connection_timeout = TIMEOUT
    return made


def storage() -> list[PresentationContext]:
    """Every storage class, in each transfer syntax that is decoded here; what is no image is set aside later, by name."""
    return [build_context(str(context.abstract_syntax), SYNTAXES) for context in AllStoragePresentationContexts]
