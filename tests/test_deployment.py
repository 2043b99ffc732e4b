"""What a hospital's IT is given works: units that systemd accepts, a wheelhouse whose hashes hold, and documents that name real tests."""

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from fedrad_client.doctor import CHECKS

ROOT = Path(__file__).resolve().parents[1]
SITE, COORDINATOR = ROOT / "client" / "fedrad-site.service", ROOT / "server" / "fedrad-coordinator.service"
UNITS = pytest.mark.parametrize("unit", [SITE, COORDINATOR], ids=lambda path: path.stem)


def settings(unit: Path) -> dict[str, str]:
    """Of the [Service] section; a key that comes twice would be refused."""
    parser = configparser.RawConfigParser(comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return dict(parser["Service"])


def verified(unit: Path, folder: Path, **changes: str) -> str:
    """What systemd says of a unit whose program is there, and with these changes."""
    text = re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", unit.read_text())
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key}=.*$", value, text)
    (folder / unit.name).write_text(text)
    ended = subprocess.run(["systemd-analyze", "verify", str(folder / unit.name)], capture_output=True, text=True, timeout=60)
    return ended.stdout + ended.stderr


@UNITS
def test_a_unit_is_restarted_hardened_and_no_root(unit: Path) -> None:
    found = settings(unit)

    assert (found["Restart"], found["RestartSec"], found["UMask"]) == ("on-failure", "20", "0077")
    assert found["User"] not in ("", "root", "0")
    assert (found["ProtectSystem"], found["NoNewPrivileges"], found["CapabilityBoundingSet"], found["LimitCORE"]) == (
        "strict",
        "yes",
        "",
        "0",
    )
    assert found["ReadWritePaths"] == f"/var/lib/{found['StateDirectory']}"
    assert found["ExecStart"].split()[-1].startswith(f"{found['ReadWritePaths']}/")


@UNITS
def test_systemd_accepts_the_unit_and_would_not_accept_a_mistake(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")

    assert verified(unit, tmp_path) == ""
    assert "ProtectSistem" in verified(unit, tmp_path, ProtectSystem="ProtectSistem=strict")


def test_the_sites_unit_lets_the_training_process_shut_itself_off() -> None:
    """Whatever namespaces the sandbox enters must not be forbidden to it."""
    from fedrad_client.sandbox import kernel, namespaces

    words = {
        "NEW_USER": "user",
        "NEW_NETWORK": "net",
        "NEW_MOUNTS": "mnt",
        "NEW_IPC": "ipc",
        "NEW_HOST_NAME": "uts",
        "NEW_PROCESSES": "pid",
    }
    used = {words[name] for name in re.findall(r"kernel\.(NEW_\w+)", Path(namespaces.__file__).read_text()) if hasattr(kernel, name)}
    found = settings(SITE)

    assert used >= {"user", "net", "mnt"}
    assert used <= set(found["RestrictNamespaces"].split())
    assert not {"PrivateUsers", "PrivateNetwork", "PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset"} & found.keys()
    assert "@mount" not in found["SystemCallFilter"]
    assert (found["KillMode"], found["OOMPolicy"]) == ("mixed", "continue")


@pytest.fixture
def wheelhouse(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("wheelhouse", str(ROOT / "scripts" / "wheelhouse"))
    module = types.ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


def fake_wheels(folder: Path) -> Path:
    (folder / "wheels").mkdir(parents=True)
    for name in ("Torch_Thing-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "fedrad-0.1.0-py3-none-any.whl", "b.c-1-7-py3-none-any.whl"):
        (folder / "wheels" / name).write_bytes(name.encode())
    return folder


def install(house: Path, target: Path, *, python: str = sys.executable) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([house / "install", target], capture_output=True, text=True, env={**os.environ, "PYTHON": python})


def test_the_lock_holds_what_runs_and_nothing_of_the_tests(wheelhouse: types.ModuleType) -> None:
    names = {line.partition("==")[0] for line in wheelhouse.lock()}

    assert {"torch", "flwr", "ray", "opacus", "pydantic-core", "uvicorn", "pydicom"} <= names
    assert not {"fedrad", "pytest", "mypy", "ruff", "hypothesis", "dp-accounting"} & names


def test_every_wheel_is_pinned_by_its_hash(wheelhouse: types.ModuleType, tmp_path: Path) -> None:
    house = fake_wheels(tmp_path / "house")
    wheelhouse.finish(house, version="0.1.0")

    lines = (house / "requirements.txt").read_text().splitlines()

    digest = hashlib.sha256(b"fedrad-0.1.0-py3-none-any.whl").hexdigest()
    assert [line.split()[0] for line in lines] == ["b-c==1", "fedrad==0.1.0", "torch-thing==2.13.0+cpu"]
    assert lines[1] == f"fedrad==0.1.0 --hash=sha256:{digest}"


def test_two_versions_of_a_project_are_no_wheelhouse(wheelhouse: types.ModuleType, tmp_path: Path) -> None:
    house = fake_wheels(tmp_path / "house")
    (house / "wheels" / "fedrad-0.2.0-py3-none-any.whl").write_bytes(b"")

    with pytest.raises(SystemExit, match="fedrad is there twice"):
        wheelhouse.finish(house, version="0.1.0")


def test_install_refuses_a_wheel_that_was_changed_on_the_way(wheelhouse: types.ModuleType, tmp_path: Path) -> None:
    house = fake_wheels(tmp_path / "house")
    wheelhouse.finish(house, version="0.1.0")
    (house / "wheels" / "fedrad-0.1.0-py3-none-any.whl").write_bytes(b"something else")

    ended = subprocess.run(
        [house / "install", tmp_path / "venv"], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )

    assert ended.returncode == 1
    assert "wheels/fedrad-0.1.0-py3-none-any.whl: FAILED" in ended.stdout + ended.stderr
    assert not (tmp_path / "venv").exists()


def test_install_refuses_another_python_and_a_folder_that_is_not_its_own(wheelhouse: types.ModuleType, tmp_path: Path) -> None:
    house = fake_wheels(tmp_path / "house")
    wheelhouse.finish(house, version="0.1.0")
    (tmp_path / "mine").mkdir()

    other = subprocess.run(
        [house / "install", tmp_path / "venv"], capture_output=True, text=True, env={**os.environ, "PYTHON": "/bin/false"}
    )
    mine = subprocess.run(
        [house / "install", tmp_path / "mine"], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )

    assert (other.returncode, mine.returncode) == (2, 2)
    assert "install: hint: install that Python" in other.stderr
    assert "is no virtual environment" in mine.stderr


@pytest.mark.parametrize("page", ["threat-model.md", "deployment.md"])
def test_every_test_and_command_that_a_page_names_exists(page: str) -> None:
    from fedrad_client.cli import app as site
    from fedrad_server.cli import app as coordinator

    text = (ROOT / "docs" / page).read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    verbs = {"fedrad-site": commands(site), "fedrad-coordinator": commands(coordinator)}

    assert len(named) >= (25 if page == "threat-model.md" else 3)
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
    typed = re.findall(r"(fedrad-site|fedrad-coordinator) ([a-z][a-z-]+)", text)
    assert len(typed) > 5
    assert sorted({f"{program} {verb}" for program, verb in typed if verb not in verbs[program]}) == []


def commands(app: object) -> set[str]:
    import typer.main

    return set(typer.main.get_command(app).commands)  # type: ignore[arg-type, attr-defined]


def test_every_row_of_the_threat_model_names_its_test_or_says_not_defended() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    defended = text.partition("## What is defended")[2].partition("\n## ")[0]
    rows = [line for line in defended.splitlines() if line.startswith("| ") and not line.startswith(("| threat", "|---"))]

    assert len(rows) >= 20
    assert [row for row in rows if "`tests/" not in row] == []


def test_the_deployment_page_lists_every_check_of_doctor_in_its_own_words() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()

    assert [check.name for check in CHECKS if f"| {check.name} | {check.looks_at} |" not in text] == []


def test_what_the_page_says_to_copy_comes_with_the_program() -> None:
    """A hospital without network has the wheels alone, no clone of this repository."""
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    named = set(re.findall(r"/opt/fedrad/(share/\S+)", (ROOT / "docs" / "deployment.md").read_text().replace("`", " ")))

    assert {f"share/fedrad/systemd/{unit.name}" for unit in (SITE, COORDINATOR)} <= named
    for name in named:
        assert any(to == name or to.startswith(f"{name}/") for to in shared.values()), name
    assert all((ROOT / source).exists() for source in shared)
