"""A desk without processes, for tests that reach into what a reader does; and work for a real reader, which has no test to import."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fedrad_client.intake.reading.desk import Answer, Work


def read_here(files: Iterable[Path], work: Work, *, workers: int = 1) -> Iterator[Answer]:
    yield from (Answer(*work(path)) for path in files)


class Elsewhere:
    """A function of one path, as a text, which becomes one in the process that it is sent to."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (self.source,)

    def __call__(self, path: Path) -> tuple[dict[str, object], bytes]:
        raise AssertionError("work of a reader process ran in the test's own")
