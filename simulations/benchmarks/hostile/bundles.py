"""Does a site run, or even unpack, the code that a coordinator packs? `python simulations/benchmarks/hostile/bundles.py`.

A malicious coordinator has everything that the true one has: the authority's certificate, Control's token, the tasks' secret. It runs
Flower's own server, without our guard, and starts a run with each of 50 foreign or modified bundles; each writes a file when it is
imported. In each run it sends our node a message. Looked for: that file, anything new that looks like code below every folder that the
node can write, and requests for a bundle on the wire. Control: a stock SuperNode in the first runs of the same server. Exit status 1 where
our node ran, fetched or unpacked one, or where the control did not.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from asking import until  # type: ignore[import-not-found] # beside this one, as are the next
from nodes import Hospital, ours, supernode  # type: ignore[import-not-found]
from packed import Bundle, bundles, plain  # type: ignore[import-not-found]
from servers import Place, stock  # type: ignore[import-not-found]
from wire import Wire, recorder  # type: ignore[import-not-found]

from fedrad_server.home import Home

# isort: split
import httpx
from flwr.cli.install import install_from_fab
from flwr.supercore.object_ref import load_app

FETCH = b"/v1/fleet/get-fab"


@dataclass(frozen=True)
class Deeds:
    """What a node did with bundles."""

    executed: int
    unpacked: int  # files that look like code, and were not there before
    fetched: int  # requests for one

    @classmethod
    def of(cls, hospital: Hospital, before: set[str], wire: Wire) -> "Deeds":
        return cls(len(hospital.canaries), len(hospital.code() - before), b"".join(wire.passed).count(FETCH))

    @property
    def any(self) -> bool:
        return bool(self.executed or self.unpacked or self.fetched)

    def __str__(self) -> str:
        return f"{self.executed} executed, {self.unpacked} files of code unpacked, {self.fetched} requests for one"


def launch(place: Place, bundle: Bundle, *hospitals: Hospital) -> list[bool]:
    """A run with this bundle, and a message to each hospital. Which of them answered; raises HTTPStatusError where Flower refuses it."""
    flowing = place.start(bundle.digest, bundle.content)
    sent = [flowing.tell(one.site.number) for one in hospitals]
    return [until(lambda number=number: flowing.replied(number) is not None, what="an answer") for number in sent]


def load_like_flower(bundle: Bundle) -> bool:
    """Does it run where Flower's own functions unpack and load it?"""
    with tempfile.TemporaryDirectory() as name:
        place, canary = Path(name) / "apps", Path(name) / "canary"
        canary.mkdir()
        os.environ["FEDRAD_CANARY"] = str(canary)
        load_app("hostile.client:app", RuntimeError, install_from_fab(bundle.content, place, True))
        return any(canary.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=int, default=50)
    parser.add_argument("--stock", type=int, default=3, help="runs in which a stock SuperNode takes part; 0: only Flower's loader, alone")
    parser.add_argument("--lean", action="store_true", help="our node without its child, which loads for seconds and sees no bundle")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        place = stack.enter_context(stock(folder, Home.create(folder / "coordinator")))
        our_wire, their_wire = stack.enter_context(recorder(place)), stack.enter_context(recorder(place))
        north = stack.enter_context(ours(place, folder, our_wire.port, lean=options.lean))
        before = north.code()
        others = [stack.enter_context(supernode(place, folder, their_wire.port))] if options.stock else []
        answered = refused = 0
        for number, bundle in enumerate([plain(1000, "hostile"), *bundles()][: options.bundles]):
            try:
                launch(place, bundle, north, *(others if number < options.stock else []))
                answered += 1
            except httpx.HTTPStatusError as error:
                refused += 1
                print(f"  Flower's own server takes no such bundle: {bundle.name}: {error.response.status_code}")
        ours_did = Deeds.of(north, before, our_wire)
        theirs_did = [Deeds.of(one, set(), their_wire) for one in others]
    loaded = load_like_flower(plain(1000, "hostile"))
    print(f"fedrad: of {answered} bundles, {ours_did}")
    print(*(f"control: a stock SuperNode, of {options.stock}, {deeds}" for deeds in theirs_did), sep="\n")
    print(f"control: Flower's loader alone: {'executed' if loaded else 'not executed'}")
    failed = ours_did.any or answered < min(options.bundles, 50) or not loaded or not all(deeds.executed for deeds in theirs_did)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
