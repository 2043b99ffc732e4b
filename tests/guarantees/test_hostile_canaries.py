"""Whatever fails at a site, nothing of a patient gets out. 50 failures, 200 canaries: `simulations/benchmarks/hostile/canaries.py`."""

import re
import subprocess
import sys
from pathlib import Path

HOSTILE = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "hostile"


def test_failures_let_nothing_out_on_the_wire_in_logs_databases_or_records(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(HOSTILE / "canaries.py"), "--failures", "10", "--without-stock"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert said.returncode == 0, said.stdout + said.stderr
    assert "fedrad: 0 of 40 canaries of 10 failures got out" in said.stdout
    answered = dict(re.findall(r"(\w+) × (\d+)", said.stdout))
    assert int(answered["asked"]) == 11
    assert int(answered["accepted"]) == 1, "after the failures the site must be well"


def test_the_search_finds_a_canary_in_each_way_in_which_it_could_be_written() -> None:
    """Positive control. (That Flower's own programs tell theirs to the server is the benchmark's.)"""
    script = """
import base64, json, sys
sys.path.insert(0, sys.argv[1])
from planted import all_canaries, canaries, found, text
wanted, words = all_canaries(3), text(2)
plain = words.encode()
ways = [plain, plain.lower(), words.encode("utf-16-le"), plain.hex().encode(), b"a" + plain.hex().encode(), json.dumps(words).encode()]
ways += [base64.b64encode(b"x" * skipped + plain) for skipped in range(3)]
assert all(found(b"before " + way + b" after", wanted) == set(canaries(2).values()) for way in ways)
assert found(b"ZQ and nothing else", wanted) == set()
print(len(ways))
"""
    done = subprocess.run([sys.executable, "-c", script, str(HOSTILE)], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.strip() == "9", done.stderr
