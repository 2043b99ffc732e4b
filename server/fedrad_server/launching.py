"""From a protocol file, or a run that stopped, to an open run; and what a person sees while it is played."""

import sys
from pathlib import Path

from fedrad_common.config import read_toml
from fedrad_common.models import initial_vector
from fedrad_common.protocol import parse_protocol
from fedrad_server.home import Home
from fedrad_server.runs import Run, read_run


def check(home: Path, protocol: Path | None, name: str | None) -> None:
    """Tell a mistake in the command before the server is looked for. Raises what `open_run` does."""
    Home.open(home)
    if protocol is None:
        read_run(home / "runs" / str(name), files=False)
    else:
        parse_protocol(read_toml(protocol), name=protocol.name)


def open_run(home: Path, protocol: Path | None, name: str | None) -> Run:
    """A new run of `protocol` with all admitted sites, or the next epoch of the run `name`.

    Raises:
        MisuseError: no such file, the folder is taken, or too few sites are admitted.
    """
    opened = Home.open(home)
    if protocol is None:
        return Run.open(home / "runs" / str(name), opened.key)
    content = read_toml(protocol)
    parsed = parse_protocol(content, name=protocol.name)
    directory = home / "runs" / (name or parsed.name)
    return Run.create(directory, content, roster=opened.roster, key=opened.key, initial=initial_vector(parsed))


def say(number: int, site: str, what: str) -> None:
    """A plain line on stderr for each event of a round."""
    sys.stderr.write(f"round {number}: {site + ': ' if site else ''}{what}\n")
    sys.stderr.flush()
