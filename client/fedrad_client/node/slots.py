"""When a reply leaves: at a multiple of the protocol's time slot after the order came, so that its time does not tell the work's length.

An update, a histogram, a refusal and a stored answer all wait alike (privacy.md, rule 10). A slot that the work overran is followed
by the next one: how many it took shows, so a protocol names slots longer than the work. Nothing of this is
logged: the line would be a step time.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedrad_client.site import Home
from fedrad_common.errors import FedradError
from fedrad_common.records import Order, Signed


@dataclass(frozen=True)
class Clock:
    """Seconds that never run backwards, and a wait that outlasts a signal whose handler returns."""

    now: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep


def due(received: float, now: float, slot: float) -> float:
    """When a reply that is ready `now` leaves: at received + k × slot, the smallest k ≥ 1 that is not past; at once without slots."""
    if slot == 0:
        return now
    turn = max(1, math.floor((now - received) / slot))
    while received + turn * slot < now:
        turn += 1
    return received + turn * slot


def hold(received: float, slot: float, clock: Clock) -> None:
    """Return when the reply is due. A wait that ends early is taken up again."""
    leaves = due(received, clock.now(), slot)
    while (left := leaves - clock.now()) > 0:
        clock.wait(left)


def slot_of(home: Home, order: Signed) -> float:
    """The time slot of the protocol that an order names, before anything else is known of it; 0 where nobody approved such a one.

    Neither the order's signature nor any data decides: a protocol that is not approved here is answered with a code and no work.
    """
    try:
        found = home.approved(order.peek(Order, what="order").protocol)
    except (FedradError, OSError):
        return 0.0
    return 0.0 if found is None else found[0].rounds.slot_seconds
