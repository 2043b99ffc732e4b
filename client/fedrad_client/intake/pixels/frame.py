"""One frame's own header: enhanced objects keep it in functional groups, others in the data set (PS3.3 C.7.6.16)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sequence import Sequence

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.header import given, n_frames

MACROS = {  # where an element of an enhanced frame stands (PS3.3 C.7.6.16.2)
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "VOILUTSequence": "FrameVOILUTSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "FrameLaterality": "FrameAnatomySequence",
}


@dataclass(frozen=True)
class Frame:
    """Looks an element up for one frame: in its own group, then in the shared one, then in the data set."""

    ds: Dataset
    groups: tuple[Dataset, ...]  # own, shared
    number: int  # from 1
    of: int  # frames in the object

    @property
    def shares_data_set(self) -> bool:
        """What stands in the data set itself can be no position of its own."""
        return self.of > 1

    def place_of(self, keyword: str) -> Dataset:
        """The data set that holds the element for this frame; an element of the whole image stands in the data set itself."""
        macro = MACROS.get(keyword, "")
        for group in self.groups:
            item = _item(group, macro)
            if item is not None and given(item, keyword) is not None:
                return item
        return self.ds


def frames_in(ds: Dataset) -> tuple[Frame, ...]:
    """Raises Quarantined: there are not as many functional groups as frames."""
    count = n_frames(ds)
    shared = _item(ds, "SharedFunctionalGroupsSequence")
    own = given(ds, "PerFrameFunctionalGroupsSequence")
    if isinstance(own, Sequence) and len(own) not in (0, count):
        raise Quarantined("bad-pixels")
    groups = list(own) if isinstance(own, Sequence) and len(own) else [None] * count
    return tuple(
        Frame(ds, tuple(group for group in (one, shared) if group is not None), place, count) for place, one in enumerate(groups, 1)
    )


def _item(ds: Dataset, keyword: str) -> Dataset | None:
    found = given(ds, keyword) if keyword else None
    return found[0] if isinstance(found, Sequence) and len(found) else None


def items(ds: Dataset, keyword: str) -> Iterator[Dataset]:
    """Of a sequence that may be absent, empty, or something else."""
    found = given(ds, keyword)
    yield from found if isinstance(found, Sequence) else ()
