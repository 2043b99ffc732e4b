"""A sweep over epsilon on tiny invented hospitals: what is played, what is kept, and that page, table and JSON say the same."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedrad_common.cli import run_cli
from fedrad_common.errors import BusyError, ConfigError, FedradError, MisuseError
from fedrad_common.files import exclusive_lock
from fedrad_common.protocol import load_protocol
from fedrad_sim import simulate
from fedrad_sim.cli import app
from fedrad_sim.importer import import_arrays, who_is_where
from fedrad_sim.privacy_utility import points
from fedrad_sim.privacy_utility.affordable import check_affordable
from fedrad_sim.privacy_utility.command import play
from fedrad_sim.privacy_utility.page import page
from fedrad_sim.privacy_utility.source import find_source
from fedrad_sim.scenario import Import

PROTOCOL = """
format = "fedrad-protocol-1"
name = "tiny"
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
max_images = 4
[training]
learning_rate = 0.1
[rounds]
quorum = 3
deadline_seconds = 60.0
[evaluation]
rounds = [2]
epsilon = 8.0
"""
SCENARIO = """
format = "fedrad-scenario-1"
name = "tiny"
title = "Tiny <hospitals>"
protocol = "tiny.toml"
label = "lesion"
[phantom]
scale = 0.12
held_out = 20
[plain]
"training.learning_rate" = 0.05
"""


def write_scenario(folder: Path) -> Path:
    (folder / "tiny.toml").write_text(PROTOCOL)
    (folder / "scenario.toml").write_text(SCENARIO)
    return folder / "scenario.toml"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Stopped by hand in the middle, gone on with, then two more values asked of the same folder."""
    folder = tmp_path_factory.mktemp("utility")
    scenario, out = str(write_scenario(folder)), folder / "out"

    def stop(what: str, done: int, total: int) -> None:
        if "epsilon-1.0" in what and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(scenario, out, "4,1", "3", progress=stop)
    stopped = models(out)
    play(scenario, out, "4,1", "3")
    resumed = json.loads((out / "privacy-utility.json").read_text())
    before = models(out)
    found, path = play(scenario, out, "9", "3")
    return SimpleNamespace(
        folder=folder, out=out, found=found, page=path.read_text(), stopped=stopped, before=before, resumed=resumed,
        value=json.loads((out / "privacy-utility.json").read_text()),
    )  # fmt: skip


def models(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("rounds/*/model.f32")}


def test_every_epsilon_is_played_with_every_seed_and_each_seed_once_without_privacy(played: SimpleNamespace) -> None:
    kept = played.value["points"]

    assert sorted((point["seed"], point["epsilon"] or math.inf) for point in kept) == [(3, 1.0), (3, 4.0), (3, 9.0), (3, math.inf)]
    assert {point["state"] for point in kept} == {"finished"}
    assert all(0 <= point["scored"]["low"] <= point["scored"]["auc"] <= point["scored"]["high"] <= 1 for point in kept)


def test_a_stopped_sweep_goes_on_where_it_was_and_ends_where_an_unbroken_one_does(played: SimpleNamespace, tmp_path: Path) -> None:
    assert played.stopped
    assert all(played.before[path] == when for path, when in played.stopped.items())
    play(str(write_scenario(tmp_path)), tmp_path / "out", "4,1", "3")

    assert json.loads((tmp_path / "out" / "privacy-utility.json").read_text()) == played.resumed


def test_a_finished_sweep_grows_and_plays_nothing_again(played: SimpleNamespace) -> None:
    after = models(played.out)

    assert {path: after[path] for path in played.before} == played.before
    assert {path.parents[3].name for path in set(after) - set(played.before)} == {"federated-private-epsilon-9.0"}
    assert [point for point in played.value["points"] if point["epsilon"] != 9.0] == played.resumed["points"]


def estimate(auc: float) -> points.Estimate:
    return points.Estimate(auc=auc, low=auc - 0.1, high=auc + 0.1)


def test_losses_are_of_each_seed_with_itself(played: SimpleNamespace) -> None:
    """Seed 2 is easier in both worlds: the medians' difference would be 0.11, and no seed lost that much."""
    aucs = {(1, None): 0.70, (1, 4.0): 0.69, (2, None): 0.90, (2, 4.0): 0.89, (3, None): 0.80, (3, 4.0): 0.60}
    some = next(point for point in played.found.points if point.epsilon == 4.0)
    made = [some.model_copy(update={"seed": seed, "epsilon": epsilon, "scored": estimate(auc)}) for (seed, epsilon), auc in aucs.items()]
    found = replace(played.found, points=tuple(made))

    lost = found.loss(4.0, "scored")
    assert lost is not None
    assert (lost.median, lost.low, lost.high, lost.n_seeds) == (pytest.approx(0.01), pytest.approx(0.01), pytest.approx(0.2), 3)
    assert found.facts()["curve"][0]["lost"] == {"median": lost.median, "low": lost.low, "high": lost.high, "n": 3}
    assert "0.010 (0.010\u00a0to\u00a00.200) below the same seed without privacy" in page(found)
    assert page(found).count("0.010 (0.010\u00a0to\u00a00.200)") == 2
    assert replace(found, points=tuple(point for point in made if point.epsilon)).loss(4.0, "scored") is None


def test_what_is_all_there_is_read_and_not_simulated(played: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "run", lambda *_, **__: pytest.fail("played again"))
    monkeypatch.setattr("fedrad_sim.hospitals.patients_of", lambda *_: pytest.fail("worked out again"))
    found, path = play(str(played.folder / "scenario.toml"), played.out, "1", "3")

    assert found.facts() == played.value
    assert path.read_text() == played.page


def test_less_epsilon_needs_more_noise_at_every_hospital(played: SimpleNamespace) -> None:
    plans = [{plan["site"]: plan for plan in point["plans"]} for point in played.value["points"] if point["epsilon"]]
    by_epsilon = sorted(plans, key=lambda sites: max(plan["epsilon"] for plan in sites.values()))

    assert len(by_epsilon) == 3
    for site in ("north", "harbour", "hillside", "lakeview", "valley"):
        sigmas = [sites[site]["noise_multiplier"] for sites in by_epsilon]
        assert sigmas[0] > sigmas[1] > sigmas[2] > 0
    assert all(plan["epsilon"] <= 1.0 for plan in by_epsilon[0].values())


def test_the_page_shows_the_numbers_of_the_json(played: SimpleNamespace) -> None:
    curve = played.page[played.page.index('id="scored-curve"') : played.page.index("</svg>")]
    circles = {
        (int(seed), float(epsilon)): float(auc)
        for seed, epsilon, auc in re.findall(r'class="point" data-seed="(\d+)" data-epsilon="([^"]+)" data-auc="([^"]+)"', curve)
    }
    medians = re.findall(r'class="median" data-epsilon="([^"]+)" data-auc="([^"]+)" data-low="([^"]+)" data-high="([^"]+)"', curve)
    private = [point for point in played.value["points"] if point["epsilon"]]

    assert circles == {(point["seed"], point["epsilon"]): point["scored"]["auc"] for point in private}
    drawn = [[band["epsilon"], band["median"], band["low"], band["high"]] for band in played.value["curve"]]
    assert [list(map(float, median)) for median in medians] == drawn
    assert float(re.findall(r'class="reference" data-auc="([^"]+)"', curve)[0]) == played.value["reference"]["median"]
    for band in (*played.value["curve"], played.value["reference"]):
        assert f"{band['median']:.3f} ({band['low']:.3f}\u00a0to\u00a0{band['high']:.3f})" in played.page
    for plan in private[0]["plans"]:
        assert f"{plan['noise_multiplier']:.2f}" in played.page
    for reading in played.value["readings"]:
        assert all(f"{entry['epsilon']:.1f}" in played.page for entry in reading["images"])


def test_the_page_loads_nothing_runs_nothing_and_says_what_it_does_not_show(played: SimpleNamespace) -> None:
    assert "script-src 'none'" in played.page
    assert len(played.page) < 100_000
    assert not re.search(r"""(src|href)=["']?https?:""", played.page)
    assert "<hospitals>" not in played.page
    assert "Tiny &lt;hospitals&gt;" in played.page
    assert "Seeded noise." in played.page
    assert "patients of no hospital, whom no run trained on" in played.page
    assert "What does ε 4 mean?" in played.page
    assert "All seeds start from the same initial weights" in played.page
    assert "All seeds share the patients" not in played.page
    assert "it is no interval itself" in played.page
    assert str(played.folder) not in played.page


def test_seeds_over_arrays_say_that_they_share_their_patients(played: SimpleNamespace) -> None:
    imported = Import(arrays="some.npz", image="image", label="label")
    scenario = played.found.scenario.model_copy(update={"phantom": None, "imported": imported})

    assert "All seeds share the patients of the imported arrays" in page(replace(played.found, scenario=scenario))


def test_the_table_has_a_row_a_point_and_hospital(played: SimpleNamespace) -> None:
    rows = list(csv.DictReader((played.out / "privacy-utility.csv").read_text().splitlines()))

    assert len(rows) == 3 * 5 + 1
    assert {row["private"] for row in rows} == {"True", "False"}
    assert {float(row["noise_multiplier"]) for row in rows if row["private"] == "True"} == {
        plan["noise_multiplier"] for point in played.value["points"] for plan in point["plans"]
    }


def test_the_release_is_the_pooled_noised_histogram_of_the_last_evaluated_round(played: SimpleNamespace) -> None:
    """The tiny hospitals are too small to evaluate, so nothing is made up for them."""
    assert {point["released"] for point in played.value["points"]} == {None}
    assert "What the hospitals would see themselves" not in played.page


def test_another_scenario_does_not_go_on_in_the_folder(played: SimpleNamespace, tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path)
    (tmp_path / "tiny.toml").write_text(PROTOCOL.replace("rounds = 2\n", "rounds = 3\n"))
    before = (played.out / "sweep.json").read_bytes()

    with pytest.raises(MisuseError, match="another scenario or protocol"):
        play(str(scenario), played.out, "4", "3")
    assert (played.out / "sweep.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")

    with pytest.raises(MisuseError, match="is not empty"):
        play("phantom", tmp_path / "out", "4", "3")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_epsilon_that_no_hospital_can_keep_leaves_the_folder_as_it_was(played: SimpleNamespace) -> None:
    before = {path: path.read_bytes() for path in (played.out / "sweep.json", played.out / "scenario.toml")}

    with pytest.raises(MisuseError, match=r"--epsilon: 0\.0005 cannot be kept at hospital north of seed 3.*the least is 0\.001"):
        play(str(played.folder / "scenario.toml"), played.out, "0.0005", "3")
    assert {path: path.read_bytes() for path in before} == before
    found, _ = play(str(played.folder / "scenario.toml"), played.out, "1", "3")
    assert found.epsilons == (1.0, 4.0, 9.0)


def test_an_epsilon_above_a_small_hospitals_ceiling_names_the_limit(tmp_path: Path) -> None:
    """Of one patient: delta is 0.1, at which the filter takes twice the epsilon."""
    scenario = write_scenario(tmp_path)
    scenario.write_text(SCENARIO.replace("scale = 0.12", "scale = 0.001"))
    (tmp_path / "tiny.toml").write_text(PROTOCOL.replace("rounds = 2\n", "rounds = 60\n"))

    with pytest.raises(MisuseError, match="--epsilon: 19 cannot be kept at hospital north of seed 3, of declared size 1") as refused:
        play(str(scenario), tmp_path / "out", "1,19", "3")
    limit = float(re.findall(r"at most ([0-9.]+) can", str(refused.value))[0])
    assert not (tmp_path / "out").exists()
    assert 8 < limit < 19
    source = find_source(str(scenario))
    check_affordable(source, {3: [limit]}, lambda *_: None)
    with pytest.raises(MisuseError):
        check_affordable(source, {3: [limit + 0.2]}, lambda *_: None)


def test_who_is_where_is_known_before_anything_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.integers(0, 255, (60, 8, 8), dtype=np.uint8),
        "label": rng.integers(0, 2, 60),
        "who": np.repeat(np.arange(20), 3),
    }
    np.savez(tmp_path / "some.npz", **arrays)
    keys: dict[str, Any] = {"image": "image", "label": "label", "patient": "who", "site": None, "split": "dirichlet:1.0", "n_sites": 3}

    planned = who_is_where(tmp_path / "some.npz", **keys, seeds=[1, 2])
    assert [path.name for path in tmp_path.iterdir()] == ["some.npz"]
    for seed, sizes in planned.items():
        assert import_arrays(tmp_path / "some.npz", **keys, seed=seed, out=tmp_path / str(seed)).patients == sizes
    assert planned[1] != planned[2]


def test_two_sweeps_at_once_in_one_folder_are_refused(played: SimpleNamespace) -> None:
    before = (played.out / "sweep.json").read_bytes()

    with exclusive_lock(played.out / "lock", what="test"), pytest.raises(BusyError):
        play(str(played.folder / "scenario.toml"), played.out, "2", "3")
    assert (played.out / "sweep.json").read_bytes() == before


def test_a_run_that_pauses_is_an_error_and_no_point_of_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = SimpleNamespace(auc=0.5, auc_ci=(0.4, 0.6), n=2, n_patients=2)
    job = SimpleNamespace(seed=3, settings={}, private=False, run=tmp_path, label="lesion")
    arm = SimpleNamespace(job=job, score=score, state="paused")
    monkeypatch.setattr(simulate, "run", lambda *_, **__: SimpleNamespace(arms=[arm], unit="patient"))
    monkeypatch.setattr("fedrad_sim.privacy_utility.points._released", lambda run, label: (None, 0.0))

    with pytest.raises(FedradError, match="seed 3, without privacy: the run is paused"):
        play(str(write_scenario(tmp_path)), tmp_path / "out", "4", "3")
    assert json.loads((tmp_path / "out" / "points" / "seed-3.json").read_text())["points"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing", "1", "1"), "neither a protocol nor a scenario"),
        (("phantom", "0", "1"), "--epsilon: 0 is not above 0"),
        (("phantom", "1,-3", "1"), "--epsilon: -3 is not above 0"),
        (("phantom", "1,nan", "1"), "--epsilon: '1,nan' is not a list of numbers"),
        (("phantom", "1e9", "1"), "at most 20"),
        (("phantom", "one", "1"), "--epsilon: 'one' is not a list of numbers"),
        (("phantom", "1", "1.5"), "--seeds: '1.5' is not a list of whole numbers"),
        (("phantom", "1", "-1"), "--seeds: -1 is below 0"),
        (("phantom", "1", ""), "--seeds: '' is not a list of whole numbers"),
    ],
)
def test_what_was_mistyped_is_said_before_anything_is_written(tmp_path: Path, arguments: tuple[str, str, str], said: str) -> None:
    protocol, epsilon, seeds = arguments

    with pytest.raises(MisuseError, match=re.escape(said)):
        play(protocol, tmp_path / "out", epsilon, seeds)
    assert not (tmp_path / "out").exists()


def test_a_protocol_is_played_over_hospitals_that_have_its_label(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROTOCOL)
    by_name, by_file = find_source("phantom"), find_source(str(tmp_path / "own.toml"))
    over = find_source(str(tmp_path / "own.toml"), over="quick")

    assert (by_name.scenario.name, by_file.scenario.name, over.scenario.name) == ("demo", "demo", "quick")
    assert by_file.protocol == load_protocol(tmp_path / "own.toml")
    assert by_name.protocol.name == "phantom-nodule"


def test_a_protocol_without_data_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROTOCOL.replace('["lesion"]', '["fracture"]'))

    with pytest.raises(ConfigError, match="no scenario that ships has images") as refused:
        find_source(str(tmp_path / "own.toml"))
    assert "--over" in refused.value.hint


def test_a_protocol_without_privacy_is_swept_with_it(shared_data: Path) -> None:
    found = find_source("lgg")

    assert (found.protocol.privacy.unit, found.scenario.arms) == ("patient", ("federated-private", "federated-plain"))
    assert found.private.model.name == "scatter-resnet"  # what the scenario says for its private arms


def test_the_command_prints_one_line_of_json(played: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = str(played.folder / "scenario.toml")
    arguments = ["privacy-utility", scenario, "--out", str(played.out), "--epsilon", "1", "--seeds", "3", "--json"]
    with pytest.raises(SystemExit) as ended:
        run_cli(app, "fedrad-sim", arguments)
    printed: Any = capsys.readouterr().out

    assert ended.value.code == 0
    assert printed.count("\n") == 1
    assert json.loads(printed) == played.value | {"page": str(played.out / "privacy-utility.html")}


def test_help_shows_a_complete_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_cli(app, "fedrad-sim", ["privacy-utility", "--help"])

    assert "fedrad-sim privacy-utility pneumonia --out utility" in " ".join(capsys.readouterr().out.split())


def test_a_release_is_pooled_and_its_interval_includes_its_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = np.zeros((1, 2, 32))
    counts[0, 0, :20], counts[0, 1, 12:] = 40.0, 40.0
    wide, narrow = (
        released(monkeypatch, tmp_path, [SimpleNamespace(round=2, counts=counts, noise=noise)]) for noise in (6.0, 0.0)
    )  # fmt: skip

    assert wide.auc == narrow.auc
    assert wide.low < narrow.low < narrow.auc < narrow.high < wide.high
    assert released(monkeypatch, tmp_path, [SimpleNamespace(round=2, counts=counts, noise=500.0)]) is None
    assert released(monkeypatch, tmp_path, []) is None


def released(monkeypatch: pytest.MonkeyPatch, run: Path, pooled: list[Any]) -> Any:
    monkeypatch.setattr("fedrad_server.report.records.read_input", lambda run: SimpleNamespace(pooled=pooled, labels=("lesion",)))
    return points._released(run, "lesion")[0]


def test_a_page_with_releases_draws_them_beside_the_scores(played: SimpleNamespace) -> None:
    seen = points.Estimate(auc=0.7, low=0.55, high=0.85)
    found = replace(played.found, points=tuple(point.model_copy(update={"released": seen}) for point in played.found.points))
    written = page(found)
    picture = written[written.index('id="released-curve"') :]

    assert "includes the noise of the release" in written
    assert set(re.findall(r'data-auc="([^"]+)"', picture[: picture.index("</svg>")])) == {"0.7"}
    assert {band["low"] for band in found.facts()["released_curve"]} == {0.55}


def test_one_class_only_has_no_picture_and_says_why(played: SimpleNamespace) -> None:
    written = page(replace(played.found, points=tuple(point.model_copy(update={"scored": None}) for point in played.found.points)))

    assert "No AUC could be computed" in written
    assert "<svg" not in written
