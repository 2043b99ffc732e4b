"""Nobody changes anything at a coordinator without being entitled to. All 2,400 requests: `simulations/benchmarks/hostile/intruders.py`."""

import re
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "hostile" / "intruders.py"


def test_unauthorised_requests_change_nothing(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(COMMAND), "--sample", "30"], capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False
    )

    assert said.returncode == 0, said.stdout + said.stderr
    found = re.search(r"^fedrad: (\d+) of (\d+) unauthorised requests changed something$", said.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == 0
    assert int(found[2]) > 70
    # Positive controls: the comparison sees what a site's own node does, and what Flower's own server lets anybody do.
    assert re.search(r"^control: [1-8] of 8 calls of a site's own node changed something", said.stdout, re.MULTILINE)
    assert re.search(r"^control: Flower's own server: [1-9]\d* of \d+ changed something$", said.stdout, re.MULTILINE)
    assert "control/start-run (no key)" in said.stdout
