"""A scenario: which hospitals, which protocol, which arms to compare. A TOML file that a researcher can copy and change."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fedrad_common.config import Section, load_toml
from fedrad_common.errors import ConfigError
from fedrad_common.protocol import Name, Scalar, TrainingProtocol, replace_settings

ArmName = Literal["local-plain", "local-private", "federated-plain", "federated-private", "pooled-plain", "pooled-private"]
_PROJECT = Path(__file__).resolve().parents[2]


class Phantom(Section):
    """Invented hospitals of known truth."""

    scale: PositiveFloat = 1.0  # times the default number of patients
    held_out: PositiveInt = 300  # patients of no hospital, to score the arms on


class Import(Section):
    """Arrays turned into one hospital's DICOM each (fedrad-sim import)."""

    arrays: str  # .npz, relative to the scenario file or to the shared data folder
    image: str
    label: str
    patient: str | None = None
    site: str | None = None
    split: str | None = None
    n_sites: PositiveInt = 5
    profile: Literal["xr", "mr"] = "xr"


class Sites(Section):
    """The sites' own settings, the same for all."""

    epsilon: PositiveFloat = 10.0  # ceiling; delta is 1 / (10 × declared size) at each
    validation_epsilon: PositiveFloat = 10.0
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    metrics: Literal["exact", "noised", "none"] = "noised"  # as in site.toml


class Scenario(Section):
    format: Literal["fedrad-scenario-1"]
    name: Name
    title: str = ""
    protocol: str  # the name of one in configs/protocols, or a TOML file relative to the scenario's
    seed: Annotated[int, Field(ge=0)] = 0
    label: str  # which of the protocol's labels the table compares
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)] = ("federated-private",)
    phantom: Phantom | None = None
    imported: Import | None = None
    sites: Sites = Sites()
    plain: dict[str, Scalar | list[int]] = {}  # protocol settings that differ in the arms without privacy
    private: dict[str, Scalar | list[int]] = {}  # and in those with it, such as privacy itself where the protocol has none
    local: dict[str, Scalar | list[int]] = {}  # and in the arms of one hospital alone
    pooled: dict[str, Scalar | list[int]] = {}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.phantom is None) == (self.imported is None):
            raise ValueError("give exactly one of [phantom] and [imported]")
        return self


def find_scenario(name: str) -> Path:
    """A path, or the name of a scenario that ships with fedrad."""
    path = Path(name)
    if path.suffix == ".toml":
        return path
    shipped = shipped_scenarios()
    for candidate in shipped:
        if candidate.stem == name:
            return candidate
    known = ", ".join(candidate.stem for candidate in shipped)
    raise ConfigError(f"scenario: {name!r} is not known", hint=f"known scenarios: {known}; or name a .toml file")


def load_scenario(path: Path) -> Scenario:
    return load_toml(path, Scenario)


def render_scenario(scenario: Scenario) -> str:
    """The scenario as TOML, every default written out; loading it gives the same."""
    return _render(scenario.model_dump(mode="json"))


def _render(table: Mapping[str, Any], path: str = "") -> str:
    """Values, then sections. JSON's strings, numbers, booleans and arrays are TOML's as well; quoted keys may hold dots."""
    known = {key: value for key, value in table.items() if value is not None}
    lines = [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in known.items() if not isinstance(value, dict)]
    inner = [f"\n[{path}{key}]\n{_render(value, f'{path}{key}.')}" for key, value in known.items() if isinstance(value, dict) and value]
    return "\n".join([*lines, *inner]) + "\n"


def protocol_path(scenario: Scenario, beside: Path) -> Path:
    """A TOML file relative to the scenario's, or a protocol that ships with fedrad, by its name."""
    named = {candidate.stem: candidate for candidate in shipped_protocols()}
    path = beside.parent / scenario.protocol if scenario.protocol.endswith(".toml") else named.get(scenario.protocol)
    if path is None or not path.is_file():
        known = ", ".join(named)
        raise ConfigError(
            f"{beside.name}: protocol: {scenario.protocol!r} not found", hint=f"known protocols: {known}; or a .toml file beside it"
        )
    return path


def data_path(name: str, beside: Path) -> Path:
    """Where a scenario's arrays lie: absolute, beside the scenario, or below the shared data folder."""
    shared = Path(os.environ.get("FEDRAD_SHARED_DATA", _PROJECT.parent / "shared" / "data"))
    for candidate in (Path(name), beside.parent / name, shared / name):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"{beside.name}: imported.arrays: {Path(name).name} not found", hint="set FEDRAD_SHARED_DATA to the folder that holds the data"
    )


def arm_protocol(scenario: Scenario, protocol: TrainingProtocol, arm: ArmName, settings: dict[str, object]) -> TrainingProtocol:
    """The protocol of one arm: the scenario's, with the arm's own settings, and without epsilon in the plain arms. `settings` come last."""
    kind, privacy = arm.split("-")
    changed: dict[str, object] = {}
    if privacy == "plain":
        changed |= {"privacy.unit": "none", "privacy.epsilon": None, **scenario.plain}
    else:
        changed |= scenario.private
    if kind != "federated":
        changed |= {"rounds.quorum": 1, **(scenario.local if kind == "local" else scenario.pooled)}
    wanted = {key: value for key, value in settings.items() if not (privacy == "plain" and key == "privacy.epsilon")}
    return replace_settings(protocol, changed | wanted)


def shipped_scenarios() -> list[Path]:
    return sorted(_shipped("simulations/scenarios", "scenarios").glob("*.toml"))


def shipped_protocols() -> list[Path]:
    return sorted(_shipped("configs/protocols", "protocols").glob("*.toml"))


def _shipped(in_tree: str, in_wheel: str) -> Path:
    tree = _PROJECT / in_tree
    return tree if tree.is_dir() else Path(__file__).parent / in_wheel
