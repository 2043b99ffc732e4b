"""What `answer` adds to a round's DP training, and how much of it is the ledger: `python simulations/benchmarks/answer_overhead.py`.

A demo hospital (invented DICOM, ingested as any) answers the demo protocol's rounds. The work alone and the whole answer are timed in the
same calls: the work's own seconds are taken inside `answer`, so both see the same machine at the same moment. Homes lie on the disk, every
sync is real, and the site is opened for each order, as a node does. `--history 5000` gives it a ledger of as many entries beforehand.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.privacy.ledger import Ledger
from fedrad_client.site import open_site
from fedrad_client.work import Job, run_inline
from fedrad_common.identity import SigningKey
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.protocol import load_protocol, render_protocol
from fedrad_common.records import Order
from fedrad_sim.hospitals import make_hospitals, open_hospital
from fedrad_sim.one_site import asked
from fedrad_sim.processes import use_one_core
from fedrad_sim.scenario import find_scenario, load_scenario, protocol_path


class Watch:
    """Seconds spent in some functions, by round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*positional: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*positional, **named)
            finally:
                self.seconds[-1] += time.perf_counter() - start

        return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--history", type=int, default=0, help="entries that the ledger holds already")
    arguments = parser.parse_args()
    use_one_core()
    path = find_scenario("demo")
    scenario = load_scenario(path)
    protocol = load_protocol(protocol_path(scenario, path))
    content, key, working, counting = render_protocol(protocol), SigningKey.generate(), Watch(), Watch()
    work: Callable[[Job, Vector], Vector] = working.timed(run_inline)
    with tempfile.TemporaryDirectory(prefix="fedrad-overhead-", dir=Path.cwd()) as name:
        scratch = Path(name)
        hospital = make_hospitals(scenario, path, scratch / "hospitals", lambda *_: None).sites[0]
        (scratch / "protocol.toml").write_bytes(content)
        home = scratch / "sites" / hospital.name
        size = open_hospital(hospital, home, scenario=scenario, protocol=scratch / "protocol.toml", key=key, say=lambda line: None)
        with open_site(home) as site:
            approve(site, content, declared_size=size)
            for _ in range(arguments.history):
                site.ledger.chain.append("clock", {"before": "1970-01-01T00:00:00+00:00"})
        ledger_open = Ledger.open
        Ledger.open = counting.timed(ledger_open)  # type: ignore[method-assign]
        for name in ("reserve_run", "reserve_answer"):
            setattr(Ledger, name, counting.timed(getattr(Ledger, name)))
        totals, model = [], initial_vector(protocol)
        for number in range(1, min(arguments.rounds, protocol.privacy.rounds) + 1):
            order = Order(
                run="overhead-0001",
                epoch=1,
                round=number,
                kind="train",
                protocol=protocol.hash,
                model=vector_hash(model),
                length=model.size,
            )
            question = asked(order, model, key, home)
            working.seconds.append(0.0)
            counting.seconds.append(0.0)
            start = time.perf_counter()
            with open_site(home) as site:
                given = answer(site, question, work=work)
            totals.append(time.perf_counter() - start)
            assert given.vector is not None, given.refusal
            model = np.asarray(model + given.vector, dtype=np.float32)
    # The first round loads the cohort and the libraries.
    worked, whole, counted = working.seconds[1:], totals[1:], counting.seconds[1:]
    added = [total - one for total, one in zip(whole, worked, strict=True)]
    shares = [extra / one for extra, one in zip(added, worked, strict=True)]
    print(
        f"{len(worked)} rounds of {protocol.privacy.steps_per_round} steps, {size} declared patients, {arguments.history} earlier entries"
    )
    for what, seconds in (("work", worked), ("answer adds", added), ("of it the ledger", counted)):
        print(f"  {what:<17} median {1000 * statistics.median(seconds):8.1f} ms  ({1000 * min(seconds):.1f} … {1000 * max(seconds):.1f})")
    print(f"  {'share':<17} median {statistics.median(shares):8.1%}     ({min(shares):.1%} … {max(shares):.1%})")


if __name__ == "__main__":
    main()
