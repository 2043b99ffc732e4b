"""A site of the roster sends a thousand answers that are wrong in every way we know: `python simulations/benchmarks/malformed.py`.

It answers the first round as it should and then lies, in a run whose vectors travel as float32 and in one of float16. Each answer goes
through the code that pulls, puts together, reads and checks an answer in a deployment. Each must get the code of its kind, store nothing,
and leave the models to the bit what they are where the site is silent; all of them together must not take memory. Two controls show what
Flower's own parts do. Exit status 1 where anything differs.
"""

import argparse
import logging
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from disturbed_run import Forged, Meddler, Parcel, Reply, World  # type: ignore[import-not-found] # beside this one
from forger import Tally, run_stands  # type: ignore[import-not-found]
from guest import SITE, Guest  # type: ignore[import-not-found]
from malformed_answers import kinds  # type: ignore[import-not-found]
from replies import NAMES, RUN, models  # type: ignore[import-not-found]

from fedrad_common import messages
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Dtype
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer
from fedrad_server.acceptance import REJECTION_CODES
from fedrad_server.replay import replay
from fedrad_server.runs import Run

# isort: split
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

BAR = 64.0  # MiB
EXCHANGES = 10  # of the guest after round 1: seven of training, three evaluations


class Liar(Meddler):  # type: ignore[misc] # beside this one
    """Answers round 1, refuses every other order, and where it `lies` sends `each` malformed answers besides."""

    def __init__(self, world: World, rng: np.random.Generator, *, cases: int, honest: bool) -> None:
        self.key: SigningKey = world.guests[SITE]
        self.protocol, self.rng, self.left, self.each = parse_protocol(world.content), rng, cases, -(-cases // EXCHANGES)
        self.tally, self.expected = Tally(), dict[str, str]()
        self.stands: object = None
        self.honest = honest  # the control: the same answers without their faults

    def guest(self, message: Message, *, sequence: int = 1) -> Guest:
        return Guest(self.key, self.protocol, message, self.rng, sequence)

    def answer(self, site: str, message: Message) -> Message:
        assert site == SITE
        guest = self.guest(message)
        first = guest.trains and guest.order.round == 1
        content = guest.content() if first else messages.answer_content(Answer(refusal="policy"))
        return Message(content, reply_to=message)

    def before_reply(self, reply: Reply) -> Forged:
        self.stands = run_stands(reply.run)
        if reply.site != SITE or (reply.order.kind, reply.order.round) == ("train", 1):
            return
        guest = self.guest(reply.message, sequence=reply.run.sequences[SITE] + 1)
        known = {"no fault": ("accepted", Guest.whole)} if self.honest else kinds(guest)
        names = [str(name) for _ in range(-(-self.each // len(known))) for name in self.rng.permutation(sorted(known))]
        for name in names[: min(self.each, self.left)]:
            self.left -= 1
            self.expected[name], forge = known[name]
            yield name, forge(guest)

    def became(self, name: str, verdict: str, run: Run) -> None:
        stands = run_stands(run)
        if name:
            last = run.events.entries[-1]
            wrong = "" if verdict == self.expected[name] else f"{verdict or 'nothing'} and not {self.expected[name]}"
            wrong = wrong or (
                "" if self.honest or (last.type, last.body.get("code")) == ("rejected", verdict) else "is not in the run's events"
            )
            stored = verdict != "accepted" and stands != self.stands
            self.tally.add(name, verdict, wrong="something was stored" if stored else wrong)
        self.stands = stands


class Memory:
    """The most that this process held at once, in MiB, over what it held at the beginning."""

    def __init__(self) -> None:
        with suppress(OSError):  # where the kernel does not let it be reset, it is the most since the process began
            Path("/proc/self/clear_refs").write_text("5")
        self.before = self._status("VmRSS")

    @property
    def growth(self) -> float:
        return self._status("VmHWM") - self.before

    def _status(self, name: str) -> float:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[name].split()[0]) / 1024


def play(made: World, scratch: Path, name: str, *, cases: int, seed: int, honest: bool = False) -> tuple[Liar, str, list[bytes], float]:
    world = made.copied(scratch / name, seed=seed, cuts={})
    liar, memory = Liar(world, np.random.default_rng(seed), cases=cases, honest=honest), Memory()
    outcome = world.play(RUN, liar, guest=liar.answer)
    equal = replay(world.folder / "runs" / RUN).equal
    return liar, str(outcome.value) if equal else "not what replay gives", models(world), memory.growth


def flowers_memory() -> float:
    """What Flower's own inflating takes for one piece of 64 KiB that is named four thousand times: 256 MiB."""
    array = Array(dtype="uint8", shape=(65536,), stype="numpy.ndarray", data=bytes(65536))
    parcel = Parcel.of(Message(RecordDict({"arrays": ArrayRecord({"a": array})}), dst_node_id=2, message_type="train"))
    number = next(number for number, content in parcel.objects.items() if content.startswith(b"Array "))
    head, _, body = parcel.objects[number].partition(b"\0")
    bomb = body.replace(b"[0]", b"[" + b"0, " * 4095 + b"0]")
    kind, children, _ = head.split(b" ")
    objects = {**parcel.objects, number: b" ".join((kind, children, str(len(bomb)).encode())) + b"\0" + bomb}
    memory = Memory()
    inflate_object_from_contents(parcel.number, objects)
    return memory.growth


def flowers_model(*, bad: np.ndarray, weight: float) -> np.ndarray:
    """FedAvg of Flower over three honest sites, whose mean is 1, and one that is not."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    sent = [(np.full(64, value), 60.0) for value in (0.5, 1.0, 1.5)] + [(bad, weight)]
    replies = [
        Message(
            RecordDict({"arrays": ArrayRecord({"a": Array(vector)}), "metrics": MetricRecord({"num-examples": size})}),
            dst_node_id=1,
            message_type="train",
        )
        for vector, size in sent
    ]
    arrays, _ = FedAvg().aggregate_train(1, replies)
    assert arrays is not None
    return np.asarray(arrays["a"].numpy())


def controls() -> bool:
    one_nan = np.ones(64)
    one_nan[3] = np.nan
    spoiled = int(np.isnan(flowers_model(bad=one_nan, weight=60.0)).sum())
    lying = float(np.abs(flowers_model(bad=np.full(64, 9.0), weight=1e12) - 1).max())
    grown = flowers_memory()
    print(f"control, Flower's FedAvg: one NaN leaves {spoiled} NaN in the model; a site of 1e12 examples moves it from 1 by {lying:.2f}")
    print(f"control, Flower's inflating: one piece of 64 KiB named 4,096 times takes {grown:.0f} MiB")
    return spoiled > 0 and lying > 7 and grown > 200


def one_type(scratch: Path, dtype: Dtype, *, cases: int, seed: int) -> tuple[Tally, bool, float]:
    made = World.make(scratch / "made", NAMES, guests=(SITE,), dtype=dtype)
    _, calm, honest, _ = play(made, scratch, "calm", cases=0, seed=seed)
    liar, outcome, found, growth = play(made, scratch, "disturbed", cases=cases, seed=seed)
    faultless, _, other, _ = play(made, scratch, "faultless", cases=EXCHANGES, seed=seed, honest=True)
    equal, accepted = calm == outcome == "finished" and found == honest, faultless.tally.of("accepted")
    print(f"{dtype}: run {outcome}; models of all rounds {'equal' if equal else 'DIFFER'}; memory grew by {growth:.0f} MiB at most")
    print(f"{dtype}, control: without its fault the same site's answer is accepted in {accepted} of {EXCHANGES} exchanges, ", end="")
    print(f"and the models {'differ' if other != honest else 'are the same'}")
    return liar.tally, equal and accepted == EXCHANGES and other != honest, growth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    began, both, good = time.monotonic(), Tally(), True
    dtypes: tuple[Dtype, Dtype] = ("float32", "float16")
    for number, dtype in enumerate(dtypes):
        with tempfile.TemporaryDirectory(prefix="fedrad-malformed-", dir=options.folder) as name:
            cases = options.cases // 2 if number else options.cases - options.cases // 2
            tally, equal, growth = one_type(Path(name), dtype, cases=cases, seed=options.seed + number)
        both.join(tally)
        good = good and equal and growth < BAR
    print("\n".join(both.lines()))
    for line in both.wrong:
        print(f"  WRONG: {line}")
    print(f"malformed: {both.total - both.of('accepted')} of {both.total} refused, in {len(both.rows)} kinds; ", end="")
    print(", ".join(f"{code} {both.of(code)}" for code in REJECTION_CODES if both.of(code)))
    good = controls() and good
    print(f"malformed: {time.monotonic() - began:.0f} s")
    return int(bool(both.wrong) or both.total != options.cases or not good)


if __name__ == "__main__":
    sys.exit(main())
