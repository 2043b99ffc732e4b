"""What the documents say is checked: named tests exist, examples load, and the README's commands run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.config import SiteConfig
from fedrad_client.privacy.statement import spoken
from fedrad_client.site_toml import render
from fedrad_common.config import load_toml
from fedrad_common.protocol import load_protocol, parse_protocol, render_protocol
from fedrad_sim.scenario import load_scenario, protocol_path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_that_a_guarantee_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "docs" / "guarantees.md").read_text())

    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "protocols").glob("*.toml")), ids=lambda path: path.stem)
def test_every_protocol_loads_and_survives_being_written(path: Path) -> None:
    protocol = load_protocol(path)

    assert parse_protocol(render_protocol(protocol)).hash == protocol.hash


@pytest.mark.parametrize("path", sorted((ROOT / "simulations" / "scenarios").glob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_loads_with_its_protocol(path: Path) -> None:
    scenario = load_scenario(path)

    assert scenario.label in load_protocol(protocol_path(scenario, path)).task.labels


def test_the_example_site_is_what_init_writes() -> None:
    example = ROOT / "configs" / "site.toml"

    assert load_toml(example, SiteConfig).site.name == "north"
    assert example.read_text() == render(name="north", epsilon=10.0, delta=1e-5, validation_fraction=0.2)


def test_every_decision_is_a_page_with_context_choice_and_cost() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))

    assert pages
    assert [page.name for page in pages if "ost" not in page.read_text()] == []


def test_the_privacy_page_says_the_words_that_sites_print() -> None:
    page = " ".join((ROOT / "docs" / "privacy.md").read_text().replace("> ", "").replace("**", "").split())
    said = [*spoken()["promise"], *spoken()["words"].values(), *spoken()["limits"]]

    assert len(said) > 15
    assert [text for text in said if text not in page] == []


def console_commands() -> list[list[str]]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line[2:], comments=True) for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_readmes_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedrad_client.cli import app as site
    from fedrad_common.cli import run_cli
    from fedrad_server.cli import app as coordinator
    from fedrad_sim.cli import app as sim

    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 255, (40, 28, 28), dtype=np.uint8) for part in ("train", "val")}
    np.savez(tmp_path / "chest.npz", train_labels=np.arange(40) % 2, val_labels=np.arange(40) % 2, **arrays)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    programs = {"fedrad-site": site, "fedrad-coordinator": coordinator, "fedrad-sim": sim}
    commands = console_commands()

    assert len(commands) >= 12
    for program, *arguments in commands:
        with pytest.raises(SystemExit) as ended:
            run_cli(programs[program], program, arguments)
        assert ended.value.code in (0, None), f"{program} {' '.join(arguments)}: {capsys.readouterr().err}"
