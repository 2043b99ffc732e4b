"""A site speaks to its coordinator alone, and a bad network changes no model. More: `elsewhere.py` and `faults.py` of the benchmarks."""

import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "hostile"
_IMPOSSIBLE = 3  # exit code: no namespaces here


def run(folder: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(HOSTILE / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)


def test_a_site_whose_every_frame_is_seen_sends_none_to_anybody_else(tmp_path: Path) -> None:
    said = run(tmp_path, "elsewhere.py", "--seconds", "0", "--lean")
    if said.returncode == _IMPOSSIBLE:
        pytest.skip(said.stdout.strip())

    assert said.returncode == 0, said.stdout + said.stderr
    assert "fedrad: 0 frames to others than the coordinator" in said.stdout
    assert "control: a careless program: 0 frames" not in said.stdout


def test_runs_over_broken_connections_end_with_the_model_of_a_run_that_nothing_disturbed(tmp_path: Path) -> None:
    said = run(tmp_path, "faults.py", "--lean", "--rounds", "2", "--length", "100000", "--faults", "reset", "truncated")

    assert said.returncode == 0, said.stdout + said.stderr
    assert "faults: 3 of 3 runs finished with the same model, each accepted update once" in said.stdout
