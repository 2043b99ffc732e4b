"""What both protocols of fetching have in common: series that fit a query, one after the other, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from fedrad_client.intake.acquire.arrivals import Arrivals
from fedrad_common.errors import FedradError


@dataclass(frozen=True)
class Series:
    """By its own UIDs: they stay in memory."""

    study: str
    series: str
    n_images: int  # as the archive says; 0 where it does not


class Archive(Protocol):
    def find(self, keys: dict[str, str]) -> Iterator[Series]:
        """Series that fit all keys. Raises FedradError: the archive is away, or refuses."""

    def fetch(self, series: Series, put: Callable[[bytes], object]) -> int:
        """Every image of a series, to `put`; how many came. Raises FedradError, with those that came kept."""


@dataclass(frozen=True)
class Pulled:
    """What one pull did."""

    series: int  # that fit
    known: int  # of them, fetched before
    fetched: int
    images: int  # that came
    failed: int  # series that broke off; the same command fetches them again


def pull(
    archive: Archive,
    queries: tuple[dict[str, str], ...],
    arrivals: Arrivals,
    put: Callable[[bytes], object],
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Pulled:
    """Fetch what fits. A series counts as fetched when as many images came as the archive has; a changed one is fetched anew.

    Raises:
        FedradError: the archive cannot be asked, or every series failed; what came is kept.
    """
    found = list({(one.study, one.series): one for keys in queries for one in archive.find(keys)}.values())
    todo = [one for one in found if not arrivals.has(one.study, one.series, str(one.n_images))]
    fetched = images = failed = 0
    trouble: FedradError | None = None
    for number, one in enumerate([] if dry_run else todo, start=1):
        try:
            came = archive.fetch(one, put)
        except FedradError as error:
            trouble, failed = error, failed + 1
        else:
            images += came
            if came and came >= one.n_images:
                arrivals.add(one.study, one.series, str(one.n_images))
                fetched += 1
            else:
                failed += 1
        if progress:
            progress(number, len(todo))
    if trouble is not None and not fetched:
        raise trouble
    return Pulled(len(found), len(found) - len(todo), fetched, images, failed)
