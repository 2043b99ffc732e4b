"""From a protocol file to a run that waits to be played."""

from pathlib import Path

from fedrad_common.config import read_toml
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import read_json
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.protocol import Lineage, TrainingProtocol, parse_protocol, replace_settings
from fedrad_common.records import Launch
from fedrad_common.weights import check_public, check_stays, file_hash, first_vector, keep_file, kept_file, public_vector
from fedrad_server import wanted
from fedrad_server.audit import record
from fedrad_server.home import Home
from fedrad_server.runs import Run, read_run
from fedrad_server.superlink.bounds import MOST_PARAMETERS


def create_run(home: Path, protocol: Path, name: str | None) -> Path:
    """Make the folder of a new run of `protocol` with all admitted sites, and ask for it to be played; needs no server.

    Raises:
        ConfigError: the protocol says something else than it must.
        MisuseError: no such file, the folder is taken, too few sites are admitted, the home is another account's, or the model is larger
            than the server lets through.
        FedradError: the audit log cannot be written; there is no run then.
    """
    opened = Home.own(home)
    content = read_toml(protocol)
    parsed = parse_protocol(content, name=protocol.name)
    run = folder_of(home, name or parsed.name)
    initial = first_weights(home, parsed)
    if initial.size > MOST_PARAMETERS:
        what = f"{initial.size} parameters are more than a site may send to this server ({MOST_PARAMETERS})"
        raise MisuseError(f"{protocol.name}: model: {what}", hint="choose a smaller model")

    def note(folder: Path, launch: Launch) -> None:
        wanted.write(folder, "run")  # with it, or a kill would leave a run that nobody plays
        record(home, "launch", run=launch.run, protocol=launch.protocol, sites=len(launch.roster))

    Run.make(run, content, roster=opened.roster, key=opened.key, initial=initial, also=note)
    return run


def folder_of(home: Path, name: str) -> Path:
    """Raises MisuseError for a name that is no plain folder of its own."""
    if name != Path(name).name or name.startswith("."):
        raise MisuseError(f"--name: {name}: is no plain name", hint="name one folder, without / and not hidden, such as: chest-1")
    return home / "runs" / name


def keep_weights(home: Path, protocol: TrainingProtocol, file: Path, *, source: str, fresh: str = "") -> Lineage:
    """Copy public weights into HOME/weights, for the launch of protocols that name them; returns what a protocol must say of them.

    Raises:
        ConfigError: they are of another network, whose first difference is named, or `source` says nothing. Nothing is kept.
        MisuseError: it is no plain file, changes while it is read, or the home is another account's.
    """
    Home.own(home)
    vector = first_vector(protocol, public_vector(protocol, file, fresh=fresh))
    told = {"kind": "public", "model": vector_hash(vector), "source": source, "weights": file_hash(file), "fresh": fresh}
    lineage = replace_settings(protocol, {"model.initial": told}, name="protocol").model.initial
    keep_file(home, file, lineage)
    return lineage


def first_weights(home: Path, protocol: TrainingProtocol) -> Vector:
    """Random ones from the protocol's seed, public ones from HOME/weights, or those that a finished run of this coordinator released.

    Raises:
        ConfigError: the public weights' file is damaged, or what is not trained would be random.
        MisuseError: no run here released the weights that the protocol names, or it was trained by another protocol than it says; or
            public weights were never brought here.
    """
    check_stays(protocol.model)
    lineage = protocol.model.initial
    if lineage.kind == "random":
        return initial_vector(protocol)
    if lineage.kind == "public":
        if not (path := kept_file(home, lineage)).exists():
            raise MisuseError(
                "model.initial.weights: no file of that hash is here", hint="bring it: fedrad-coordinator weights HOME PROTOCOL FILE"
            )
        return check_public(protocol, path)
    for path in sorted((home / "runs").glob("[!.]*/result/result.json")):
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
