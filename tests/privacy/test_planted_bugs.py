"""Every bug of the contract's list has a planted twin and a test that catches it; the command that proves it is itself to be trusted.

All 28 are planted by `python simulations/benchmarks/planted_bugs.py`, which takes minutes; here the table is held against the code, and two
are planted for real.
"""

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("planted_bugs", ROOT / "simulations" / "benchmarks" / "planted_bugs.py")
tool = sys.modules["planted_bugs"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)
LISTED, BUGS = tool.load_table()
QUICK = ("histogram by image", "threshold before noise")


def test_every_listed_bug_is_planted_once_and_in_the_lists_order() -> None:
    assert len(LISTED) == len(set(LISTED)) == 28
    assert [bug.bug for bug in BUGS] == LISTED


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.bug)
def test_a_bug_still_fits_the_code_and_its_test_is_still_there(bug) -> None:
    code = (ROOT / bug.file).read_text()
    path, _, name = bug.test.partition("::")
    tests = Counter(node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef))

    assert bug.file.split("/")[0] in tool.HOUSES
    assert code.count(bug.old) == 1
    ast.parse(code.replace(bug.old, bug.new))  # a bug that does not even compile is none
    assert tests[name.partition("[")[0]] == 1


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_caught(name: str) -> None:
    (bug,) = (bug for bug in BUGS if bug.bug == name)

    assert tool.try_bug(bug).word == "caught"


def test_without_their_bugs_the_tests_pass() -> None:
    """Or else `caught` would mean nothing."""
    assert tool.without_bugs([bug for bug in BUGS if bug.bug in QUICK]).word == "passed"


# ── the command itself, on a house of one line ──


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for folder, package in tool.HOUSES.items():
        (tmp_path / folder / package).mkdir(parents=True)
        (tmp_path / folder / package / "__init__.py").write_text("answer = 42  # not 43\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_answer.py").write_text(
        "import pytest\n"
        "from fedrad_client import answer\n"
        "@pytest.fixture\n"
        "def checked():\n    assert answer < 100\n"
        "def test_answer(checked):\n    assert 1 / answer == 1 / 42\n"
        "def test_skipped():\n    pytest.skip('not here')\n"
    )
    return tmp_path


def bug_of(new: str, *, old: str = "answer = 42", test: str = "test_answer") -> Any:
    return tool.Bug("another answer", "client/fedrad_client/__init__.py", old, new, f"tests/test_answer.py::{test}")


@pytest.mark.parametrize(
    ("new", "test", "word"),
    [
        ("answer = 43", "test_answer", "caught"),
        ("answer = 42.0", "test_answer", "missed"),
        ("answer = 43", "test_skipped", "broken"),
        ("answer = 0", "test_answer", "broken"),  # ZeroDivisionError: no assertion failed
        ("answer = 100", "test_answer", "broken"),  # fails before the test itself
        ("reply = 42", "test_answer", "broken"),  # cannot be imported
    ],
)
def test_only_an_assertion_that_fails_in_the_test_itself_is_a_catch(house: Path, new: str, test: str, word: str) -> None:
    assert tool.try_bug(bug_of(new, test=test), house).word == word


@pytest.mark.parametrize(("test", "word"), [("test_answer", "passed"), ("test_skipped", "broken"), ("test_renamed", "broken")])
def test_a_test_that_does_not_run_is_no_control(house: Path, test: str, word: str) -> None:
    assert tool.without_bugs([bug_of("answer = 43", test=test)], house).word == word


@pytest.mark.parametrize("old", ["anser", "4"])
def test_a_text_that_is_not_there_exactly_once_is_not_planted(house: Path, old: str) -> None:
    with pytest.raises(SystemExit, match="expected once"):
        tool.plant(bug_of("answer = 43", old=old), house)


def test_code_from_elsewhere_is_not_tested(house: Path) -> None:
    """The installed package would hide every bug: a house that lacks a package must not be filled up with it."""
    (house / "server" / "fedrad_server" / "__init__.py").unlink()
    (house / "server" / "fedrad_server").rmdir()
    outcome = tool.try_bug(bug_of("answer = 43"), house)

    assert outcome.word == "broken"
    assert "fedrad_server would not be imported from the copy" in outcome.why
