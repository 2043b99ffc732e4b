"""Plant each bug of the privacy contract's list and see its test catch it: `python simulations/benchmarks/planted_bugs.py`.

The table is planted_bugs.toml beside this file. Every bug gets a fresh copy of the code, with one text replaced, and a process of its own
that imports that copy and nothing else. *Caught* is an assertion that fails in the named test itself; an import that breaks, an exception
of another kind or a test that also fails without the bug is no catch, so all named tests first run without any. Exit status 1 when one is
not caught.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOUSES = {"common": "fedrad_common", "client": "fedrad_client", "server": "fedrad_server", "simulations": "fedrad_sim"}
COPIED = (*HOUSES, "tests", "configs", "docs", "scripts", "pyproject.toml", "README.md")
SECONDS = 300  # for one test, whose bug may also be that it never ends


@dataclass(frozen=True)
class Bug:
    bug: str  # in the contract's words
    file: str
    old: str  # occurs once in the file
    new: str
    test: str  # pytest's id of the function that must catch it


@dataclass(frozen=True)
class Outcome:
    word: Literal["passed", "caught", "missed", "broken"]  # "passed" without a bug, "missed" with one
    seconds: float
    why: str = ""  # the first line of the first failure


def load_table() -> tuple[list[str], list[Bug]]:
    """The contract's list, in its order, and the bugs that are planted."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return table["listed"], [Bug(**row) for row in table["bug"]]


def copy(root: Path, tree: Path) -> Path:
    for part in COPIED:
        if (root / part).is_dir():
            shutil.copytree(root / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / part).exists():
            shutil.copy(root / part, tree / part)
    return tree


def plant(bug: Bug, tree: Path) -> None:
    text = (tree / bug.file).read_text()
    if text.count(bug.old) != 1:
        raise SystemExit(f"planted_bugs.toml: {bug.bug}: `old` occurs {text.count(bug.old)} times in {bug.file}, expected once")
    (tree / bug.file).write_text(text.replace(bug.old, bug.new))


def pytest_configure(config: pytest.Config) -> None:
    """This file is also a plugin: the installed package is not the copy, and would hide every bug."""
    for house, package in HOUSES.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(config.rootpath / house):
            raise pytest.UsageError(f"{package} would not be imported from the copy")


def run(tree: Path, tests: Sequence[str], *, planted: bool) -> Outcome:
    report = tree / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "planted_bugs"]
    command += [f"--junitxml={report}", f"--basetemp={tree / 'scratch'}"]
    paths = [*(tree / house for house in HOUSES), Path(__file__).parent]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",  # a replacement of the same length within the same second would not be noticed
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # of xdist and the like: two seconds a process
        "OMP_NUM_THREADS": "1",
    }
    start = time.perf_counter()
    try:
        done = subprocess.run([*command, *tests], cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Outcome("broken", SECONDS, "did not end")
    seconds = time.perf_counter() - start
    found = ElementTree.parse(report) if report.exists() else ElementTree.ElementTree(ElementTree.Element("nothing"))
    said = {kind: [each.get("message", "") for each in found.iter(kind)] for kind in ("failure", "error", "skipped")}
    if done.returncode == 0 and not said["skipped"]:
        return Outcome("missed" if planted else "passed", seconds)
    asserted = all(words.startswith(("assert ", "AssertionError", "Failed: ")) for words in said["failure"])
    caught = planted and done.returncode == 1 and said["failure"] and asserted and not said["error"]
    why = next((words for kind in said.values() for words in kind), (done.stderr or done.stdout).strip())
    return Outcome("caught" if caught else "broken", seconds, why.partition("\n")[0])


def try_bug(bug: Bug, root: Path = ROOT) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="fedrad-planted-") as name:
        tree = copy(root, Path(name).resolve())
        plant(bug, tree)
        return run(tree, [bug.test], planted=True)


def without_bugs(bugs: Sequence[Bug], root: Path = ROOT) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="fedrad-planted-") as name:
        return run(copy(root, Path(name).resolve()), sorted({bug.test for bug in bugs}), planted=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="WORDS", help="bugs whose name holds these words; may be repeated")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="bugs that are tried at once")
    arguments = parser.parse_args()
    bugs = [bug for bug in load_table()[1] if not arguments.only or any(words in bug.bug for words in arguments.only)]
    if not bugs:
        parser.error("no bug of the table has these words in its name")
    control = without_bugs(bugs)
    print(f"{len(bugs)} bugs; without them their tests have {control.word} in {control.seconds:.1f} s. {control.why}", file=sys.stderr)
    if control.word != "passed":
        return 1
    rows = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for bug, outcome in zip(bugs, pool.map(try_bug, bugs), strict=True):
            rows.append({"bug": bug.bug, "file": bug.file, "test": bug.test, **asdict(outcome)})
            if not arguments.json:
                print(f"{outcome.word:<7} {outcome.seconds:5.1f} s  {bug.bug:<50}  {bug.file:<46}  {bug.test}", flush=True)
                print(f"{'':17}{outcome.why}", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    return int(any(row["word"] != "caught" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
