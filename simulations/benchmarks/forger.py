"""Whoever sits on the wire of a run: delivers forged orders and replies around each genuine one, and notes what became of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from disturbed_run import Forged, Meddler, Parcel, Reply, World, answered, content_of, reply_with  # type: ignore[import-not-found]
from forged_orders import ORDERS, PAST_ORDERS, OrderFacts, essence, parcel_of  # type: ignore[import-not-found]
from forged_replies import LATER, REPLIES, STALE, ReplyFacts, flipped, stale  # type: ignore[import-not-found]

from fedrad_client.site import Home, Site
from fedrad_common import messages
from fedrad_common.chain import Entry
from fedrad_common.errors import FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.records import Answer, Asked, Order
from fedrad_server.runs import Run

# isort: split
from flwr.app import Message

SAME, ACCEPTED = "the same bytes again", "ACCEPTED"


@dataclass
class Tally:
    """Verdicts by what was delivered."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # accepted, or something changed, or not named

    def add(self, name: str, verdict: str, *, wrong: str = "") -> None:
        self.rows.setdefault(name, Counter())[verdict] += 1
        if wrong or verdict == ACCEPTED:
            self.wrong.append(f"{name}: {wrong or 'was accepted'}")

    def join(self, other: "Tally") -> None:
        for name, row in other.rows.items():
            self.rows.setdefault(name, Counter()).update(row)
        self.wrong += other.wrong

    @property
    def total(self) -> int:
        return sum(row.total() for row in self.rows.values())

    def of(self, *verdicts: str) -> int:
        return sum(row[verdict] for row in self.rows.values() for verdict in verdicts)

    def lines(self) -> Iterator[str]:
        for name, row in sorted(self.rows.items()):
            yield f"  {name:<56}{row.total():>5}  " + ", ".join(f"{verdict} {count}" for verdict, count in row.most_common())


class Listener(Meddler):  # type: ignore[misc] # beside this one
    """Keeps what passes: what could be replayed later."""

    def __init__(self) -> None:
        self.orders: dict[str, list[Asked]] = {}  # by site
        self.replies: dict[str, list[tuple[Order, Answer]]] = {}

    def after_order(self, site: Site, message: Message, reply: Message) -> None:
        self.orders.setdefault(site.name, []).append(messages.read_order(message.content))

    def after_reply(self, reply: Reply) -> Forged:
        self.replies.setdefault(reply.site, []).append((reply.order, reply.answer))
        return ()


@dataclass(frozen=True)
class Kinds:
    """What a forger delivers: names of both tables, and those that it waits with until the genuine one has passed."""

    orders: Sequence[str] = tuple(ORDERS)
    replies: Sequence[str] = tuple(REPLIES)
    later: frozenset[str] = PAST_ORDERS | LATER
    fields: Sequence[str] = ()  # of a stale envelope; empty: any


class Forger(Listener):
    """Delivers `each` forged orders and replies around every genuine one, until `cases` are used up, half of them each way."""

    def __init__(self, world: World, earlier: Listener, unapproved: Asked, *, cases: int, seed: int, kinds: Kinds) -> None:
        super().__init__()
        self.world, self.earlier, self.unapproved, self.kinds = world, earlier, unapproved, kinds
        self.rng, self.stranger = np.random.default_rng(seed), SigningKey.generate()
        self.left = {"orders": cases // 2 if kinds.orders else 0, "replies": cases - cases // 2 if kinds.replies else 0}
        self.each = 4 + cases // 60
        self.at_sites, self.at_coordinator = Tally(), Tally()
        given = [answer for heard in earlier.replies.values() for _, answer in heard]
        self.released = {
            answer.envelope.digest: answer.vector.tobytes() for answer in given if answer.envelope and answer.vector is not None
        }
        self.stands: object = None  # what the coordinator has stored

    # Towards a site

    def before_order(self, site: Site, message: Message) -> None:
        for _ in range(self.each // 2):
            self._deliver(site, message, after=False)

    def after_order(self, site: Site, message: Message, reply: Message) -> None:
        given = messages.read_answer(reply.content)
        if given.envelope is not None and given.vector is not None:
            self.released[given.envelope.digest] = given.vector.tobytes()
        for _ in range(self.each - self.each // 2):
            self._deliver(site, message, after=True)
        super().after_order(site, message, reply)

    def _deliver(self, site: Site, message: Message, *, after: bool) -> None:
        facts = OrderFacts(
            asked=messages.read_order(message.content), rng=self.rng, key=self.world.key, stranger=self.stranger,
            past=self.orders.get(site.name, []), finished=self.earlier.orders[site.name], unapproved=self.unapproved,
            others={name: heard[-1] for name, heard in self.orders.items() if name != site.name},
        )  # fmt: skip
        genuine = essence(Parcel.of(message))
        while self.left["orders"]:
            name = str(self.rng.choice(list(self.kinds.orders)))
            if not after and name in self.kinds.later:
                continue
            forge = ORDERS[name]
            made = flipped(Parcel.of(message), self.rng) if forge is None else forge(facts)
            parcel = parcel_of(made, message) if isinstance(made, Asked) else made
            if parcel is None or (not after and essence(parcel) == genuine):
                continue  # the genuine one cannot forestall itself
            self.left["orders"] -= 1
            self._judge(name, site, parcel)
            return

    def _judge(self, name: str, site: Site, parcel: Parcel) -> None:
        before, entries = _site_stands(site), len(site.audit.entries)
        try:
            arrived = parcel.opened(most_text=messages.MOST_EVIDENCE)
        except FormatError:
            self.at_sites.add(name, "no message")
            return
        given = messages.read_answer(answered(site, arrived).content)
        changed = "" if _site_stands(site) == before else "something was charged or released"
        if given.envelope is not None and given.vector is not None:
            again = self.released.get(given.envelope.digest) == given.vector.tobytes()
            self.at_sites.add(name, SAME if again else ACCEPTED, wrong=changed)
            return
        reason = next((noted for entry in site.audit.entries[entries:] if (noted := _noted(entry))), "")
        self.at_sites.add(name, reason, wrong=changed or ("" if reason else "is not in the audit log"))

    # Towards the coordinator

    def before_reply(self, reply: Reply) -> Forged:
        self.stands = run_stands(reply.run)
        return self._forged(reply, self.each // 2, after=False)

    def after_reply(self, reply: Reply) -> Forged:
        forged = self._forged(reply, self.each - self.each // 2, after=True)
        super().after_reply(reply)
        return forged

    def _forged(self, reply: Reply, count: int, *, after: bool) -> list[tuple[str, Parcel]]:
        found: list[tuple[str, Parcel]] = []
        if reply.answer.envelope is None:
            return found
        facts = ReplyFacts(
            reply=reply, rng=self.rng, key=Home(self.world.folder / "sites" / reply.site).envelope_key, stranger=self.stranger,
            past=self.replies.get(reply.site, []), finished=self.earlier.replies[reply.site],
            others=[given for name, heard in self.replies.items() if name != reply.site for order, given in heard if order == reply.order],
        )  # fmt: skip
        genuine = _essence(reply.answer)
        while len(found) < min(count, self.left["replies"]):
            name = str(self.rng.choice(list(self.kinds.replies)))
            if not after and name in self.kinds.later:
                continue
            made = stale(facts, only=self.kinds.fields) if name == STALE else REPLIES[name](facts)
            parcel = reply_with(reply.message, content_of(messages.ANSWER, *made)) if isinstance(made, tuple) else made
            if parcel is not None and (after or _received(parcel) != genuine):
                found.append((name, parcel))
        self.left["replies"] -= len(found)
        return found

    def became(self, name: str, verdict: str, run: Run) -> None:
        stands = run_stands(run)
        if name:
            last = run.events.entries[-1]
            named = not verdict or (last.type, last.body.get("code")) == ("rejected", verdict)
            wrong = "something was stored" if stands != self.stands else "" if named else "is not in the run's events"
            self.at_coordinator.add(name, {"accepted": ACCEPTED, "": SAME}.get(verdict, verdict), wrong=wrong)
        self.stands = stands


def _essence(answer: Answer) -> object:
    return answer.envelope, None if answer.vector is None else answer.vector.tobytes()


def _received(parcel: Parcel) -> object:
    try:
        return _essence(messages.read_answer(parcel.opened().content))
    except FormatError:
        return None


def _noted(entry: Entry) -> str:
    """Why, where the entry says that an order was refused."""
    return str(entry.body.get("reason", entry.body["code"])) if entry.type in ("refuse", "evidence-contradiction") else ""


def _site_stands(site: Site) -> object:
    released = [entry.body["envelope"] for entry in site.audit.entries if entry.type == "release"]
    return site.ledger.chain.head, sorted(site.outbox.directory.iterdir()), released


def run_stands(run: Run) -> object:
    stored = {path: path.read_bytes() for path in (run.directory / "rounds").glob("*/*s/*.*")}
    return stored, dict(run.sequences), dict(run.declared), run.head
