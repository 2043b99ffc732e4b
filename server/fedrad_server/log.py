"""The coordinator's log: one line on stderr for each thing that happens, with its time, and codes instead of other people's words."""

import sys
from datetime import UTC, datetime


def say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
    sys.stderr.flush()
