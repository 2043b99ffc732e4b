"""Promise 4: a site runs only code that it installed. What a coordinator sends is data: no bundle is fetched, unpacked or imported."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Flower's own ways to fetch, install and load what a coordinator packed.
FOREIGN = {
    "install_from_fab",
    "get_fab",
    "GetFab",
    "load_client_app",
    "load_app",
    "run_clientapp",
    "get_load_client_app_fn",
    "import_from_path",
}
RUNS_TEXT = {"exec", "eval", "compile", "__import__"}


def names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}


def test_no_room_of_a_site_can_fetch_or_load_a_bundle() -> None:
    rooms = [*(ROOT / "client").rglob("*.py"), *(ROOT / "common").rglob("*.py")]
    naming = {str(path.relative_to(ROOT)): sorted(names(path) & (FOREIGN | {"pickle", "zipfile"})) for path in rooms}
    reading = "client/fedrad_client/intake/reading/"
    allowed = {
        "common/fedrad_common/bundle.py": naming["common/fedrad_common/bundle.py"],
        "client/fedrad_client/support.py": ["zipfile"],  # the support bundle is written as one; nothing there reads one
        # What an ingest tells its own reader processes; what these say is JSON and bytes.
        f"{reading}desk.py": ["pickle"],
        f"{reading}__main__.py": ["pickle"],
    }
    naming = {room: found for room, found in naming.items() if found and found != allowed.get(room)}

    assert len(rooms) > 40
    assert naming == {}


def test_no_room_of_a_site_runs_text() -> None:
    called = {
        (str(path.relative_to(ROOT)), node.func.id)
        for path in [*(ROOT / "client").rglob("*.py"), *(ROOT / "common").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT
    }

    assert called == set()


def test_the_bundle_that_flower_demands_holds_no_code() -> None:
    import io
    import zipfile

    from fedrad_common.bundle import stub

    inside = zipfile.ZipFile(io.BytesIO(stub())).namelist()
    assert not [name for name in inside if name.endswith((".py", ".so", ".pyc"))]
