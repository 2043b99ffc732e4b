"""The child: jobs from stdin, vectors to the descriptor that its argument names, until there are no more. A failure ends it with a code."""

import contextlib
import ctypes
import gc
import importlib
import os
import sys

from fedrad_client.work import compute
from fedrad_client.work.frames import receive_job, send_answer
from fedrad_client.work.job import Job, from_json
from fedrad_common import processes
from fedrad_common.errors import FedradError
from fedrad_common.packing import Vector

_STDIN = 0
_C = ctypes.CDLL(None)
_NEEDED = ("fedrad_client.privacy.training", "fedrad_client.work.scoring", "fedrad_common.models")
INPUT, MEMORY, ERROR = 3, 4, 5


def main(answers: int, *, warm: bool) -> int:
    """Serve, and say nothing: whatever an exception says may quote a patient."""
    processes.keep_memory()
    try:
        if warm:
            _load()
        _serve(answers)
    except FedradError:
        return INPUT
    except MemoryError:
        return MEMORY
    except Exception as error:
        with contextlib.suppress(ImportError):
            import torch

            if isinstance(error, torch.OutOfMemoryError):
                return MEMORY
        return ERROR
    return 0


def _load() -> None:
    """What takes seconds, before the first order comes."""
    import torch

    for name in _NEEDED:
        importlib.import_module(name)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimizer loads a compiler that none of ours needs
    gc.collect()
    gc.freeze()  # the libraries: not to be looked through again after each order


def _serve(answers: int) -> None:
    known: object = None
    while (received := receive_job(_STDIN)) is not None:
        content, model = received
        job = from_json(content)
        known = _keep_one_run(known, job)
        _answer(answers, job, model)
        del received, content, model, job
        _give_back()


def _answer(answers: int, job: Job, model: Vector) -> None:
    send_answer(answers, compute.run_inline(job, model))


def _keep_one_run(known: object, job: Job) -> object:
    """In memory are the images of one protocol and generation, so that it does not grow with each order."""
    from fedrad_client.cohort.withdrawal import withdrawn

    now = (job.protocol.hash, job.cohort, job.generation, withdrawn(job.cohort))
    if known is not None and now != known:
        compute.forget()
    return now


def _give_back() -> None:
    """To the system, what the order needed."""
    gc.collect()
    if hasattr(_C, "malloc_trim"):  # glibc
        _C.malloc_trim(0)


if __name__ == "__main__":
    os._exit(main(int(sys.argv[1]), warm="warm" in sys.argv[2:]))  # at once: its libraries would tidy up for a second
