"""Replayed, reordered, stale and edited orders and replies: is any accepted? `python simulations/benchmarks/replies.py`.

Around each genuine order and reply of a run others are delivered, drawn at random from two tables. A forged order must get a code, charge
nothing and be named in the site's audit log; a forged reply must get a code, store nothing and be named in the run's events. What turns
out to be the very bytes of a genuine one is counted apart: the same answer again, for free. The run's models and ledgers must be those of
a run that nobody disturbed. Two controls switch one check off. Exit status 1 where anything was accepted or differs.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from disturbed_run import World  # type: ignore[import-not-found] # beside this one
from forged_orders import SECOND_MODEL  # type: ignore[import-not-found]
from forged_replies import SECOND, STALE  # type: ignore[import-not-found]
from forger import ACCEPTED, SAME, Forger, Kinds, Listener  # type: ignore[import-not-found]

from fedrad_client import audit
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import LEDGER
from fedrad_common.errors import FedradError
from fedrad_common.records import Asked, sign
from fedrad_server.history import read_run
from fedrad_server.replay import replay

NAMES = ("ankara", "bergen", "cadiz")
RUN, FINISHED, UNAPPROVED = "the-run-itself", "a-finished-run", "an-unapproved-run"
CUTS = {1: 3, 2: 6}  # by epoch, the round in which the coordinator is killed


@contextmanager
def every_refusal_is_written() -> Iterator[None]:
    """As if each came a minute after the one before, and no day had an end: what is too often is only counted."""
    seconds = iter(range(0, 10**9, 61))
    written = mock.patch.object(audit, "refusals", audit.Refusals(clock=lambda: float(next(seconds))))
    with written, mock.patch.object(audit, "_MOST_A_DAY", 10**9):
        yield


def models(world: World) -> list[bytes]:
    records = read_run(world.folder / "runs" / RUN, files=False)
    return [records.released(number).tobytes() for number in range(records.round + 1)]


def spent(world: World) -> list[object]:
    return [read_ledger(world.folder / "sites" / name / LEDGER)[1] for name in NAMES]


def play(world: World, earlier: Listener, *, cases: int, seed: int, kinds: Kinds) -> tuple[Forger, str]:
    """One disturbed run, to its end or to where it breaks."""
    with world.launch(UNAPPROVED) as other:
        order, model = other.order("train")
        unapproved = Asked(sign(order, world.key), model, other.evidence(["ankara"], order)["ankara"])
    forger = Forger(world, earlier, unapproved, cases=cases, seed=seed, kinds=kinds)
    with every_refusal_is_written():
        try:
            return forger, str(world.play(RUN, forger).value)
        except FedradError:
            return forger, "broken"


def control(title: str, world: World, earlier: Listener, honest: list[bytes], *, cases: int, seed: int, kinds: Kinds) -> bool:
    """A positive one: what the same forger achieves without a check."""
    forger, outcome = play(world, earlier, cases=cases, seed=seed, kinds=kinds)
    accepted = forger.at_sites.of(ACCEPTED) + forger.at_coordinator.of(ACCEPTED)
    differs = models(world) != honest
    total = forger.at_sites.total + forger.at_coordinator.total
    print(f"control, {title}: {accepted} of {total} accepted; {outcome}, the models {'differ' if differs else 'are the same'}")
    return accepted > 0 and differs


def controls(made: World, scratch: Path, earlier: Listener, honest: list[bytes], *, cases: int, seed: int) -> bool:
    silent = ("epoch", "sequence", "protocol", "model", "manifest")  # what a stored answer is not asked for again when it is read
    stale_kinds = Kinds(orders=(), replies=(STALE, SECOND), fields=silent)
    with mock.patch("fedrad_server.acceptance.CHECKS", ()):
        world = made.copied(scratch / "without-checks", seed=seed, cuts={})
        one = control("no checks of an envelope", world, earlier, honest, cases=cases, seed=seed, kinds=stale_kinds)
    lies = Kinds(orders=(SECOND_MODEL,), replies=(), later=frozenset())
    with mock.patch("fedrad_client.answer.check_evidence", lambda site, order, asked: asked.evidence.manifests[-1].digest):
        world = made.copied(scratch / "without-evidence", seed=seed, cuts={})
        two = control("no check of the evidence", world, earlier, honest, cases=cases, seed=seed, kinds=lies)
    return one and two


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--control-cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # a line for each message that is no order
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedrad-replies-", dir=options.folder) as name:
        scratch, earlier = Path(name), Listener()
        made = World.make(scratch / "made", NAMES, runs=2)
        made.play(FINISHED, earlier)
        calm = made.copied(scratch / "calm", seed=options.seed, cuts=CUTS)
        disturbed = made.copied(scratch / "disturbed", seed=options.seed + 1, cuts=CUTS)
        calm.play(RUN)
        honest = models(calm)
        forger, outcome = play(disturbed, earlier, cases=options.cases, seed=options.seed, kinds=Kinds())
        equal = outcome == "finished" and models(disturbed) == honest and replay(disturbed.folder / "runs" / RUN).equal
        charged = spent(disturbed) == spent(calm)
        report(forger, options.cases)
        print(f"run {outcome} in {len(CUTS) + 1} epochs; models of all rounds {'equal' if equal else 'DIFFER'}, ", end="")
        print(f"ledgers {'equal' if charged else 'DIFFER'}")
        worked = controls(made, scratch, earlier, honest, cases=options.control_cases, seed=options.seed)
    print(f"replies: {time.monotonic() - began:.0f} s")
    wrong = forger.at_sites.wrong + forger.at_coordinator.wrong
    return int(bool(wrong) or not (equal and charged and worked))


def report(forger: Forger, cases: int) -> None:
    for title, tally in (("orders towards sites", forger.at_sites), ("replies towards the coordinator", forger.at_coordinator)):
        print(f"{title}: {tally.total}")
        print("\n".join(tally.lines()))
        for line in tally.wrong:
            print(f"  WRONG: {line}")
    both = (forger.at_sites, forger.at_coordinator)
    same, unread = (sum(tally.of(*verdicts) for tally in both) for verdicts in ((SAME,), ("no message", "no order")))
    accepted, made = sum(tally.of(ACCEPTED) for tally in both), sum(tally.total for tally in both)
    print(
        f"accepted: {accepted} of {made}; refused {made - same - accepted}, of these {unread} that were no order; same bytes again {same}"
    )
    if made != cases:
        print(f"WRONG: {made} of {cases} cases were delivered")


if __name__ == "__main__":
    sys.exit(main())
