"""A node's log: our own lines and codes, on stderr and in a small rotating file. What libraries say would quote the other side."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

NAME = "node.log"
_BYTES, _FILES = 1_000_000, 5
_OURS = "fedrad_client"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@contextlib.contextmanager
def logging_codes(folder: Path) -> Iterator[None]:
    """For the block, log on stderr and into `folder`/node.log, five files of 1 MB at most."""
    logging.raiseExceptions = False  # a full disk: the line is on stderr all the same
    for name in ("flwr", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(logging.NullHandler())  # without any, Python would print the others' warnings
    ours = logging.getLogger(_OURS)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    with contextlib.suppress(OSError):  # a read-only or full disk: see above
        handlers.append(RotatingFileHandler(folder / NAME, maxBytes=_BYTES, backupCount=_FILES - 1, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()
