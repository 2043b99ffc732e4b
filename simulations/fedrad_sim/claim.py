"""A simulation's folder: new, or begun by the same scenario; and a mistake is told before anything is written into it."""

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.files import make_folder, read_json, write_json
from fedrad_common.models import initial_vector
from fedrad_common.protocol import TrainingProtocol
from fedrad_sim.scenario import Scenario, arm_protocol, data_path

_STAMP = "fedrad-scenario-stamp-1"


def combinations(settings: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Every choice of one value for each setting."""
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]


def check(scenario: Scenario, protocol: TrainingProtocol, path: Path, settings: Mapping[str, Sequence[object]]) -> None:
    """Raises ConfigError for a label, a file of arrays, a start or a setting that no arm could use. `path` is the scenario's."""
    if scenario.label not in protocol.task.labels:
        known = ", ".join(protocol.task.labels)
        raise ConfigError(f"{path.name}: label: {scenario.label!r} is no label of the protocol", hint=f"its labels: {known}")
    if scenario.imported is not None:
        data_path(scenario.imported.arrays, path)
    for chosen in combinations(settings):
        for arm in scenario.arms:
            changed = arm_protocol(scenario, protocol, arm, chosen)
            if (changed.task, changed.input) != (protocol.task, protocol.input):
                raise ConfigError("--set: task and input are those of the hospitals' cohorts", hint="change them in the protocol's file")
            _check_start(changed)
            initial_vector(changed)


def _check_start(protocol: TrainingProtocol) -> None:
    """Raises ConfigError: no hospital of a simulation holds the first weights, or may approve them."""
    initial, trains = protocol.model.initial.kind, protocol.model.trains
    if (initial, trains) != ("random", "all"):
        raise ConfigError(
            f"a simulation trains all of a network from the seed's weights: model.initial.kind is {initial!r}, model.trains {trains!r}",
            hint="leave both out; to play the protocol as it is: fedrad-coordinator launch, with sites to which the weights were brought",
        )


@contextlib.contextmanager
def claimed(out: Path, scenario: Scenario, *, engine: str) -> Iterator[None]:
    """Hold `out` for this scenario. A folder that this command began goes again if the block finds its input unusable before
    a run was launched.

    Raises:
        MisuseError: `out` holds something else.
    """
    stamp = {"format": _STAMP, "scenario": scenario.model_dump(mode="json"), "engine": engine}
    begun = not (out / "scenario.json").is_file()
    if begun:
        _make(out)
        write_json(out / "scenario.json", stamp)
    elif read_json(out / "scenario.json", expected_format=_STAMP).get("scenario") != stamp["scenario"]:
        raise MisuseError(f"{out.name}: holds a simulation of another scenario or seed", hint="name a new folder with --out")
    try:
        yield
    except MisuseError:
        if begun and not any(out.glob("arms/*/run/launch.json")):
            shutil.rmtree(out)
        raise


def _make(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MisuseError(f"{out.name}: is not empty", hint="name a new folder with --out")
    make_folder(out)
