"""A researcher's and a coordinator's mistakes: one precise line, a hint, exit code 2 (1 for a damaged file), and no new file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import N_PARAMETERS, World, numbers, protocol, unsynced
from fakes.enrolment import member
from fakes.terminal import Terminal

from fedrad_common.identity import SigningKey
from fedrad_server.home import Home
from fedrad_server.runs import Run

__all__ = ["unsynced"]  # a fixture that every test here uses
SIM, COORDINATOR = "fedrad-sim", "fedrad-coordinator"
SCENARIO = """
format = "fedrad-scenario-1"
name = "small"
protocol = "small.toml"
label = "lesion"
seed = 3
[phantom]
scale = 0.01
held_out = 3
"""
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
task = { kind = "classification", labels = ["lesion"] }
input = { profile = "xr", height = 8, width = 8 }
model = { name = "resnet", options = { channels = 8, stages = 1 } }
privacy = { unit = "patient", epsilon = 4.0, expected_batch = 1.0, steps_per_round = 1, rounds = 1 }
training = { learning_rate = 0.1 }
rounds = { quorum = 3, deadline_seconds = 60.0 }
"""


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    n, rng = 12, np.random.default_rng(0)
    np.savez(
        tmp_path / "some.npz",
        x=rng.integers(0, 255, (n, 8, 8), dtype=np.uint8),
        y=np.arange(n) % 2,
        short=np.zeros(n - 1),
        objects=np.array([{"a": 1}] * n, dtype=object),
        nan=np.full((n, 8, 8), np.nan),
    )
    return tmp_path / "some.npz"


# ── import ──


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"--image": "pictures"}, "some.npz: image: no array 'pictures'"),
        ({"--label": "short"}, "some.npz: label: 11 entries, but there are 12 images"),
        ({"--label": "objects"}, "some.npz: label: array 'objects' holds Python objects"),
        ({"--image": "objects"}, "some.npz: image: array 'objects' holds Python objects"),
        ({"--image": "nan"}, "some.npz: image: none of 12 images is finite and in [0, 1]"),
        ({"--patient": "short"}, "some.npz: patient: 11 entries, but there are 12 images"),
        ({"--site": "y", "--split": "dirichlet:1"}, "--site and --split: only one can say who is where"),
        ({"--split": "halves"}, "--split: 'halves' is not a split"),
        ({"--seed": "-1", "--split": "dirichlet:1"}, "invalid value for '--seed'"),
        ({"--sites": "0", "--split": "dirichlet:1"}, "invalid value for '--sites'"),
        ({"--profile": "ct"}, "--profile: 'ct' is not known"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_arrays_that_do_not_fit_are_refused(terminal: Terminal, arrays: Path, options: dict[str, str], error: str) -> None:
    chosen = {"--image": "x", "--label": "y", "--out": str(terminal.folder / "out"), **options}
    assert terminal.fail(SIM, "import", arrays, *(word for pair in chosen.items() for word in pair)).error.startswith(error)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"PK\x03\x04 broken", b"\x80\x04K\x01."], ids=["empty", "text", "torn", "a pickle"]
)
def test_an_npz_that_is_none(terminal: Terminal, content: bytes) -> None:
    (terminal.folder / "bad.npz").write_bytes(content)
    command = ("import", terminal.folder / "bad.npz", "--image", "x", "--label", "y", "--out", terminal.folder / "out")
    assert terminal.fail(SIM, *command).error == "bad.npz: is not a NumPy archive"


def test_an_out_that_is_taken(terminal: Terminal, arrays: Path) -> None:
    (terminal.folder / "out").mkdir()
    (terminal.folder / "out" / "precious").write_text("x")
    (terminal.folder / "small.toml").write_text(PROTOCOL)
    (terminal.folder / "small-scenario.toml").write_text(SCENARIO)
    for out in (terminal.folder / "out", arrays, arrays / "below"):
        terminal.fail(SIM, "import", arrays, "--image", "x", "--label", "y", "--out", out)
        terminal.fail(SIM, "phantom", out)
        terminal.fail(SIM, "run", terminal.folder / "small-scenario.toml", "--out", out)


# ── run ──


@pytest.mark.parametrize(
    ("changes", "options", "error"),
    [
        ({}, ["--arm", "central"], "--arm: 'central' is not known"),
        ({}, ["--engine", "slurm"], "--engine: 'slurm' is not known"),
        ({}, ["--seed", "-1"], "invalid value for '--seed'"),
        ({}, ["--set", "privacy.epsilon"], "--set: 'privacy.epsilon': expected KEY=VALUE"),
        ({}, ["--set", "=3"], "--set: '=3': expected KEY=VALUE"),
        ({}, ["--set", "privacy.epsilom=3"], "--set: privacy.epsilom: unknown key"),
        ({}, ["--set", "privacy.epsilon=three"], "--set: privacy.epsilon: input should be a valid number, not 'three'"),
        ({}, ["--set", "privacy.epsilon=1,-1"], "--set: privacy.epsilon: input should be greater than 0, not -1"),
        ({}, ["--set", "privacy.epsilon.x=3"], "--set: privacy.epsilon.x: 'epsilon' holds a value, no section"),
        ({}, ["--set", "privacy=3"], "--set: privacy: "),
        ({}, ["--set", "input.height=16"], "--set: task and input are those of the hospitals' cohorts"),
        ({}, ["--set", "model.name=alexnet"], "model.name: 'alexnet' is not known"),
        ({}, ["--set", "rounds.quorum=9"], "rounds.quorum: 9 of 5 sites can never be reached"),
        ({}, ["--set", "privacy.epsilon=50"], "protocol: epsilon 50.0 is not accepted here: policy.max_epsilon_per_run allows 8"),
        ({'label = "lesion"': 'label = "oedema"'}, [], "scenario.toml: label: 'oedema' is no label of the protocol"),
        ({"seed = 3": "sead = 3"}, [], "scenario.toml: sead: unknown key"),
        ({'"small.toml"': '"nowhere.toml"'}, [], "scenario.toml: protocol: 'nowhere.toml' not found"),
        ({"[phantom]\nscale = 0.01\nheld_out = 3": ""}, [], "scenario.toml: give exactly one of [phantom] and [imported]"),
        ({"[phantom]\nscale = 0.01\nheld_out = 3": '[imported]\narrays = "no.npz"\nimage = "x"\nlabel = "y"'}, [],
         "scenario.toml: imported.arrays: no.npz not found"),
        ({"[phantom]\nscale = 0.01\nheld_out = 3": '[imported]\narrays = "some.npz"\nimage = "z"\nlabel = "y"'}, [],
         "some.npz: image: no array 'z'"),
        ({"fedrad-scenario-1": "fedrad-scenario-2"}, [], "scenario.toml: format: input should be 'fedrad-scenario-1'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_scenario_or_a_setting_leaves_no_folder(
    terminal: Terminal, arrays: Path, changes: dict[str, str], options: list[str], error: str
) -> None:
    text = SCENARIO
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (terminal.folder / "scenario.toml").write_text(text)
    (terminal.folder / "small.toml").write_text(PROTOCOL)

    said = terminal.fail(SIM, "run", terminal.folder / "scenario.toml", "--out", terminal.folder / "out", "--json", *options, hint=False)

    assert said.error.startswith(error)


def test_an_unknown_scenario_is_answered_with_the_known_ones(terminal: Terminal) -> None:
    said = terminal.fail(SIM, "run", "pneumonie", "--out", terminal.folder / "out")
    assert said.error == "scenario: 'pneumonie' is not known"
    assert "demo, lgg, pneumonia" in said.hint


# ── evaluate, and what a coordinator reads ──


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = World(tmp_path_factory.mktemp("finished") / "run")
    world.finish(protocol(rounds=1))
    return world.directory


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        ("some.npz", [], "some.npz: arrays need --image KEY and --label KEY"),
        ("some.npz", ["--image", "x", "--label", "z"], "some.npz: label: no array 'z'"),
        ("some.npz", ["--image", "x", "--label", "short"], "some.npz: label: 11 entries, but there are 12 images"),
        ("nowhere.npz", ["--image", "x", "--label", "y"], "nowhere.npz: no such file"),
        ("nowhere", [], "source: no such folder"),
        ("empty", [], "source: the folder is empty"),
        ("dicom", [], "labels.csv: no such file"),
    ],
)
def test_data_that_cannot_be_scored(terminal: Terminal, arrays: Path, run: Path, data: str, options: list[str], error: str) -> None:
    (terminal.folder / "empty").mkdir()
    (terminal.folder / "dicom").mkdir()
    (terminal.folder / "dicom" / "one").write_text("x")
    assert terminal.fail(SIM, "evaluate", run, terminal.folder / data, *options).error == error


@pytest.mark.parametrize("place", ["nowhere", "", "some.npz"])
def test_a_run_that_is_none(terminal: Terminal, arrays: Path, place: str) -> None:
    options = ("--image", "x", "--label", "y")
    assert terminal.fail(SIM, "evaluate", terminal.folder / place, arrays, *options).error.endswith("is no run")
    for verb in ("status", "replay", "report"):
        assert terminal.fail(COORDINATOR, verb, terminal.folder / place).error.endswith("is no run")


@pytest.mark.parametrize("verb", ["evaluate", "status", "replay", "report"])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("launch.json", "fedrad-launch-1", "fedrad-launch-2"),
        ("rounds/0001/manifest.json", "fedrad-manifest-2", "fedrad-manifest-3"),
        ("events.chain.mark", "fedrad-chain-1", "fedrad-chain-2"),
        ("protocol.toml", "fedrad-protocol-1", "fedrad-protocol-2"),
    ],
)
def test_a_run_of_a_newer_format_is_refused(terminal: Terminal, arrays: Path, run: Path, verb: str, name: str, old: str, new: str) -> None:
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))
    options = (arrays, "--image", "x", "--label", "y") if verb == "evaluate" else ()

    said = terminal.fail(SIM if verb == "evaluate" else COORDINATOR, verb, run, *options, code=1, hint=False)

    assert Path(name).name in said.error or name.split("/")[0] in said.error


def test_a_simulation_of_a_newer_format_is_refused(terminal: Terminal, arrays: Path) -> None:
    (terminal.folder / "simulation.json").write_text(json.dumps({"format": "fedrad-simulation-2", "main": "run"}))
    said = terminal.fail(SIM, "evaluate", terminal.folder, arrays, "--image", "x", "--label", "y", code=1)
    assert said.error == "simulation.json: format 'fedrad-simulation-2' is not 'fedrad-simulation-1'"


def test_two_coordinators_never_play_one_run(terminal: Terminal) -> None:
    world = World(terminal.folder / "run")
    with world.create(protocol()), pytest.raises(Exception, match="in use by another process"):
        world.open()


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["home", "nowhere.toml"], 2, "nowhere.toml: no such file"),
        (["home", "bad.toml"], 2, "bad.toml: privacy.epsilom: unknown key"),
        (["home"], 2, "missing argument 'PROTOCOL'"),
        (["home", "good.toml", "--name", "../gone"], 2, "--name: ../gone: is no plain name"),
        (["home", "good.toml"], 2, "rounds.quorum: 3 of 1 sites can never be reached"),
        (["nowhere", "good.toml"], 2, "/"),
    ],
)
def test_a_launch_that_cannot_be_leaves_no_run(terminal: Terminal, arguments: list[str], code: int, error: str) -> None:
    Home.create(terminal.folder / "home").save_members({"bergen": member()})
    (terminal.folder / "good.toml").write_text(PROTOCOL)
    (terminal.folder / "bad.toml").write_text(PROTOCOL.replace("epsilon =", "epsilom ="))
    words = [terminal.folder / word if word in ("home", "nowhere") or word.endswith(".toml") else word for word in arguments]
    assert terminal.fail(COORDINATOR, "launch", *words, code=code, hint=False).error.startswith(error)
    assert not list((terminal.folder / "home" / "runs").iterdir())


def test_a_run_is_launched_whole_or_not_at_all(tmp_path: Path) -> None:
    initial = numbers("initial", size=N_PARAMETERS)
    initial[3] = np.nan
    with pytest.raises(Exception, match="not a flat vector of finite"):
        Run.create(tmp_path / "run", protocol(quorum=1), roster={"a": "0" * 64}, key=SigningKey.generate(), initial=initial)
    assert list(tmp_path.iterdir()) == []
