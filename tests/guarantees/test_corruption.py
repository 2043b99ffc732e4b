"""No damage of a ledger or its mark is accepted: neither less spent nor another entry. 5,000: `simulations/benchmarks/corruption.py`."""

import re
import subprocess
import sys
from pathlib import Path

DAMAGES = 240
COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "corruption.py"


def test_no_damaged_ledger_is_accepted_and_each_defence_is_needed(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(COMMAND), "--damages", str(DAMAGES), "--folder", str(tmp_path)], capture_output=True, text=True, timeout=60
    )

    assert said.returncode == 0, said.stderr
    accepted = {who: int(count) for who, count in re.findall(rf"^(.*): (\d+) of {DAMAGES} accepted$", said.stdout, re.MULTILINE)}
    assert accepted["fedrad"] == 0
    # Positive controls: the same damages pass where one defence is missing.
    assert accepted["control: no mark"] > DAMAGES / 2
    assert accepted["control: no hashes"] > DAMAGES / 5
    assert "for a witness to notice: 24 of 24 accepted" in said.stdout
