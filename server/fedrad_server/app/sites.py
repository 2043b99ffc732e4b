"""Flower's Grid as the `Sites` that rounds knows: names instead of node numbers, answers instead of messages, silence instead of errors."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from fedrad_common import messages  # first: it switches off what Flower reads at import

# isort: split
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrad_common.errors import FormatError
from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Evidence, Order, Signed
from fedrad_server.contacts import GONE

_TYPES = {"train": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}
_INTERVAL = 0.05  # seconds between two looks at all open messages
_REPEATS = 3  # that a site is asked again of our own accord, in one attempt of `rounds`


@dataclass(frozen=True)
class _Asked:
    """A message that is open: to which site, and by which call of `ask`."""

    site: str
    turn: int


class GridSites:
    """Keeps what it asked until there is an answer: whoever was away, or was killed while answering, is asked again when it is back."""

    def __init__(
        self,
        grid: Grid,
        *,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        contacts: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """
        Args:
            lifetime: seconds after which Flower forgets a message that nobody answered.
            contacts: the seconds since each site last spoke to the coordinator; without it nobody is ever absent.
        """
        self._grid, self._lifetime, self._clock, self._sleep = grid, lifetime, clock, sleep
        self._open: dict[str, _Asked] = {}  # by message id, the oldest first
        self._arrived: Iterator[Message] = iter(())  # what the grid gave and nobody looked at yet
        self._unsent: set[str] = set()
        self._contacts, self._began = contacts, clock()
        self._turn, self._repeats = 0, dict[str, int]()
        self._newest: dict[str, int] = {}  # turn of the last message to each site
        self._orders: dict[int, str] = {}  # by turn
        self._content, self._type, self._group = RecordDict(), "", ""
        self._evidence: Mapping[str, Evidence] = {}

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        """A new message each time: Flower hands out the same one once, and the site's outbox makes a repeated answer free."""
        asked = order.peek(Order, what="order")
        self._content, self._type, self._group = messages.order_content(order, model), _TYPES[asked.kind], str(asked.round)
        if self._orders.get(self._turn) != order.digest:
            self._unsent, self._repeats, self._evidence = set(), {}, {}
        self._turn, self._unsent, self._repeats = self._turn + 1, self._unsent | set(sites), self._repeats | dict.fromkeys(sites, _REPEATS)
        self._orders[self._turn], self._evidence = order.digest, {**self._evidence, **evidence}
        self._send()

    def absent(self) -> Mapping[str, float]:
        """Nobody is, before it was listened for as long: when the coordinator itself comes back, everybody was silent."""
        if self._contacts is None:
            return {}
        ages, listened = self._contacts(), self._clock() - self._began
        silence = {site: min(ages.get(site, listened), listened) for site in self._repeats}
        return {site: seconds for site, seconds in silence.items() if seconds > GONE}

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        """At most one answer a call, so that only one vector is in memory."""
        deadline = self._clock() + timeout
        while True:
            if (word := self._next()) is not None:
                return [word]
            pause = min(_INTERVAL, deadline - self._clock())
            if pause <= 0:
                return []
            self._sleep(pause)
            self._send()

    def _next(self) -> tuple[str, Answer] | None:
        """The next site's word on an order. A grid may give one reply at a time, so it is asked until it has none."""
        while True:
            reply = next(self._arrived, None)
            if reply is None:
                self._arrived = iter(self._grid.pull_messages(list(self._open)) if self._open else ())
                reply = next(self._arrived, None)
            if reply is None:
                return None
            if (word := self._word(reply)) is not None:
                return word

    def _word(self, reply: Message) -> tuple[str, Answer] | None:
        """None where the site's message will get no answer, or where it is a refusal of an earlier order: no word on this one."""
        asked = self._open.pop(reply.metadata.reply_to_message_id, None)
        if asked is None:
            return None
        if reply.has_error():
            if asked.turn == self._newest[asked.site] and self._repeats.get(asked.site):
                self._repeats[asked.site] -= 1
                self._unsent.add(asked.site)
            return None
        answer = answer_in(reply)
        current = self._orders[asked.turn] == self._orders[self._turn]
        return (asked.site, answer) if current or answer.envelope is not None else None

    def _send(self) -> None:
        if not self._unsent:
            return
        online = {node.name: node.node_id for node in self._grid.get_nodes()}
        sites = sorted(self._unsent & online.keys())
        sent = [
            Message(
                messages.with_evidence(self._content, self._evidence[site]),
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
                self._open[number] = _Asked(site, self._turn)
                self._newest[site] = self._turn
                self._unsent.discard(site)
                self._forget(site)

    def _forget(self, site: str) -> None:
        """Of each order two messages to a site stay open: it may be at work on the first, and the newest is for one that was killed.

        A site that comes and goes would collect any number, and could answer each.
        """
        order = self._orders[self._turn]
        same = [number for number, asked in self._open.items() if asked.site == site and self._orders[asked.turn] == order]
        for number in same[1:-1]:
            del self._open[number]


def answer_in(reply: Message) -> Answer:
    try:
        return messages.read_answer(reply.content)
    except FormatError:
        return Answer()  # nothing that could be accepted: `rounds` notes it as malformed
