"""References between images, rebuilt: each names a class of the standard and a pseudonym, so that links hold wherever both ends go."""

from collections.abc import Mapping
from typing import Any

from pydicom import Dataset

from fedrad_client.intake.deid.coded import ANATOMY, VIEW_MODIFIERS, VIEWS, Code
from fedrad_client.intake.deid.rules import Rule, ValueRule, plain, ruled, uid
from fedrad_client.intake.deid.terms import SOP_CLASSES
from fedrad_client.intake.deid.values import Cloak, Make, one_of, text

MAX_ITEMS = 1000


def items(
    *, uids: tuple[str, ...], classes: tuple[str, ...] = (), inner: Mapping[str, Make[list[Dataset]]] | None = None
) -> Make[list[Dataset]]:
    """Items that hold all of `uids`, as pseudonyms, and all of `classes`, from the standard's list; other items do not exist."""
    rules: tuple[ValueRule, ...] = (
        *(uid(keyword) for keyword in uids),
        *(plain(keyword, "a class of DICOM", one_of(SOP_CLASSES)) for keyword in classes),
    )
    nested = tuple(Rule(keyword, "-", "-", "E.1.1", "", make) for keyword, make in (inner or {}).items())

    def make(value: Any, cloak: Cloak) -> list[Dataset] | None:
        made = [_item(item, rules, nested, cloak) for item in list(value)[:MAX_ITEMS]]
        return [item for item in made if item is not None] or None

    return make


def _item(item: Dataset, rules: tuple[ValueRule, ...], nested: tuple[Rule[list[Dataset]], ...], cloak: Cloak) -> Dataset | None:
    fields: dict[str, Any] = {**ruled(item, rules, cloak), **ruled(item, nested, cloak)}
    if len(fields) < len(rules) + len(nested):
        return None
    made = Dataset()
    for keyword, value in fields.items():
        setattr(made, keyword, value)
    return made


def codes(table: Mapping[Code, tuple[str, str, str]], modifiers: Mapping[Code, tuple[str, str, str]] | None = None) -> Make[list[Dataset]]:
    """One coded concept of a table, in the standard's words; with its modifiers, which are type 2: present, perhaps empty."""

    def make(value: Any, cloak: Cloak) -> list[Dataset] | None:
        made = []
        for item in list(value)[:MAX_ITEMS]:
            found = table.get((text(item.get("CodeValue")), text(item.get("CodingSchemeDesignator"))))
            if found is None:
                continue
            one = concept(found)
            if modifiers is not None:
                one.ViewModifierCodeSequence = codes(modifiers)(item.get("ViewModifierCodeSequence") or (), cloak) or []
            made.append(one)
        return made or None

    return make


def concept(code: tuple[str, str, str]) -> Dataset:
    """An item of a code sequence: value, scheme and meaning."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


INSTANCE = items(uids=("ReferencedSOPInstanceUID",), classes=("ReferencedSOPClassUID",))
SERIES = items(uids=("SeriesInstanceUID",), inner={"ReferencedInstanceSequence": INSTANCE})
STUDIES = items(uids=("StudyInstanceUID",), inner={"ReferencedSeriesSequence": SERIES})
SEQUENCES: tuple[Rule[list[Dataset]], ...] = (
    Rule("ReferencedImageSequence", "X/Z/U*", "U", "E.1.1", "class and keyed pseudonym", INSTANCE),
    Rule("SourceImageSequence", "X/Z/U*", "U", "E.1.1", "class and keyed pseudonym", INSTANCE),
    Rule("ReferencedInstanceSequence", "-", "U", "E.1.1", "class and keyed pseudonym", INSTANCE),
    Rule("ReferencedSeriesSequence", "-", "U", "E.1.1", "keyed pseudonyms of series and instances", SERIES),
    Rule(
        "StudiesContainingOtherReferencedInstancesSequence", "-", "U", "E.1.1", "keyed pseudonyms of studies, series and instances", STUDIES
    ),
    Rule("ViewCodeSequence", "-", "-", "E.1.1", "codes of CID 4010 and 4014, in the standard's words", codes(VIEWS, VIEW_MODIFIERS)),
    Rule("AnatomicRegionSequence", "-", "-", "E.1.1", "codes of CID 4, 4009 and 4031, in the standard's words", codes(ANATOMY)),
)
