"""What is swept: a protocol, and the hospitals over which it is played, from the one name that a person types."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from fedrad_common.config import read_toml
from fedrad_common.errors import ConfigError
from fedrad_common.protocol import TrainingProtocol, load_protocol, render_protocol, replace_settings
from fedrad_sim.claim import check
from fedrad_sim.scenario import (
    Scenario,
    arm_protocol,
    data_path,
    find_scenario,
    load_scenario,
    protocol_path,
    render_scenario,
    shipped_protocols,
    shipped_scenarios,
)

# Of the sweep's sites: every point is a world of its own, in which its one run has to fit. Much higher, and what the noise's arithmetic
# leaves to chance (times e to the ceiling) would no longer fit into the part of delta that is set aside for it.
CEILING = 30.0
ARMS = ("federated-private", "federated-plain")
_WITHOUT = 1.0  # epsilon in the written protocol where it asks for none; every private point names its own


@dataclass(frozen=True)
class Source:
    scenario: Scenario  # with the two arms that are compared, and arrays named by their whole path
    protocol: TrainingProtocol  # with privacy per patient, whatever the file said; both arms change it as the scenario says

    @property
    def private(self) -> TrainingProtocol:
        """What the private arm trains by, but for the epsilon of each point."""
        return arm_protocol(self.scenario, self.protocol, "federated-private", {})

    def files(self) -> dict[str, str]:
        """The same as two TOML files beside each other, which `fedrad-sim run` plays too."""
        return {"protocol.toml": render_protocol(self.protocol).decode(), "scenario.toml": render_scenario(self.scenario)}


def find_source(name: str, *, over: str | None = None) -> Source:
    """Read a scenario's or a protocol's name or TOML file.

    A protocol is played over the data of the scenario `over`; by default of the shipped one whose task is the protocol's.

    Raises:
        ConfigError: neither is known, the file is malformed, or no shipped scenario has data for the protocol.
    """
    path = _scenario_of(name) if over is None else None
    if path is not None:
        scenario = load_scenario(path)
        return _source(scenario, load_protocol(protocol_path(scenario, path)), path)
    protocol = load_protocol(_protocol_of(name))
    path = find_scenario(over) if over is not None else _with_data_for(protocol)
    return _source(load_scenario(path), protocol, path)


def _source(scenario: Scenario, protocol: TrainingProtocol, path: Path) -> Source:
    changed: dict[str, object] = {"privacy.unit": "patient", "privacy.epsilon": protocol.privacy.epsilon or _WITHOUT}
    private = replace_settings(protocol, changed, name=path.name)
    imported = scenario.imported
    if imported is not None:
        imported = imported.model_copy(update={"arrays": str(data_path(imported.arrays, path).resolve())})
    sites = scenario.sites.model_copy(update={"epsilon": CEILING})
    own = {"protocol": "protocol.toml", "seed": 0, "arms": ARMS, "imported": imported, "sites": sites}
    played = scenario.model_copy(update=own)
    check(played, private, path, {})
    return Source(played, private)


def _scenario_of(name: str) -> Path | None:
    """None: it is no scenario, so it may be a protocol."""
    if name.endswith(".toml"):
        return Path(name) if _format(Path(name)) == "fedrad-scenario-1" else None
    return next((path for path in shipped_scenarios() if path.stem == name), None)


def _protocol_of(name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    named = {path.stem: path for path in shipped_protocols()}
    if name not in named:
        known = sorted({*named, *(path.stem for path in shipped_scenarios())})
        raise ConfigError(
            f"{name!r} is neither a protocol nor a scenario", hint=f"known: {', '.join(known)}; or name a .toml file of either"
        )
    return named[name]


def _format(path: Path) -> object:
    try:
        return tomllib.loads(read_toml(path).decode()).get("format")
    except ValueError:
        return None  # what is wrong with it is said where it is loaded


def _with_data_for(protocol: TrainingProtocol) -> Path:
    """The first shipped scenario that teaches the same: the same labels, and images of the same kind."""
    for path in shipped_scenarios():
        scenario = load_scenario(path)
        other = load_protocol(protocol_path(scenario, path))
        if other.task == protocol.task and other.input.profile == protocol.input.profile:
            return path
    labels = ", ".join(protocol.task.labels)
    raise ConfigError(
        f"protocol {protocol.name!r}: no scenario that ships has images ({protocol.input.profile}) with the labels {labels}",
        hint="write a scenario with your own [imported] arrays, and name it with --over",
    )
