"""What `answer` adds to a round's DP training at a site: `python simulations/benchmarks/answer_overhead.py`.

A demo hospital (invented DICOM, ingested as any) answers the demo protocol's rounds. The work alone and the whole answer are timed in the
same calls: the work's own seconds are taken inside `answer`, so both see the same machine at the same moment. Homes lie on the disk, and
every sync is real.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.site import open_site
from fedrad_client.work import Job, run_inline
from fedrad_common.identity import SigningKey
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.protocol import load_protocol, render_protocol
from fedrad_common.records import Order, sign
from fedrad_sim.hospitals import make_hospitals, open_hospital
from fedrad_sim.processes import use_one_core
from fedrad_sim.scenario import find_scenario, load_scenario, protocol_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    use_one_core()
    path = find_scenario("demo")
    scenario = load_scenario(path)
    protocol = load_protocol(protocol_path(scenario, path))
    content, key, spent = render_protocol(protocol), SigningKey.generate(), list[float]()

    def timed(job: Job, model: Vector) -> Vector:
        start = time.perf_counter()
        vector = run_inline(job, model)
        spent.append(time.perf_counter() - start)
        return vector

    with tempfile.TemporaryDirectory(prefix="fedrad-overhead-", dir=Path.cwd()) as name:
        scratch = Path(name)
        hospital = make_hospitals(scenario, path, scratch / "hospitals", lambda *_: None).sites[0]
        (scratch / "protocol.toml").write_bytes(content)
        home = scratch / "sites" / hospital.name
        size = open_hospital(hospital, home, scenario=scenario, protocol=scratch / "protocol.toml", key=key, say=lambda line: None)
        totals = []
        with open_site(home) as site:
            approve(site, content, declared_size=size)
            model = initial_vector(protocol)
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
                start = time.perf_counter()
                given = answer(site, sign(order, key), model, work=timed)
                totals.append(time.perf_counter() - start)
                assert given.vector is not None, given.refusal
                model = np.asarray(model + given.vector, dtype=np.float32)
    # The first round loads the cohort and the libraries.
    work, whole = spent[1:], totals[1:]
    added = [total - one for total, one in zip(whole, work, strict=True)]
    shares = [extra / one for extra, one in zip(added, work, strict=True)]
    print(f"{len(work)} rounds of {protocol.privacy.steps_per_round} steps, {size} declared patients")
    print(f"  work    median {1000 * statistics.median(work):8.1f} ms  ({1000 * min(work):.1f} … {1000 * max(work):.1f})")
    print(f"  answer adds    {1000 * statistics.median(added):8.1f} ms  ({1000 * min(added):.1f} … {1000 * max(added):.1f})")
    print(f"  share   median {statistics.median(shares):8.1%}     ({min(shares):.1%} … {max(shares):.1%})")


if __name__ == "__main__":
    main()
