"""The layers and walls of the house: who may import whom, and where a library may be named."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSES = {
    "fedrad_common": ROOT / "common" / "fedrad_common",
    "fedrad_client": ROOT / "client" / "fedrad_client",
    "fedrad_server": ROOT / "server" / "fedrad_server",
    "fedrad_sim": ROOT / "simulations" / "fedrad_sim",
}
MAY_IMPORT = {
    "fedrad_common": set(),
    "fedrad_client": {"fedrad_common"},
    "fedrad_server": {"fedrad_common"},
    "fedrad_sim": {"fedrad_common", "fedrad_client", "fedrad_server"},
}
# Third party: the rooms (files or folders, without .py) that may name it.
WALLS = {
    "flwr": {
        "fedrad_common/messages", "fedrad_common/bundle", "fedrad_client/app", "fedrad_client/node",
        "fedrad_server/app", "fedrad_server/superlink", "fedrad_server/control", "fedrad_server/aggregation",
        "fedrad_sim/localgrid", "fedrad_sim/ray",
    },
    "opacus": {"fedrad_client/privacy", "fedrad_common/accounting", "fedrad_common/models"},
    "pydicom": {
        "fedrad_client/intake", "fedrad_client/cohort/labels", "fedrad_client/inference", "fedrad_sim/phantom", "fedrad_sim/importer",
        "fedrad_sim/dicom_write",
    },
    "opendp": {"fedrad_client/privacy"},
    "ray": {"fedrad_sim/ray"},
    "plotly": {"fedrad_common/page"},
}  # fmt: skip
GPL = {"krippendorff", "pylibjpeg_libjpeg", "libjpeg"}


def modules() -> Iterator[tuple[str, str, Path]]:
    """(house, room, file): the room is the path below the house's parent, without .py."""
    for house, folder in HOUSES.items():
        for path in sorted(folder.rglob("*.py")):
            yield house, f"{house}/{path.relative_to(folder).with_suffix('')}", path


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}


@pytest.mark.parametrize(("house", "room", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_house_imports_only_what_lies_below_it(house: str, room: str, path: Path) -> None:
    others = {name.split(".")[0] for name in imported(path)} & set(HOUSES) - {house}

    assert others <= MAY_IMPORT[house], f"{room} imports {sorted(others - MAY_IMPORT[house])}"


@pytest.mark.parametrize("library", WALLS)
def test_a_library_is_named_only_in_its_rooms(library: str) -> None:
    naming = {room for _, room, path in modules() if any(name.split(".")[0] == library for name in imported(path))}
    outside = {room for room in naming if not any(room == wall or room.startswith(wall + "/") for wall in WALLS[library])}

    assert not outside


def test_nothing_of_the_gpl_is_imported() -> None:
    naming = {room for _, room, path in modules() if {name.split(".")[0] for name in imported(path)} & GPL}

    assert not naming


def test_every_module_says_why_it_exists() -> None:
    silent = [room for _, room, path in modules() if not ast.get_docstring(ast.parse(path.read_text()))]

    assert not silent


def test_only_our_own_and_declared_packages_are_imported() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split("[")[0].split(">")[0].split("=")[0].lower().replace("-", "_") for name in project["dependencies"]}
    declared |= {"sklearn", "PIL", "gdcm", "openjpeg", "click", "starlette", "ray", "uvicorn", "httpx"}  # import names, and parts of flwr
    declared |= {"h11", "grpc", "grpc_health"}
    known = set(sys.stdlib_module_names) | declared | set(HOUSES)
    foreign = {(room, name) for _, room, path in modules() for name in imported(path) if name.split(".")[0] not in known}

    assert not foreign
