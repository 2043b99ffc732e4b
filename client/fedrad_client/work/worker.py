"""A node's work: one warm child that answers order after order, and another one when it died, grew old or should see other files."""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fedrad_client.policy import refuse
from fedrad_client.work.child import Child, Place, UnconfinedError, failed
from fedrad_common.errors import FedradError
from fedrad_common.packing import Vector

if TYPE_CHECKING:
    from fedrad_client.site import Home
    from fedrad_client.work.job import Job

log = logging.getLogger(__name__)
_ORDERS = 500  # of one child: whatever its libraries leak ends with it


class Worker:
    """A `Work` for as long as its block lasts; from any thread, one order at a time.

    Its child is started by a thread of its own, which lives as long as the block: the kernel takes the end of that thread for the end
    of the child's parent.
    """

    def __init__(self, home: Home, *, warm: bool = True) -> None:
        """Args: warm: load all libraries before the first order comes."""
        self._home, self._warm = home, warm
        self._lock = threading.RLock()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="fedrad-work")
        self._coming: Future[Child] | None = None

    def __enter__(self) -> Worker:
        """Raises UnconfinedError where site.toml asks for more than this machine gives."""
        try:
            held = self._started(Place.of(self._home.path, self._home.cohort, self._home.config.resources)).held
        except BaseException:
            self.close()
            raise
        if not held.complete:
            log.warning("the work is not wholly confined on this machine, open to it: %s", held.open_to)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __call__(self, job: Job, model: Vector) -> Vector:
        """As `run_inline`, bit for bit.

        Raises:
            FedradError: the child failed or died; with one code of `EXIT_CODES` and nothing of its words. Another one is being started.
            Refusal: what site.toml asks for holds no longer.
        """
        place = Place.of(self._home.path, job.cohort, job.resources)
        with self._lock:
            child = self._ready(place)
            try:
                return child.ask(job, model)
            finally:
                if not child.alive or child.orders >= _ORDERS:
                    child.end()
                    with contextlib.suppress(FedradError):  # when it is being stopped
                        self._start(place)

    def close(self) -> None:
        """At once, whatever is being computed: that order then fails. For a stop; safe from another thread."""
        self._starter.shutdown(wait=False, cancel_futures=True)
        child = self._known()
        if child is not None:
            child.kill()
        self._starter.shutdown(wait=True)
        with self._lock:
            child = self._known()
            if child is not None:
                child.end()

    @property
    def child(self) -> Child | None:
        """The one that is there now, for whoever watches over memory."""
        return self._known()

    def _ready(self, place: Place) -> Child:
        child = self._known(wait=True)
        if child is not None and child.place == place and child.alive:
            return child
        if child is not None:
            child.end()
        try:
            return self._started(place)
        except UnconfinedError:
            refuse("unconfined")

    def _started(self, place: Place) -> Child:
        try:
            return self._start(place).result()
        except (OSError, CancelledError):  # no memory for another process, or a stop
            raise failed("died") from None

    def _start(self, place: Place) -> Future[Child]:
        try:
            self._coming = self._starter.submit(Child, place, warm=self._warm)
        except RuntimeError:  # after `close`
            raise failed("died") from None
        return self._coming

    def _known(self, *, wait: bool = False) -> Child | None:
        """None while it is being started, unless `wait`, and where it could not be."""
        coming = self._coming
        if coming is None or not (wait or coming.done()):
            return None
        try:
            return coming.result()
        except (FedradError, OSError, CancelledError):
            return None


def run_child(job: Job, model: Vector, *, home: Path | None = None) -> Vector:
    """Compute in a child that is started for this job alone.

    Args:
        home: the site's, which the child must not see.

    Raises:
        FedradError: the child failed or died; with one code of `EXIT_CODES` and nothing of its words.
    """
    child = Child(Place.of(home, job.cohort, job.resources), warm=False)
    try:
        return child.ask(job, model)
    finally:
        child.end()
