"""The three programs answer at once: no heavy library is loaded for help and status."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "opacus", "flwr", "ray", "pydicom", "sklearn", "plotly", "scipy")
PROGRAMS = {"fedrad-site": "fedrad_client.cli", "fedrad-coordinator": "fedrad_server.cli", "fedrad-sim": "fedrad_sim.cli"}
CHECK = """
import sys
from {module} import app
from fedrad_common.cli import run_cli
try:
    run_cli(app, "{program}", {arguments!r})
except SystemExit as end:
    code = end.code
loaded = [name for name in {heavy!r} if name in sys.modules]
print("LOADED", loaded, "CODE", code)
"""


def light(program: str, *arguments: str) -> str:
    script = CHECK.format(module=PROGRAMS[program], program=program, arguments=list(arguments), heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_loads_nothing_heavy(program: str) -> None:
    assert "LOADED [] CODE 0" in light(program, "--help")


def test_site_status_and_ledger_load_nothing_heavy(site_home: Path) -> None:
    assert "LOADED [] CODE 0" in light("fedrad-site", "status", "--home", str(site_home))
    assert "LOADED [] CODE 0" in light("fedrad-site", "ledger", "--home", str(site_home))


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_command_is_misuse_with_a_hint(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"from {PROGRAMS[program]} import main; main()", "frobnicate"], capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{program}: error: ")
    assert f"{program}: hint: " in ended.stderr
    assert "Traceback" not in ended.stderr
