"""A scenario from DICOM to a report, as a researcher runs it; small enough to be run often."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import fedrad_sim
from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import load_protocol, render_protocol, replace_settings
from fedrad_server.replay import replay
from fedrad_server.runs import Run, read_run
from fedrad_sim.evaluate import evaluate
from fedrad_sim.phantom import HELD_OUT, scaled, write_hospital
from fedrad_sim.scenario import arm_protocol, find_scenario, load_scenario, protocol_path, render_scenario

SCENARIO = """
format = "fedrad-scenario-1"
name = "small"
protocol = "small.toml"
label = "lesion"
seed = 3
arms = {arms}
[phantom]
scale = 0.12
held_out = 20
[plain]
"privacy.rounds" = 1
"evaluation.rounds" = [1]
"""
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
[task]
kind = "classification"
labels = ["lesion"]
[input]
profile = "xr"
height = 16
width = 16
[model]
name = "resnet"
options = { channels = 8, stages = 1 }
[privacy]
unit = "patient"
epsilon = 4.0
expected_batch = 8.0
steps_per_round = 1
rounds = 2
[training]
learning_rate = 0.1
[rounds]
quorum = 3
deadline_seconds = 60.0
[aggregation]
strategy = "fedadam"
learning_rate = 0.01
ema = 0.5
[evaluation]
rounds = [1, 2]
epsilon = 4.0
"""


def write_scenario(folder: Path, *arms: str) -> Path:
    (folder / "small.toml").write_text(PROTOCOL)
    (folder / "scenario.toml").write_text(SCENARIO.format(arms=json.dumps(arms)))
    return folder / "scenario.toml"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory):
    """Every kind of arm, once."""
    folder = tmp_path_factory.mktemp("simulation")
    scenario = write_scenario(folder, "federated-private", "local-plain", "pooled-plain")
    return folder, fedrad_sim.run(scenario, folder / "out")


def test_every_arm_is_finished_and_scored(played) -> None:
    _, result = played

    assert [arm.job.kind for arm in result.arms] == ["federated", *["local"] * 5, "pooled"]
    assert {arm.state for arm in result.arms} == {"finished"}
    assert all(arm.score.auc is not None and arm.score.n > 0 for arm in result.arms)


def test_private_arms_have_an_epsilon_and_plain_ones_have_none(played) -> None:
    _, result = played

    assert 3 < result.main.worst_epsilon <= 4
    assert [arm.worst_epsilon for arm in result.arms[1:]] == [None] * 6


def test_bytes_that_left_are_those_of_the_updates_and_histograms(played) -> None:
    _, result = played
    records = read_run(result.main.job.run)
    kept = [envelope for number in (1, 2) for kind in ("train", "evaluate") for envelope in records.envelopes(number, kind).values()]

    assert sum(result.main.bytes_out.values()) == sum(4 * envelope.length for envelope in kept)


def test_replay_agrees_to_the_last_bit(played) -> None:
    assert replay(played[1].main.job.run).equal


def test_the_table_is_tidy(played) -> None:
    folder, _ = played
    rows = list(csv.DictReader((folder / "out" / "results.csv").read_text().splitlines()))

    assert len(rows) == 5 + 5 + 1  # one row an arm and hospital
    assert {row["arm"] for row in rows} == {"federated", "local", "pooled"}
    assert all(0 <= float(row["auc"]) <= 1 for row in rows)


def test_the_report_names_every_hospital_and_says_that_its_noise_is_seeded(played) -> None:
    text = played[1].report.read_text()

    assert all(name in text for name in ("north", "harbour", "hillside", "lakeview", "valley"))
    assert "reproducible noise: its numbers hold, its privacy does not" in text


def test_a_finished_simulation_is_found_again_and_not_played_twice(played) -> None:
    folder, result = played
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "arms").rglob("model.f32")}
    again = fedrad_sim.run(folder / "scenario.toml", folder / "out")

    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [arm.score.auc for arm in again.arms] == [arm.score.auc for arm in result.arms]


def test_the_same_seed_gives_the_same_model_and_score_and_another_seed_another(tmp_path: Path, played) -> None:
    scenario = write_scenario(tmp_path, "federated-private")
    same, other = (fedrad_sim.run(scenario, tmp_path / name, seed=seed).main for name, seed in (("same", 3), ("other", 4)))
    first = played[1].main

    assert same.score == first.score
    models = [read_run(arm.job.run).manifests[-1].model for arm in (first, same, other)]
    assert models[0] == models[1] != models[2]


def test_another_scenario_does_not_continue_in_its_folder(tmp_path: Path, played) -> None:
    folder, _ = played

    with pytest.raises(MisuseError, match="another scenario or seed"):
        fedrad_sim.run(folder / "scenario.toml", folder / "out", seed=99)


def test_a_sweep_plays_every_value(tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path, "federated-private")
    result = fedrad_sim.run(scenario, tmp_path / "out", settings={"privacy.epsilon": [1.0, 4.0]})

    assert [arm.job.settings for arm in result.arms] == [{"privacy.epsilon": 1.0}, {"privacy.epsilon": 4.0}]
    first, second = (arm.worst_epsilon for arm in result.arms)
    assert first <= 1 < second <= 4


def test_a_swept_setting_that_does_not_exist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path, "federated-private")

    with pytest.raises(ConfigError, match=r"privacy\.epsilom: unknown key"):
        fedrad_sim.run(scenario, tmp_path / "out", settings={"privacy.epsilom": [2.0]})
    assert not (tmp_path / "out").exists()


PUBLIC = {"kind": "public", "model": "0" * 64, "source": "anybody's", "weights": "1" * 64}
RELEASED = {"kind": "run", "model": "0" * 64, "protocol": "1" * 64, "unit": "patient"}


@pytest.mark.parametrize(
    "settings",
    [
        {"model.initial": [PUBLIC]},
        {"model.initial": [PUBLIC], "model.trains": ["head"]},
        {"model.trains": ["head"]},
        {"model.initial": [RELEASED]},
    ],
)
def test_a_start_that_no_hospital_could_approve_is_refused_before_anything_is_written(tmp_path: Path, settings) -> None:
    scenario = write_scenario(tmp_path, "federated-private")

    with pytest.raises(ConfigError, match="a simulation trains all of a network from the seed's weights") as refused:
        fedrad_sim.run(scenario, tmp_path / "out", settings=settings)
    assert "fedrad-coordinator launch" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_copied_run_of_a_part_says_which_weights_it_lacks(tmp_path: Path) -> None:
    path = find_scenario("pneumonia")
    protocol = load_protocol(protocol_path(load_scenario(path), path))
    model = np.zeros(7, np.float32)
    part = {"model.trains": "head", "model.initial": PUBLIC | {"model": vector_hash(model)}}
    roster = {name: SigningKey.generate().public.hex for name in "abcdefgh"}
    run = tmp_path / "elsewhere" / "runs" / "copied"
    run.parent.mkdir(parents=True)
    Run.create(run, render_protocol(replace_settings(protocol, part)), roster=roster, key=SigningKey.generate(), initial=model).close()

    with pytest.raises(MisuseError, match=r"^weights/1{16}…\.safetensors: is not here, and the run trained only a part") as refused:
        evaluate(run, tmp_path / "nothing")
    assert "HOME/runs/NAME" in refused.value.hint


def test_a_model_is_scored_on_a_folder_of_dicom_it_never_saw(played, tmp_path: Path) -> None:
    folder, _ = played
    truth = write_hospital(scaled(HELD_OUT, 0.05), tmp_path / "unseen", seed=77)
    found = evaluate(folder / "out", tmp_path / "unseen" / "dicom")

    assert found.n == len(truth.images)
    assert found.n_patients == truth.n_patients
    assert found.auc_ci[0] <= found.auc <= found.auc_ci[1]


def test_a_model_is_scored_on_arrays_it_never_saw(played, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "unseen.npz", images=rng.integers(0, 255, (30, 20, 20), dtype=np.uint8), labels=np.arange(30) % 2)
    found = evaluate(played[0] / "out", tmp_path / "unseen.npz", image="images", label="labels")

    assert (found.n, found.n_patients) == (30, 30)


def test_one_class_has_no_auc_and_is_no_crash(played, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "one.npz", images=rng.integers(0, 255, (6, 20, 20), dtype=np.uint8), labels=np.ones(6, dtype=np.uint8))
    found = evaluate(played[0] / "out", tmp_path / "one.npz", image="images", label="labels")

    assert found.auc is None
    assert found.auc_ci is None


def test_pneumonia_learns_from_real_radiographs_with_privacy(shared_data: Path, tmp_path: Path) -> None:
    """A few rounds only: the whole path on real input, not the figure of docs/benchmarks.md."""
    result = fedrad_sim.run(
        "pneumonia",
        tmp_path / "out",
        arms=["federated-private"],
        settings={"privacy.epsilon": [4.0], "privacy.rounds": [12], "evaluation.rounds": [[12]]},
    )

    assert result.unit == "image"
    assert "H1" in read_run(result.main.job.run).histograms(12)  # a hospital of 1,792 declared images evaluates
    assert result.main.score.auc > 0.85
    assert result.main.worst_epsilon <= 4


def test_the_institution_with_one_patient_trains_and_never_evaluates(shared_data: Path, tmp_path: Path) -> None:
    settings = {"privacy.rounds": [1], "privacy.steps_per_round": [1], "evaluation.rounds": [[1]], "evaluation.epsilon": [4.0]}
    result = fedrad_sim.run("lgg", tmp_path / "out", arms=["federated-plain"], settings=settings)
    records = read_run(result.main.job.run)

    assert result.main.state == "finished"
    assert sorted(records.manifests[1].updates) == ["CS", "DU", "EZ", "FG", "HT"]
    assert "EZ" not in records.histograms(1)  # nor does any hospital too small for 10 validation patients


def test_what_a_scenario_says_for_private_arms_holds_for_them_alone() -> None:
    path = find_scenario("lgg")
    scenario = load_scenario(path)
    protocol = load_protocol(protocol_path(scenario, path))
    private, plain = (arm_protocol(scenario, protocol, arm, {"privacy.epsilon": 3.0}) for arm in ("federated-private", "federated-plain"))

    assert (private.privacy.unit, private.privacy.epsilon, private.model.name) == ("patient", 3.0, "scatter-resnet")
    assert plain == protocol


def test_a_written_scenario_reads_as_the_same(tmp_path: Path) -> None:
    for name in ("demo", "lgg", "pneumonia"):
        scenario = load_scenario(find_scenario(name))
        (tmp_path / f"{name}.toml").write_text(render_scenario(scenario))
        assert load_scenario(tmp_path / f"{name}.toml") == scenario
