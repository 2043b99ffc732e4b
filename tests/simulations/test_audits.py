"""The audits on small samples: an attack finds what was left open on purpose, and proves no more than the claim of what was not."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.steps import one_thread  # noqa: F401 - a fixture
from scipy import integrate, stats

from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_common.accounting import prv
from fedrad_common.cli import run_cli
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.models import initial_vector
from fedrad_common.protocol import TrainingProtocol, load_protocol, replace_settings
from fedrad_sim.audits import bounds, drawings, halves, inversion, membership, one_run, provenance, two_worlds
from fedrad_sim.audits.defaults import RUNS
from fedrad_sim.audits.finding import Arm, Finding, Verdict, write_finding
from fedrad_sim.audits.journal import SILENT, Row, played
from fedrad_sim.audits.page import page, words
from fedrad_sim.audits.setting import Setting, make_setting
from fedrad_sim.cli import app
from fedrad_sim.evaluate import predict
from fedrad_sim.scenario import find_scenario, load_scenario, protocol_path

ROOT = Path(__file__).resolve().parents[2]
EPSILON = 4.0


def one_step() -> Setting:
    return make_setting(epsilon=EPSILON, patients=8, rate=1.0, rounds=1, side=two_worlds.SIDE)


def attacked(folder: Path, setting: Setting, *, runs: int = 600, claim: Setting | None = None) -> Arm:
    worlds = two_worlds.play(setting, "arm", folder, runs=runs, seed=0, bar=SILENT)
    return two_worlds.judge(worlds, claim or setting, name="arm")


def test_two_worlds_prove_much_of_the_claim_and_no_more(tmp_path: Path) -> None:
    found = attacked(tmp_path, one_step(), runs=1000)

    assert found.sound
    assert 0.4 * EPSILON <= found.figures["Gaussian family, 95 %"] <= found.figures["Gaussian family, best estimate"]
    assert found.figures["Gaussian family, best estimate"] == pytest.approx(EPSILON, rel=0.15)
    assert 0.1 * EPSILON <= found.figures["assumption-free, 95 %"] <= EPSILON


def test_a_quarter_of_the_noise_is_above_the_claim(tmp_path: Path) -> None:
    found = attacked(tmp_path, one_step().with_noise(0.25), claim=one_step())

    assert not found.sound
    assert found.figures["Gaussian family, 99.9 %"] > 2 * EPSILON
    assert "above the claim" in found.says


def test_a_clip_that_is_too_wide_is_above_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in the optimizer, under the honest plan: the audit sees the release alone."""
    accumulate = PatientOptimizer.accumulate

    def too_wide(self: PatientOptimizer, parts: object) -> None:
        self.bound = 3.0 * self.max_grad_norm
        accumulate(self, parts)

    monkeypatch.setattr(PatientOptimizer, "accumulate", too_wide)

    assert not attacked(tmp_path, one_step()).sound


def test_an_accountant_that_is_wrong_is_above_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in the account itself, which then claims half of what is spent; the audit does not ask it."""
    exact = prv._gaussian_epsilon
    monkeypatch.setattr(prv, "_gaussian_epsilon", lambda mu, delta: exact(mu / 2, delta))
    wrong = make_setting(epsilon=3.9, patients=8, rate=1.0, rounds=1, side=two_worlds.SIDE)  # an epsilon that no other test calibrates

    assert wrong.plan.noise_multiplier < 0.6 * one_step().plan.noise_multiplier
    assert attacked(tmp_path, wrong).verdict == "above the claim"


@pytest.mark.parametrize("name", two_worlds.ROUNDS)
def test_each_limit_is_above_the_claim_in_its_own_control(name: str) -> None:
    """At the default size, on releases that are drawn instead of trained."""
    rate, rounds, leaky = two_worlds.ROUNDS[name]
    setting = make_setting(epsilon=EPSILON, patients=8, rate=rate, rounds=rounds, side=two_worlds.SIDE)
    found = []
    for seed in range(4):
        rng, size = np.random.default_rng(seed), (RUNS, rounds)
        noise = leaky * setting.plan.noise_multiplier * rng.normal(size=(2, *size))
        control = two_worlds.judge(
            two_worlds.Worlds(noise[0], noise[1] + (rng.random(size) < rate)), setting, name="control", control_of=name
        )
        assert control.verdict == "sound"
        assert "both above the claim" in control.says
        found.append(control.figures["assumption-free, 99.9 %"])
    assert min(found) > EPSILON + 0.25  # so that it does not hang on the seed


def test_a_control_that_only_one_limit_notices_is_blunt(tmp_path: Path) -> None:
    worlds = two_worlds.play(one_step().with_noise(0.25), "arm", tmp_path, runs=120, seed=0, bar=SILENT)
    control = two_worlds.judge(worlds, one_step(), name="arm", control_of="other")

    assert control.figures["Gaussian family, 99.9 %"] > EPSILON > control.figures["assumption-free, 99.9 %"]
    assert control.verdict == "blunt"
    assert "only Gaussian family above the claim" in control.says


def test_the_larger_of_two_limits_is_right_as_often_as_one_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for half of the error."""
    asked = {"fit": set[float](), "limit": set[float]()}
    fit, limit = bounds.fit, bounds.Decision.limit

    def fitted(*worlds: Any, confidence: float, **more: Any) -> bounds.Fit:
        asked["fit"].add(round(confidence, 6))
        return fit(*worlds, confidence=confidence, **more)

    def limited(self: bounds.Decision, *worlds: Any, confidence: float, **more: Any) -> float:
        asked["limit"].add(round(confidence, 6))
        return limit(self, *worlds, confidence=confidence, **more)

    monkeypatch.setattr(bounds, "fit", fitted)
    monkeypatch.setattr(bounds.Decision, "limit", limited)
    rng = np.random.default_rng(0)
    two_worlds.judge(two_worlds.Worlds(rng.normal(size=(50, 1)), rng.normal(size=(50, 1))), one_step(), name="arm")

    assert asked["fit"] >= {0.9995} <= asked["limit"]


def test_sampled_batches_are_accounted_as_such(tmp_path: Path) -> None:
    setting = make_setting(epsilon=EPSILON, patients=8, rate=0.5, rounds=2, side=two_worlds.SIDE)
    found = attacked(tmp_path, setting)

    assert found.sound
    assert found.figures["Gaussian family, best estimate"] == pytest.approx(EPSILON, rel=0.25)


def test_an_audit_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    setting, plain = one_step(), two_worlds.play
    whole = plain(setting, "arm", tmp_path / "whole", runs=12, seed=0, bar=SILENT)
    plain(setting, "arm", tmp_path / "cut", runs=7, seed=0, bar=SILENT)
    path = tmp_path / "cut" / "arm.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # killed in the middle of a line

    again = plain(setting, "arm", tmp_path / "cut", runs=12, seed=0, bar=SILENT)
    np.testing.assert_array_equal(again.out, whole.out)
    np.testing.assert_array_equal(again.inside, whole.inside)
    assert path.read_bytes() == (tmp_path / "whole" / "arm.jsonl").read_bytes()


def test_runs_of_other_settings_are_never_mixed(tmp_path: Path) -> None:
    played(tmp_path / "runs.jsonl", {"seed": 0}, 2, lambda number: {"run": number}, bar=SILENT, what="runs")

    with pytest.raises(MisuseError, match="other settings"):
        played(tmp_path / "runs.jsonl", {"seed": 1}, 2, lambda number: {"run": number}, bar=SILENT, what="runs")


def test_runs_of_other_code_or_data_are_never_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = tmp_path / "runs.jsonl", np.arange(6, dtype=np.uint16)

    def again(data: np.ndarray, total: int = 2) -> list[Row]:
        return played(path, {"seed": 0}, total, lambda number: {"run": number}, bar=SILENT, what="runs", data=[data])

    assert again(images) == again(images)
    for other in (images + 1, images.reshape(2, 3), images.astype(np.uint32)):
        with pytest.raises(MisuseError, match="over other data"):
            again(other)
    before = path.read_bytes()
    monkeypatch.setattr(provenance, "code", lambda: "of another day")
    with pytest.raises(MisuseError, match="other code") as refused:
        again(images, total=3)
    assert "--out" in refused.value.hint
    assert path.read_bytes() == before


def test_the_codes_hash_is_of_every_file_and_of_every_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "clip.py").write_text("least = 1\n")
    found = [provenance.digest_of_files(tmp_path)]
    (tmp_path / "inner" / "clip.py").write_text("least = 2\n")
    found.append(provenance.digest_of_files(tmp_path))
    (tmp_path / "inner" / "clip.py").rename(tmp_path / "inner" / "grip.py")
    found.append(provenance.digest_of_files(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "clip.pyc").write_bytes(b"compiled")

    assert len(set(found)) == 3
    assert provenance.digest_of_files(tmp_path) == found[-1]
    seen: list[str] = []
    monkeypatch.setattr(provenance, "digest_of_files", lambda folder: seen.append(folder.name) or "")
    provenance.code.__wrapped__()
    assert seen == ["fedrad_client", "fedrad_common", "fedrad_server", "fedrad_sim"]


@pytest.mark.parametrize("damaged", [b'{"run":', b"0", b"\xff\x00"], ids=["half", "no object", "no text"])
def test_a_damaged_line_is_said_with_its_number(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "runs.jsonl"
    played(path, {"seed": 0}, 3, lambda number: {"run": number}, bar=SILENT, what="runs")
    head, first, _, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([head, first, damaged, last]) + b"\n")

    with pytest.raises(FormatError, match=r"runs\.jsonl: line 3 is damaged"):
        played(path, {"seed": 0}, 4, lambda number: {"run": number}, bar=SILENT, what="runs")


def test_one_run_proves_something_and_without_noise_more_than_the_claim(tmp_path: Path) -> None:
    defended, control = one_run.audit(tmp_path, epsilon=EPSILON, side=40, seed=0).arms

    assert defended.sound
    assert 0 < defended.figures["guesses, 99.9 %"] <= defended.figures["guesses, 95 %"] <= EPSILON
    assert control.sound
    assert control.figures["guesses, 99.9 %"] > EPSILON
    assert control.figures["guesses right"] == control.figures["guesses made"]


def test_nothing_is_found_among_candidates_with_privacy_and_everything_without(tmp_path: Path) -> None:
    defended, weak, control = inversion.audit(tmp_path, epsilon=8.0, candidates=60, repeats=3, seed=0).arms

    assert defended.sound
    assert defended.figures["found by what was painted"] <= 0.05
    assert defended.figures["lower limit of the larger, 99.9 %"] < defended.figures["the most that the claim permits"] < 0.1
    assert weak.sound
    assert weak.figures["lower limit of the larger, 99.9 %"] > weak.figures["the most that the claim permits"]
    assert control.sound
    assert control.figures["found by what was painted"] == control.figures["found by comparing gradients"] == 1.0
    assert len(control.pictures["as painted"]) == inversion.SHOWN


def test_noise_that_is_silently_a_quarter_is_above_the_claim_by_comparing_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Planted in the optimizer, under the honest plan. Who paints finds no more than a coin would: he alone saw nothing."""
    make = PatientOptimizer.__init__

    def weak(self: PatientOptimizer, *args: Any, **settings: Any) -> None:
        make(self, *args, **settings | {"noise_multiplier": 0.25 * settings["noise_multiplier"]})

    monkeypatch.setattr(PatientOptimizer, "__init__", weak)
    defended = inversion.audit(tmp_path, epsilon=8.0, candidates=60, repeats=3, seed=0).arms[0]

    assert defended.verdict == "above the claim"
    assert defended.figures["found by what was painted"] <= inversion.MOST


def test_what_the_claim_permits_is_what_the_strongest_attacker_finds() -> None:
    """Of gradients at right angles, all noise is independent: the chance is an integral."""
    setting = make_setting(epsilon=8.0, patients=100, rate=1.0, rounds=4, side=28, bias=True)
    distance = 2 / setting.plan.noise_multiplier
    exact = integrate.quad(lambda x: stats.norm.pdf(x - distance) * stats.norm.cdf(x) ** 19, -8, 12)[0]

    assert inversion.permitted(np.eye(20), setting, seed=0) == pytest.approx(exact, abs=0.005)
    assert inversion.permitted(np.eye(20), setting, seed=0) == inversion.permitted(np.eye(20), setting, seed=0)


@pytest.mark.parametrize(
    ("painted", "compared", "most", "verdict"),
    [
        (5, 19, 0.034, "sound"), (26, 19, 0.034, "above the bar"), (61, 5, 0.034, "above the claim"), (5, 61, 0.034, "above the claim"),
        (260, 480, 0.95, "sound"),
    ],
    ids=["on record", "painted above the bar", "painted above the claim", "compared above the claim", "two candidates"],
)  # fmt: skip
def test_the_bar_is_told_from_the_claim_and_gives_way_to_it(painted: int, compared: int, most: float, verdict: str) -> None:
    found = inversion.Played(100, 500, painted, compared, 1.2, {})

    assert inversion.judge(found, name="with privacy", share=1.0, most=most).verdict == verdict


def test_without_noise_the_painted_image_is_the_patients_own() -> None:
    images, truth = inversion.phantoms(3, seed=1)
    seen = inversion.gradients(images / 65535, truth)

    for release, image in zip(seen, images, strict=True):
        np.testing.assert_allclose(inversion.painted(release), image / 65535, atol=1e-6)


@pytest.fixture
def by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of nothing with labels of no meaning, all of which must be known by heart; and a network that is soon trained."""
    rng = np.random.default_rng(0)
    (tmp_path / "pneumonia_cxr").mkdir()
    arrays = {"train_images": rng.integers(0, 255, (120, 28, 28), dtype=np.uint8), "train_labels": rng.integers(0, 2, (120, 1))}
    np.savez(tmp_path / "pneumonia_cxr" / "pneumonia_cxr_28.npz", **arrays)
    monkeypatch.setenv("FEDRAD_SHARED_DATA", str(tmp_path))
    small = {"model.options": {"channels": 8, "orientations": 2}, "privacy.rounds": 3, "privacy.expected_batch": 30.0}

    def soon(path: Path) -> TrainingProtocol:
        return replace_settings(load_protocol(path), {**small, "evaluation.rounds": []})

    monkeypatch.setattr(membership, "load_protocol", soon)
    monkeypatch.setitem(membership.PLAIN, "privacy.steps_per_round", 120)
    monkeypatch.setitem(membership.PLAIN, "training.learning_rate", 0.01)
    return tmp_path


def test_members_are_told_from_others_without_privacy_alone(by_heart: Path) -> None:
    defended, few, control = membership.audit(by_heart / "out", epsilon=8.0, models=4, images=None, seed=0).arms

    for arm in (defended, few):
        assert arm.verdict == "sound"  # the bar is for the default size alone
        assert arm.figures["area"] < 0.6
        assert arm.figures["area, lower limit, 99.9 %"] < arm.figures["greatest area permitted"] < 1
    assert control.sound
    assert control.figures["area"] >= membership.LEAST
    assert control.figures["right on members"] > 0.9
    assert [path.name for path in (by_heart / "out" / "membership").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("settings", "bar"),
    [({}, membership.MOST), ({"images": 800}, math.inf), ({"models": 4}, math.inf), ({"epsilon": 20.0}, math.inf)],
    ids=["default", "few images", "few models", "a larger claim"],
)
def test_the_bar_of_membership_holds_at_the_size_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_heart: Path, settings: dict[str, Any], bar: float
) -> None:
    seen: list[float] = []

    def arm(world: membership.World, *rest: Any, **more: Any) -> Arm:
        seen.append(world.most)
        return finding().arms[0]

    monkeypatch.setattr(membership, "_arm", arm)
    membership.audit(tmp_path / "out", **{"epsilon": 8.0, "models": 8, "images": None, "seed": 0, **settings})

    assert seen == [bar, math.inf, math.inf]


def test_an_audit_that_is_stopped_leaves_no_images_behind(by_heart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(job: object, model: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(halves, "run_inline", stop)
    with pytest.raises(KeyboardInterrupt):
        membership.audit(by_heart / "out", epsilon=8.0, models=4, images=None, seed=0)

    assert [path.name for path in (by_heart / "out" / "membership").iterdir() if path.is_dir()] == []


def test_logits_are_what_the_evaluations_scores_are_made_of(by_heart: Path) -> None:
    collection = halves.load_collection(by_heart / "pneumonia_cxr" / "pneumonia_cxr_28.npz")
    protocol = membership.load_protocol(protocol_path(load_scenario(find_scenario("pneumonia")), find_scenario("pneumonia")))
    model = initial_vector(protocol)
    found, scored = halves.logits(protocol, model, collection.pixels), predict(protocol, model, collection.pixels)

    assert found.shape == (120,)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), scored[:, 0], rtol=1e-5)


def test_references_never_include_the_complement() -> None:
    member = np.array([[True, False], [False, True], [True, False], [False, True]])
    sure = np.array([[3.0, 0.0], [0.0, 3.0], [1.0, 1.0], [1.0, 1.0]])

    changed = sure.copy()
    changed[1] = 50.0
    np.testing.assert_array_equal(membership.scores(sure, member)[0], membership.scores(changed, member)[0])
    assert membership.scores(sure, member)[0, 0] > 0 > membership.scores(sure, member)[0, 1]


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-sim", arguments)
    return int(end.value.code or 0)


def finding(*, sound: bool = True, control_sound: bool = True) -> Finding:
    verdicts: dict[str, Verdict] = {"a": "sound" if sound else "above the claim", "b": "sound" if control_sound else "blunt"}
    arms = [Arm(name=name, control=name == "b", verdict=verdicts[name], says="said", figures={}) for name in "ab"]
    return Finding(audit="one-run", epsilon=4.0, delta=1e-7, unit="patient", settings={}, arms=tuple(arms), seconds=1.0)


def test_a_command_prints_json_and_the_report_holds_every_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(two_worlds, "ROUNDS", {"full batches": (1.0, 1, 0.05)})

    assert ended("audit", "two-worlds", "--out", str(tmp_path), "--runs", "120", "--epsilon", "1", "--json") == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert [arm["control"] for arm in printed["arms"]] == [False, True]
    assert ended("audit", "inversion", "--out", str(tmp_path), "--candidates", "40", "--repeats", "5") == 0
    assert ended("audit", "report", str(tmp_path)) == 0
    text = (tmp_path / "audit.html").read_text()
    placed = set(re.findall(r'data-figure="([^"]+)"', text))
    specs = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert specs is not None
    assert placed == set(json.loads(specs[1])) != set()
    assert text.count('width="84"') == 6 * inversion.SHOWN
    assert [one["audit"] for one in json.loads((tmp_path / "audit.json").read_text())["audits"]] == ["two-worlds", "inversion"]


@pytest.mark.parametrize(
    ("made", "code"),
    [(finding, 0), (lambda: finding(sound=False), 1), (lambda: finding(control_sound=False), 1)],
    ids=["as it should be", "above the claim", "blunt"],
)
def test_the_exit_code_and_the_page_say_when_a_claim_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[], Finding], code: int
) -> None:
    write_finding(tmp_path, made())

    assert ended("audit", "report", str(tmp_path)) == code
    assert ("error: one-run: " in capsys.readouterr().err) == (code == 1)
    assert ("Not as it should be" in (tmp_path / "audit.html").read_text()) == (code == 1)


def test_all_that_is_not_as_it_should_be_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_finding(tmp_path, finding(sound=False, control_sound=False))
    write_finding(tmp_path, finding(sound=False).model_copy(update={"audit": "two-worlds"}))

    assert ended("audit", "report", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert all(f"{fault}: said" in said for fault in ("one-run: a: above the claim", "one-run: b: blunt", "two-worlds: a: above the claim"))
    assert said.count("train nowhere") == said.count("more runs") == 1


def test_above_the_bar_is_no_reason_to_stop_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = finding()
    write_finding(tmp_path, made.model_copy(update={"arms": (made.arms[0].model_copy(update={"verdict": "above the bar"}), made.arms[1])}))

    assert ended("audit", "report", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "above the bar: within the claim" in said
    assert "train nowhere" not in said


def test_a_report_of_nothing_is_misuse(tmp_path: Path) -> None:
    assert ended("audit", "report", str(tmp_path)) == 2
    assert ended("audit", "membership", "--out", str(tmp_path), "--models", "5") == 2


def test_the_same_findings_give_the_same_page() -> None:
    assert page([finding()]) == page([finding()])


def test_the_document_says_what_the_report_says() -> None:
    text = " ".join((ROOT / "docs" / "audits.md").read_text().split())

    assert [said[key] for said in words().values() for key in ("does", "reads", "control", "limits") if said[key] not in text] == []


def test_a_limit_far_above_the_claim_is_drawn_at_the_edge_with_its_value() -> None:
    arms = [Arm(name=name, control=False, verdict="sound", says="", figures={"95 %": value}) for name, value in (("a", 3.0), ("b", 170.0))]
    (dots, _) = drawings.limits(arms, ["95 %"], 4.0)["data"]

    assert dots["x"] == [3.0, 8.0]
    assert dots["customdata"] == [3.0, 170.0]
