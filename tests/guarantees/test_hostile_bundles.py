"""No bundle is run, unpacked or even fetched, whoever the server is. All 50: `simulations/benchmarks/hostile/bundles.py`."""

import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "hostile" / "bundles.py"


def test_a_node_whose_coordinator_packs_hostile_code_runs_none_of_it(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(COMMAND), "--bundles", "4", "--stock", "0", "--lean"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert said.returncode == 0, said.stdout + said.stderr
    assert "fedrad: of 4 bundles, 0 executed, 0 files of code unpacked, 0 requests for one" in said.stdout
    assert "control: Flower's loader alone: executed" in said.stdout
