"""A desk without processes: for tests that reach into what a reader does."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fedrad_client.intake.reading.desk import Answer, Work


def read_here(files: Iterable[Path], work: Work, *, workers: int = 1) -> Iterator[Answer]:
    yield from (Answer(*work(path)) for path in files)
