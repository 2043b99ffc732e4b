"""A run whose every message goes through Flower's objects while somebody meddles with it: real sites, a real coordinator, one process.

What each side receives is put together and read by the code that a deployment uses (`messages`, `GridSites`, `rounds`, `answer`). A run is
cut twice in the middle of a round, as by a kill, so that there are orders of older epochs; replies come in an order drawn at random.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from echo import make_site  # type: ignore[import-not-found] # beside this one

from fedrad_client.app import handle
from fedrad_client.approval import approve
from fedrad_client.site import Home, Site, open_site
from fedrad_client.work import Job
from fedrad_common import messages  # before Flower: it switches off what Flower reads at import
from fedrad_common.errors import FormatError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Dtype, Vector, to_bytes
from fedrad_common.records import Answer, Evidence, Order, Signed
from fedrad_server.app.sites import GridSites, answer_in
from fedrad_server.rounds import Outcome, play
from fedrad_server.runs import Run
from fedrad_sim.entropy import seeded_entropy
from fedrad_sim.localgrid import LocalGrid, SimulatedClock

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

LENGTH = 64  # parameters, and cells of a histogram
MOST = messages.most_bytes(11_000_000)  # what a coordinator of a 44 MB model takes in: the hardest case for its memory
PROTOCOL = """
format = "fedrad-protocol-1"
name = "disturbed"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "echo", options = {{ length = {length} }} }}
privacy = {{ unit = "patient", epsilon = 0.5, expected_batch = 5.0, steps_per_round = 2, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {quorum}, deadline_seconds = 60.0, retries = 0, dtype = "{dtype}" }}
evaluation = {{ rounds = {evaluated}, epsilon = 1.0 }}
"""
Objects = dict[str, bytes]  # a message in the pieces that travel


@dataclass(frozen=True)
class Parcel:
    """One message as it travels: its id, the tree of its objects, and their bytes."""

    number: str
    tree: ObjectTree
    objects: Objects

    @classmethod
    def of(cls, message: Message) -> "Parcel":
        objects = {number: found.deflate() for number, found in get_all_nested_objects(message).items()}
        return cls(message.object_id, get_object_tree(message), objects)

    def opened(self, *, most_text: int = messages.MOST_TEXT) -> Message:
        """As `BoundedGrid` and a node's `fetch` do it. Raises FormatError."""
        messages.check_tree(self.tree, MOST)
        return messages.inflate(self.number, dict(self.objects), MOST, most_text=most_text)


def content_of(name: str, signed: Signed, vector: Vector, dtype: Dtype) -> RecordDict:
    """Any text and any vector, whether or not they belong together; `messages` itself writes only what does."""
    array = Array(dtype=dtype, shape=(int(vector.size),), stype=messages.SERIALIZATIONS[dtype], data=to_bytes(vector, dtype))
    return RecordDict(
        {name: ConfigRecord({"body": signed.body, "signature": signed.signature}), messages.VECTOR: ArrayRecord({messages.VECTOR: array})}
    )


def reply_with(message: Message, content: RecordDict) -> Parcel:
    return Parcel.of(Message(content, reply_to=message))


def work(job: Job, model: Vector) -> Vector:
    """As random as the reservation is, which a seed makes the same again."""
    drawn = np.random.default_rng(list(job.secret)).normal(size=LENGTH).astype(np.float32)
    return np.rint(3 * drawn) if job.kind == "evaluate" else drawn


def answered(site: Site, message: Message) -> Message:
    return handle(message, site=site, work=work, entropy=seeded_entropy(0, site.name))


@dataclass(frozen=True)
class Reply:
    """One genuine exchange, from the coordinator's side."""

    site: str
    order: Order
    message: Message  # that was answered
    answer: Answer
    run: Run


Forged = Iterable[tuple[str, Parcel]]  # what it is called, and what arrives


class Meddler:
    """Sits on the wire; this one lets everything pass."""

    def before_order(self, site: Site, message: Message) -> None:
        """`message` is about to reach the site."""

    def after_order(self, site: Site, message: Message, reply: Message) -> None:
        """The site has answered."""

    def before_reply(self, reply: Reply) -> Forged:
        return ()

    def after_reply(self, reply: Reply) -> Forged:
        return ()

    def became(self, name: str, verdict: str, run: Run) -> None:
        """What the coordinator made of one reply: "accepted", a code, or nothing at all. The genuine one has no name."""


class Cut(BaseException):
    """kill -9 of the coordinator."""


class _Grid(LocalGrid):
    """LocalGrid, but what is pulled has travelled."""

    def __init__(self, names: Iterable[str], answer: Callable[[str, Message], Message]) -> None:
        super().__init__(names, answer)
        self.asked: dict[str, Message] = {}  # the newest by site

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = list(messages)
        self.asked |= {self._names[message.metadata.dst_node_id]: message for message in pushed}
        return super().push_messages(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            for reply in super().pull_messages([number]):
                found = Parcel.of(reply).opened()
                found.metadata.__dict__["_reply_to_message_id"] = number  # the server's word, as `BoundedGrid` keeps it
                yield found


class _Watched(list[tuple[str, Answer]]):
    """Looks at what became of each answer before it gives the next one."""

    def __init__(self, answers: Sequence[tuple[str, Answer]], look: Callable[[int], None]) -> None:
        super().__init__(answers)
        self._look = look

    def __iter__(self) -> Iterator[tuple[str, Answer]]:
        for index, pair in enumerate(super().__iter__()):
            yield pair
            self._look(index)


class _MeddledSites(GridSites):
    """GridSites whose genuine replies are shuffled, and surrounded by forged ones."""

    def __init__(
        self, grid: _Grid, run: Run, world: "World", meddler: Meddler, *, clock: SimulatedClock, said: list[str]
    ) -> None:  # fmt: skip
        super().__init__(grid, lifetime=1e6, clock=clock, sleep=clock.sleep)
        self.grid, self.run, self.world, self.meddler = grid, run, world, meddler
        self.said = said
        self.held: list[tuple[str, Answer]] = []
        self.order: Order | None = None
        self.taken = False  # a reply, in a round in which this epoch is cut

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        self.order, self.held = order.peek(Order, what="order"), []
        super().ask(sites, order, model, evidence)

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        assert self.order is not None
        if self.taken:
            raise Cut
        while found := super().poll(0.0):
            self.held += found
        if not self.held:
            return super().poll(timeout)
        site, answer = self.held.pop(int(self.world.shuffle.integers(len(self.held))))
        reply = Reply(site, self.order, self.grid.asked[site], answer, self.run)
        self.taken = self.order.kind == "train" and self.world.cuts.get(self.run.epoch) == self.order.round
        names, answers = [""], [(site, answer)]
        for name, parcel in self.meddler.before_reply(reply):
            names.insert(-1, name)
            answers.insert(-1, (site, self.received(parcel)))
        for name, parcel in self.meddler.after_reply(reply):
            names.append(name)
            answers.append((site, self.received(parcel)))

        def look(index: int) -> None:
            verdict = self.said[-1] if self.said else ""
            self.said.clear()
            self.meddler.became(names[index], verdict, self.run)

        self.said.clear()
        return _Watched(answers, look)

    def received(self, parcel: Parcel) -> Answer:
        """As `BoundedGrid` and `GridSites` read any reply."""
        try:
            reply = parcel.opened()
        except FormatError:
            return Answer()
        return Answer() if reply.has_error() else answer_in(reply)


@dataclass
class World:
    """Sites and a coordinator on disk, made once; `copied` gives the same again, keys and all."""

    folder: Path
    content: bytes
    names: tuple[str, ...]
    key: SigningKey
    guests: dict[str, SigningKey] = field(default_factory=dict)  # in the roster, played by the benchmark itself
    seed: int = 0  # of the order in which replies come
    cuts: Mapping[int, int] = field(default_factory=dict)  # by epoch, the round in which it is cut after its first reply

    def __post_init__(self) -> None:
        self.shuffle = np.random.default_rng(self.seed)

    @classmethod
    def make(cls, folder: Path, names: tuple[str, ...], *, guests: tuple[str, ...] = (), runs: int = 1, **changes: Any) -> "World":
        values: dict[str, Any] = {
            "length": LENGTH,
            "rounds": 8,
            "quorum": len(names),
            "dtype": "float32",
            "evaluated": [2, 5, 8],
            **changes,
        }
        content = PROTOCOL.format(**values).encode()
        key = SigningKey.generate()
        for name in names:
            make_site(folder / "sites" / name, key)
            with open_site(folder / "sites" / name) as site:
                approve(site, content, declared_size=60, runs=runs)
        return cls(folder, content, names, key, {name: SigningKey.generate() for name in guests})

    def copied(self, folder: Path, *, seed: int, cuts: Mapping[int, int]) -> "World":
        shutil.copytree(self.folder, folder)
        return World(folder, self.content, self.names, self.key, self.guests, seed, cuts)

    @property
    def roster(self) -> dict[str, str]:
        own = {name: Home(self.folder / "sites" / name).envelope_key.public.hex for name in self.names}
        return own | {name: key.public.hex for name, key in self.guests.items()}

    def launch(self, name: str) -> Run:
        initial = np.random.default_rng(0).normal(size=LENGTH).astype(np.float32)
        path = self.folder / "runs" / name
        return Run.create(path, self.content, roster=self.roster, key=self.key, initial=initial, seeded=True, run=name)

    def play(self, name: str, meddler: Meddler | None = None, *, guest: Callable[[str, Message], Message] | None = None) -> Outcome:
        """One run from its launch to its end, over all its epochs. `guest` answers for those who are no real sites."""
        meddler, clock, run = meddler or Meddler(), SimulatedClock(), self.launch(name)
        said: list[str] = []
        with ExitStack() as stack:
            sites = {name: stack.enter_context(open_site(self.folder / "sites" / name)) for name in self.names}

            def answer(site: str, message: Message) -> Message:
                if site not in sites:
                    assert guest is not None
                    return guest(site, message)
                arrived = Parcel.of(message).opened(most_text=messages.MOST_EVIDENCE)
                meddler.before_order(sites[site], arrived)
                reply = answered(sites[site], arrived)
                meddler.after_order(sites[site], arrived, reply)
                return reply

            while True:
                with run:
                    grid = _Grid([*self.names, *self.guests], answer)
                    meddled = _MeddledSites(grid, run, self, meddler, clock=clock, said=said)
                    try:
                        return play(run, meddled, clock=clock, progress=lambda number, site, what: said.append(what))
                    except Cut:
                        pass
                run = Run.open(self.folder / "runs" / name, self.key)
