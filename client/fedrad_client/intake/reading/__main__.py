"""A reader process: it loads the libraries once, then forks a worker that does the work; for one that ended it forks the next.

The first never sees a byte of a file, so that each worker starts as clean as the one before, and within milliseconds.
"""

import gc
import importlib
import os
import pickle
import signal
import sys
from pathlib import Path

from fedrad_client.intake.reading import limits
from fedrad_client.intake.reading.wire import ENDED, FILES, READY, receive_ask, send_answer
from fedrad_common import processes

_LIBRARIES = (
    "fedrad_client.intake.ingest", "fedrad_client.intake.deid.exported",
    "gdcm", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "openjpeg", "rle", "pydicom.pixels.decoders",
)  # fmt: skip
_ASKS = 0  # stdin
DONE, MEMORY, FAULT = 93, 4, 5  # exit statuses; not 0, with which a decoder may end the worker


def main(answers: int) -> None:
    processes.tie()
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    processes.keep_memory()
    limits.bound_process()
    send_answer(answers, READY, {})
    while True:
        worker = processes.fork()
        if worker == 0:
            os._exit(_serve(answers))
        _, status = os.waitpid(worker, 0)
        if (ended := os.waitstatus_to_exitcode(status)) == DONE:
            return
        send_answer(answers, ENDED, {"status": ended})


def _serve(answers: int) -> int:
    """Says nothing but answers: whatever an exception says may quote a patient."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    work = None
    try:
        while (asked := receive_ask(_ASKS)) is not None:
            kind, content = asked
            given = pickle.loads(content)  # noqa: S301 - from the parent, who runs as the same user
            if kind != FILES:
                work = given
                continue
            for number, path in given:
                limits.start_clock(limits.size_of(path))
                head, body = work(Path(path))  # type: ignore[misc] # WORK comes before FILES
                limits.stop_clock()
                send_answer(answers, number, head, body)
    except MemoryError:
        return MEMORY
    except BrokenPipeError:
        return DONE
    except BaseException:  # a panic in a decoder written in Rust is no Exception
        return FAULT
    return DONE


if __name__ == "__main__":
    main(int(sys.argv[1]))
