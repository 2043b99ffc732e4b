"""Codes that an exported image may carry: looked up in the standard's own context groups, and written with the standard's own meaning."""

from typing import Any

from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

Code = tuple[str, str]  # value, scheme
_SCHEMES = ("SCT", "SRT", "DCM")


def codes_of(*contexts: int) -> dict[Code, tuple[str, str, str]]:
    """Every code of these context groups (PS3.16), however it is spelled, to value, scheme and meaning as the standard has them."""
    names = {(scheme, name) for context in contexts for scheme, found in cid_concepts[context].items() for name in found}
    meanings: dict[str, Any] = concepts  # pydicom leaves it without a type
    listed = {
        (value, scheme): (value, scheme, meaning)
        for scheme, name in names
        if scheme in _SCHEMES
        for value, (meaning, _) in meanings[scheme][name].items()
    }
    # Older files spell the same concept as SNOMED-RT.
    older = {(old, "SRT"): listed[new, "SCT"] for old, new in mapping["SRT"].items() if (new, "SCT") in listed}
    return {**older, **listed}


ANATOMY, VIEWS, VIEW_MODIFIERS = codes_of(4009, 4031, 4), codes_of(4010, 4014), codes_of(4011, 4015)
# Terms of Body Part Examined that are a concept's own name.
REGIONS = {meaning.upper().replace(" ", ""): (value, scheme, meaning) for value, scheme, meaning in ANATOMY.values()}
