"""What was done to an exported image, in the codes of PS3.16 CID 7050: what was done, and nothing else."""

from collections.abc import Collection, Iterator

from pydicom import Dataset

from fedrad_client.intake.deid.links import concept

BASIC = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")
MODIFIED_DATES = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
CHARACTERISTICS = ("113108", "Retain Patient Characteristics Option")


def write_methods(ds: Dataset, kept: Collection[str], *, blanked: bool) -> None:
    """Say so in the data set (PS3.15 E.1.1, steps 6 and 7).

    Args:
        kept: keywords of the elements that were kept.
        blanked: rectangles of the picture were.
    """
    days = any(keyword.endswith("Date") for keyword in kept)
    ds.PatientIdentityRemoved = "YES"
    ds.LongitudinalTemporalInformationModified = "MODIFIED" if days else "REMOVED"
    ds.DeidentificationMethodCodeSequence = list(_items(kept, days=days, blanked=blanked))


def _items(kept: Collection[str], *, days: bool, blanked: bool) -> Iterator[Dataset]:
    done = {BASIC: True, CLEAN_PIXELS: blanked, MODIFIED_DATES: days, CHARACTERISTICS: bool({"PatientSex", "PatientAge"} & set(kept))}
    for (value, meaning), was_done in done.items():
        if was_done:
            yield concept((value, "DCM", meaning))
