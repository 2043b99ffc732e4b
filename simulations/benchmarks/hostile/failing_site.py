"""A real node in which each order fails in another way, with canaries in what it raises: `failing_site.py HOME HOST:PORT FAILURES`.

With 0 failures it is a node whose work is done in its own process, for lack of a child: quicker to start than the whole program.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planted import ERRORS, canaries, text  # type: ignore[import-not-found] # beside this one

import fedrad_client.answer as path_of_an_answer
import fedrad_client.app as app
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.store import open_cohort
from fedrad_client.node.service import run_node
from fedrad_client.outbox import Outbox
from fedrad_client.site import Home
from fedrad_client.work import Job
from fedrad_common import messages
from fedrad_common.packing import Vector
from fedrad_common.tasks.echo import update


@dataclass(frozen=True)
class Failure:
    where: str  # a key of PLACES or of FILES, or "work"
    what: str  # a key of ERRORS; of a file, how it is spoilt


PLACES: dict[str, tuple[Any, str]] = {
    "an order is read": (messages, "read_order"),
    "the site is opened": (app, "open_site"),
    "the approval is read": (path_of_an_answer, "approved"),
    "evidence is checked": (path_of_an_answer, "check_evidence"),
    "withdrawals are read": (path_of_an_answer, "check_withdrawals"),
    "the ledger is charged": (path_of_an_answer, "reserve"),
    "an answer is sealed": (path_of_an_answer, "seal"),
    "an answer is stored": (Outbox, "put"),
}
FILES = ("records.jsonl", "labels/lesion.jsonl", "labels/classification.jsonl", "cohort.json", "pixels/00000.npy")
SPOILT: dict[str, Callable[[bytes, str], bytes]] = {
    "foreign line": lambda content, words: content + words.encode() + b"\n",
    "foreign field": lambda content, words: content.replace(b"{", b'{"' + words.encode() + b'":"' + words.encode() + b'",', 1),
    "cut": lambda content, words: words.encode() + content[: len(content) // 2],
    "other": lambda content, words: words.encode(),
}


def failures() -> list[Failure]:
    """All that are known, those of one place apart from each other."""
    patched = [Failure(where, what) for what in ERRORS for where in (*PLACES, "work")]
    files = [Failure(name, how) for how in SPOILT for name in FILES]
    mixed = [(patched[5 * index % len(patched)], files[index % len(files)]) for index in range(len(patched))]
    # First what once ended a node: whatever is wrong with an order, it is answered with a code.
    first = Failure("an order is read", "chained")
    return list(dict.fromkeys([first, *(failure for pair in mixed for failure in pair)]))


@dataclass
class Script:
    """Which failure is due. One an order, in turn; after the last one all goes well."""

    home: Home
    plan: list[Failure]
    number: int = -1

    @property
    def due(self) -> Failure | None:
        return self.plan[self.number] if 0 <= self.number < len(self.plan) else None

    def strike(self, where: str) -> None:
        if self.due is not None and self.due.where == where:
            words = text(self.number)
            logging.getLogger("pydicom").error(words)
            raise ERRORS[self.due.what](words)

    def install(self) -> None:
        real = messages.read_order

        def read_order(*arguments: Any, **options: Any) -> Any:
            return real(*arguments, **options)

        for where, (owner, name) in PLACES.items():
            setattr(owner, name, self._failing(where, read_order if name == "read_order" else getattr(owner, name)))
        genuine = app.answer_in_slot

        def answer_in_slot(*arguments: Any, **options: Any) -> Any:
            self.number += 1
            with self.spoilt():
                return genuine(*arguments, **options)

        import fedrad_client.node.service as service

        service.answer_in_slot = answer_in_slot  # type: ignore[attr-defined] # it imports the name

    def _failing(self, where: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.strike(where)
            return real(*arguments, **options)

        return wrapped

    @contextlib.contextmanager
    def spoilt(self) -> Iterator[None]:
        """The cohort's file that this failure names, spoilt for the time of one answer."""
        if self.due is None or self.due.where in (*PLACES, "work"):
            yield
            return
        paths = sorted(self.home.cohort.glob(f"*/{self.due.where}")) or sorted(self.home.cohort.glob("*/labels/*"))
        kept = paths[-1].with_name("kept")
        shutil.move(paths[-1], kept)
        paths[-1].write_bytes(SPOILT[self.due.what](kept.read_bytes(), text(self.number)))
        try:
            yield
        finally:
            shutil.move(kept, paths[-1])

    def work(self, job: Job, model: Vector) -> Vector:
        """Reads the cohort as training does, and then computes what the echo task computes."""
        self.strike("work")
        load_dataset(open_cohort(job.cohort, job.generation), part="training", labels=job.protocol.task.labels)
        return update(model, job.round)


def main() -> None:
    home, server, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    script = Script(Home(home), failures()[:count])
    script.install()
    assert len(canaries(0)) == 4
    run_node(home, server, working=lambda _: contextlib.nullcontext(script.work))


if __name__ == "__main__":
    main()
