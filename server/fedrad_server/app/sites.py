"""Flower's Grid as the `Sites` that rounds knows: names instead of node numbers, answers instead of messages, silence instead of errors."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrad_common.errors import FormatError
from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Order, Signed

_TYPES = {"train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}
_INTERVAL = 0.05  # seconds between two looks at all open messages, and for each of them
_EACH = 0.003
_REPEATS = 3  # that a site is asked again of our own accord, in one attempt of `rounds`


class GridSites:
    """Keeps what it asked until there is an answer: whoever was away, or was killed while answering, is asked again when it is back."""

    def __init__(
        self,
        grid: Grid,
        *,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """lifetime: seconds after which Flower forgets a message that nobody answered."""
        self._grid, self._lifetime, self._clock, self._sleep = grid, lifetime, clock, sleep
        self._open: deque[tuple[str, str, int]] = deque()  # (message id, site, turn), the least recently looked at first
        self._unsent: set[str] = set()
        self._turn, self._repeats = 0, dict[str, int]()
        self._orders: dict[int, str] = {}  # by turn
        self._content, self._type, self._group = RecordDict(), "", ""
        self._witnesses: Mapping[str, Signed] = {}

    def ask(self, sites: Collection[str], order: Signed, model: Vector, witnesses: Mapping[str, Signed]) -> None:
        """A new message each time: Flower hands out the same one once, and the site's outbox makes a repeated answer free."""
        asked = order.peek(Order, what="order")
        self._content, self._type, self._group = messages.order_content(order, model), _TYPES[asked.kind], str(asked.round)
        self._turn, self._unsent, self._repeats = self._turn + 1, set(sites), dict.fromkeys(sites, _REPEATS)
        self._orders[self._turn], self._witnesses = order.digest, dict(witnesses)
        self._send()

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        """At most one answer a call, so that only one vector is in memory."""
        deadline = self._clock() + timeout
        while True:
            for _ in range(len(self._open)):
                number, site, turn = self._open.popleft()
                found = self._pull(number)
                if found is None:
                    self._open.append((number, site, turn))
                elif isinstance(found, Answer):
                    if self._orders[turn] == self._orders[self._turn] or found.envelope is not None:
                        return [(site, found)]
                    # a refusal of an earlier order is no word on this one
                elif turn == self._turn and self._repeats[site]:
                    self._repeats[site] -= 1
                    self._unsent.add(site)
            pause = min(_INTERVAL + _EACH * len(self._open), deadline - self._clock())
            if pause <= 0:
                return []
            self._sleep(pause)
            self._send()

    def _send(self) -> None:
        if not self._unsent:
            return
        online = {node.name: node.node_id for node in self._grid.get_nodes()}
        sites = sorted(self._unsent & online.keys())
        sent = [
            Message(
                messages.with_witness(self._content, self._witnesses.get(site)),
                dst_node_id=online[site],
                message_type=self._type,
                ttl=self._lifetime,
                group_id=self._group,
            )
            for site in sites
        ]
        if not sent:
            return
        for site, number in zip(sites, self._grid.push_messages(sent), strict=True):
            if number:
                self._open.append((number, site, self._turn))
                self._unsent.discard(site)

    def _pull(self, number: str) -> Answer | str | None:
        """The answer, "gone" where this message will get none, or None while it is open. One at a time: a bad reply harms no other."""
        try:
            replies = list(self._grid.pull_messages([number]))
            if not replies:
                return None
            if replies[0].has_error():
                return "gone"
            return messages.read_answer(replies[0].content)
        except FormatError:
            return Answer()  # nothing that could be accepted: `rounds` notes it as malformed
