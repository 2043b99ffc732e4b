"""A site killed at any moment of an answer never leaves more than its ledger has paid for. 200: `simulations/benchmarks/kill_loop.py`."""

import re
import subprocess
import sys
from pathlib import Path

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "kill_loop.py"


def test_the_ledger_is_never_below_what_an_observer_of_the_socket_counts(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(COMMAND), "--kills", "12", "--control-kills", "6", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert said.returncode == 0, said.stderr
    below = {who: int(times) for who, times in re.findall(r"^(.*): ledger below what left in (\d+) of \d+$", said.stdout, re.MULTILINE)}
    assert below.pop("fedrad") == 0
    # Positive controls: the same observer catches a site that charges late, and one that answers again for free.
    assert len(below) == 2
    assert min(below.values()) > 0
