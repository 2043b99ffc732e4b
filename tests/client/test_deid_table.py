"""The allow-list against the newest edition of PS3.15 table E.1-1 that is installed, and the documentation against the allow-list."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from dicomanonymizer import dicom_anonymization_databases as editions
from pydicom.tag import Tag

from fedrad_client.intake.deid.explanation import IDENTITY, Line, explained, table
from fedrad_client.intake.deid.export_rules import ALL_RULES, MORE_RULES
from fedrad_client.intake.deid.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
NEWEST = max(module.name for module in pkgutil.iter_modules(editions.__path__) if module.name.startswith("dicomfields_"))
# A cell of the table to what may be done where it stands, with the options of PS3.15 E.3 that this program takes.
ALLOWED = {
    "D": {"D", "X"}, "Z": {"D", "X"}, "X": {"X"}, "U": {"U", "X"}, "Z/D": {"D", "X"}, "X/Z": {"X"}, "X/D": {"D", "X"}, "X/Z/D": {"D", "X"},
    "X/Z/U*": {"U", "X"}, "-": {"-", "U", "X"},
}  # fmt: skip
OPTIONS = {"E.3.6": "C", "E.3.7": "K"}


def listed() -> dict[tuple[int, int], str]:
    """Tag to action, as the newest edition has it: X_Z_U_STAR_TAGS becomes X/Z/U*."""
    module = importlib.import_module(f"{editions.__name__}.{NEWEST}")
    lists = {name.removesuffix("_TAGS"): tags for name, tags in vars(module).items() if name.endswith("_TAGS") and name != "ALL_TAGS"}
    return {tuple(tag): name.replace("U_STAR", "U*").replace("_", "/") for name, tags in lists.items() for tag in tags}


LINES = [*IDENTITY, *explained(ALL_RULES)[len(IDENTITY) :]]


def contradictions(table: dict[tuple[int, int], str], lines: list[Line]) -> list[str]:
    """Elements that are kept and whose cell in the table is not the one that their rule names."""
    tags = {line.keyword: Tag(line.keyword) for line in lines}
    return [line.keyword for line in lines if table.get((tags[line.keyword].group, tags[line.keyword].element), "-") != line.basic]


def test_every_kept_element_names_the_action_of_the_newest_table():
    assert NEWEST >= "dicomfields_2026c"
    assert len(listed()) > 600
    assert contradictions(listed(), LINES) == []


def test_a_newer_edition_that_lists_a_kept_element_turns_this_red():
    tag = Tag("KVP")

    assert contradictions({**listed(), (tag.group, tag.element): "X"}, LINES) == ["KVP"]


def test_another_action_for_a_kept_element_turns_this_red():
    tag = Tag("StudyDate")

    assert contradictions({**listed(), (tag.group, tag.element): "X"}, LINES) == ["StudyDate"]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.keyword)
def test_what_is_done_is_what_the_table_or_a_named_option_allows(line):
    assert line.action in ALLOWED[line.basic] or line.action == OPTIONS.get(line.paragraph)


def test_no_group_of_curves_overlays_or_private_elements_is_kept():
    assert not [rule.keyword for rule in ALL_RULES if rule.tag.group % 2 or rule.tag.group >> 8 in (0x50, 0x60)]


def test_the_list_of_a_cohort_is_short_enough_to_be_read():
    assert 25 <= len(RULES) <= 40
    assert len({rule.keyword for rule in ALL_RULES}) == len(ALL_RULES)


def test_the_documentation_is_what_the_program_prints():
    page = (ROOT / "docs" / "deidentification.md").read_text()
    blocks = [block.strip("\n").splitlines() for block in page.split("```")[1::2]]

    assert table() in blocks
    assert [table()[0], *table(MORE_RULES)[3:]] in blocks
