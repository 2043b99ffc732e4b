"""No replayed, reordered, stale or edited order or reply is accepted. 1,000 of them: `simulations/benchmarks/replies.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "replies.py"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    command = [sys.executable, str(COMMAND), "--cases", "200", "--control-cases", "20", "--folder", str(tmp_path_factory.mktemp("replies"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_none_is_accepted_and_every_refusal_has_its_name(said: str) -> None:
    assert re.search(r"^accepted: 0 of 200; ", said, re.MULTILINE)
    assert "WRONG" not in said


def test_models_and_ledgers_are_those_of_a_run_that_nobody_disturbed(said: str) -> None:
    assert "run finished in 3 epochs; models of all rounds equal, ledgers equal" in said


def test_the_very_same_bytes_cost_nothing_and_change_nothing(said: str) -> None:
    """Counted apart, and not few: what is resent is harmless, not refused."""
    found = re.search(r"same bytes again (\d+)$", said, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 0


@pytest.mark.parametrize("check", ["no checks of an envelope", "no check of the evidence"])
def test_without_one_check_many_are_accepted_and_the_model_is_another(said: str, check: str) -> None:
    """The positive control: the same forger succeeds where nobody looks."""
    found = re.search(rf"^control, {check}: (\d+) of (\d+) accepted; \w+, the models differ$", said, re.MULTILINE)
    assert found is not None
    assert 0 < int(found[2]) <= 2 * int(found[1])
