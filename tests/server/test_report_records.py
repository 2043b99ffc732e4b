"""A report is made from a run's verified records, finished or not, and is whole or absent."""

import json
from pathlib import Path

import pytest
from fakes.coordinator import World, protocol, refusing, silent

from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.records import Privacy
from fedrad_server.layout import answers_folder
from fedrad_server.report import read_input, write_report
from fedrad_server.report.privacy import site_privacy

ARM = {
    "name": "federated", "kind": "federated", "private": False, "site": None, "n": 150, "auc": 0.9, "auc_ci": [0.8, 0.95],
    "brier": 0.1, "epsilon": None, "delta": None, "steps": 3, "bytes_out": 432,
    "roc": [[0, 0], [0.2, 0.8], [1, 1]], "reliability": [[0.5, 0.4, 30]],
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "runs" / "echo")


def test_a_finished_run_becomes_one_file_and_says_who_took_part(world: World, tmp_path: Path) -> None:
    world.finish(protocol(evaluated=(1, 3)), bergen=silent)
    write_report(world.directory, tmp_path / "report.html")
    document = (tmp_path / "report.html").read_text()
    assert "Three hospitals trained one model" in document
    assert "accepted in 0 of 3; " in document
    assert read_input(world.directory).launch.run in document
    assert not list(tmp_path.glob(".*"))


def test_everything_that_left_is_counted(world: World) -> None:
    world.finish(protocol(evaluated=(1, 3)))
    values = read_input(world.directory)
    assert values.state == "complete"
    assert len(values.envelopes_of("ankara", "train")) == 3
    assert len(values.envelopes_of("ankara", "evaluate")) == 2
    assert values.evaluated_rounds == (1, 3)
    assert values.envelope_bytes["ankara"] > 1000
    assert values.digests[-1] == values.heads[0].hash


def test_a_paused_run_says_so_and_why(world: World, tmp_path: Path) -> None:
    world.finish(protocol(), ankara=refusing("policy"), bergen=refusing("budget"))
    state = read_input(world.directory).state
    assert state.startswith("paused after round 0 of 3 (round 1: ")
    write_report(world.directory, tmp_path / "report.html")
    assert "No round was closed." in (tmp_path / "report.html").read_text()


def test_a_run_that_was_just_launched_is_open(world: World) -> None:
    out = world.directory / "result" / "report.html"  # a folder that comes with the end
    with world.create(protocol()):
        write_report(world.directory, out)
    assert "open, 0 of 3 rounds closed" in out.read_text()


def test_a_changed_envelope_is_refused_and_no_report_is_left(world: World, tmp_path: Path) -> None:
    world.finish(protocol())
    path = answers_folder(world.directory, 2, "train") / "ankara.json"
    path.write_text(path.read_text().replace('\\"round\\":2', '\\"round\\":3'))
    with pytest.raises(FormatError):
        write_report(world.directory, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_simulations_comparison_is_found_in_the_run_or_given(world: World, tmp_path: Path) -> None:
    world.finish(protocol())
    content = json.dumps({"format": "fedrad-comparison-1", "unit": "image", "arms": [ARM], "seeded": True})
    (tmp_path / "elsewhere.json").write_text(content)
    given = read_input(world.directory, comparison=tmp_path / "elsewhere.json")
    (world.directory / "result" / "comparison.json").write_text(content)
    found = read_input(world.directory)
    assert found.comparison == given.comparison
    assert found.unit == "image"
    assert found.seeded


@pytest.mark.parametrize("change", [{"format": "fedrad-comparison-2"}, {"unit": "pixel"}, {"arms": [{**ARM, "auc": "high"}]}])
def test_a_comparison_of_another_format_is_refused(world: World, tmp_path: Path, change: dict[str, object]) -> None:
    world.finish(protocol())
    content = {"format": "fedrad-comparison-1", "unit": "image", "arms": [ARM], "seeded": False, **change}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"comparison\.json: "):
        read_input(world.directory, comparison=tmp_path / "comparison.json")


def test_no_run_and_no_comparison_are_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="is no run"):
        write_report(tmp_path, tmp_path / "report.html")
    world.finish(protocol())
    with pytest.raises(MisuseError, match=r"nowhere\.json: no such file"):
        write_report(world.directory, tmp_path / "report.html", comparison=tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "claim",
    [
        Privacy(noise_multiplier=1e-300, sampling_rate=0.1, steps=5, delta=1e-5),
        Privacy(noise_multiplier=1.0, sampling_rate=0.1, steps=10**18, delta=1e-5),
        Privacy(noise_multiplier=1.0, sampling_rate=0.1, steps=5, delta=0.0),
    ],
)
def test_a_sites_absurd_claim_is_no_bound_and_no_crash(world: World, tmp_path: Path, claim: Privacy) -> None:
    world.finish(
        protocol(evaluated=(1,)), ankara=lambda site, order, model: [site.seal(order, site.answer(order, model).vector, privacy=claim)]
    )
    values = read_input(world.directory)
    assert values.envelopes_of("ankara", "train")
    assert {line.whole_run for line in site_privacy(values)} == {float("inf")}
    write_report(world.directory, tmp_path / "report.html")
