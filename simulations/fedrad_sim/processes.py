"""Several pieces of a simulation at once, each in a process of one core; hospitals and arms share the processes and what they imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """None for one job: then all is done here, with its progress. After an error nothing that still waits is begun."""
    if jobs == 1:
        yield None
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=use_one_core)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def use_one_core() -> None:
    """For a process that plays small networks, perhaps beside others."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def one_of_several() -> bool:
    """Whether this process is one of a pool's, whose progress bars would write over each other."""
    return parent_process() is not None
