"""When a site answers: spans of the day by its own clock, as `site.toml` names them."""

from collections.abc import Sequence
from datetime import datetime


def local_now() -> datetime:
    """By this machine's clock and time zone."""
    return datetime.now().astimezone()


def within(hours: Sequence[str], now: datetime) -> bool:
    """Whether `now` lies in one of the spans, begin included and end not; always, where there is none.

    Args:
        hours: such as ("20:00-06:00",), which goes over midnight. What the clock on the wall shows counts, also when it is set forward.
    """
    return not hours or any(_holds(span, f"{now:%H:%M}") for span in hours)


def _holds(span: str, time: str) -> bool:
    begin, end = span.split("-")
    return begin <= time < end if begin < end else time >= begin or time < end
