"""A site's node whose answers differ from each other, as real ones do: `python distinct_node.py HOME [HOST:PORT]`.

Flower names a vector's pieces by their content and never sends one twice, and the echo task answers with one number again and again: nine
pieces of one vector, and all sites' vectors, would be one piece. This is `fedrad-site start`, but for a few numbers of each answer,
drawn anew for every reservation. So two answers that were paid apart also differ in their bytes.
"""

import sys
from pathlib import Path
from types import TracebackType

import numpy as np

from fedrad_client.node.service import run_node
from fedrad_client.site import Home
from fedrad_client.work import Job, Worker
from fedrad_common.packing import Vector

_STEP = 4096  # numbers; a piece has more than a million


class Distinct:
    """Work in the child as ever, then the numbers."""

    def __init__(self, home: Home) -> None:
        self._worker = Worker(home)

    def __enter__(self) -> "Distinct":
        self._worker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._worker.__exit__(kind, error, trace)

    def __call__(self, job: Job, model: Vector) -> Vector:
        vector = self._worker(job, model)
        drawn = np.random.default_rng(list(job.secret)).standard_normal(len(vector[::_STEP])).astype(np.float32)
        vector[::_STEP] += np.float32(2.0**-12) * drawn
        return vector


if __name__ == "__main__":
    run_node(Path(sys.argv[1]), *sys.argv[2:3], working=Distinct)
