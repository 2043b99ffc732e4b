"""From a protocol file, or a run that stopped, to an open run; and what a person sees while it is played."""

import sys
from pathlib import Path

from fedrad_common.config import read_toml
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import read_json
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol, parse_protocol
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
    return Run.create(directory, content, roster=opened.roster, key=opened.key, initial=first_weights(home / "runs", parsed))


def first_weights(runs: Path, protocol: TrainingProtocol) -> Vector:
    """Random ones from the protocol's seed, or those that a finished run of this coordinator released.

    Raises:
        MisuseError: no run here released the weights that the protocol names, or it was trained by another protocol than it says.
    """
    lineage = protocol.model.initial
    if lineage.kind == "random":
        return initial_vector(protocol)
    for path in sorted(runs.glob("[!.]*/result/result.json")):
        try:
            released = read_json(path, expected_format="fedrad-result-1").get("model")
        except FormatError:  # of another run: its own `status` says what is wrong with it
            continue
        if released != lineage.model:
            continue
        records = read_run(path.parents[1], files=False)
        if (records.protocol.hash, records.protocol.privacy.unit) == (lineage.protocol, lineage.unit):
            return records.released(records.round)
        raise MisuseError(
            f"model.initial: run {path.parents[1].name} released these weights by another protocol, or with another unit",
            hint="the lineage is what sites decide by: name the protocol's hash and unit as that run's protocol.toml has them",
        )
    raise MisuseError("model.initial.model: no finished run here released these weights", hint="`model` stands in its result/result.json")


def say(number: int, site: str, what: str) -> None:
    """A plain line on stderr for each event of a round."""
    sys.stderr.write(f"round {number}: {site + ': ' if site else ''}{what}\n")
    sys.stderr.flush()
