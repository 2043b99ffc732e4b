"""JPEG Extended with 12 bits a sample, which pydicom's decoders refuse: GDCM's own way, whose values equal DCMTK's."""

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGExtended12Bit

from fedrad_client.intake.pixels.array import Array
from fedrad_client.intake.pixels.header import n_frames, whole


def is_twelve_bit(ds: Dataset, syntax: str) -> bool:
    return syntax == JPEGExtended12Bit and whole(ds, "BitsStored") > 8 and whole(ds, "SamplesPerPixel", default=1) == 1


def twelve_bit_frames(ds: Dataset) -> Array:
    """(N, H, W) uint16. Raises whatever a damaged stream makes these libraries raise."""
    frames = generate_frames(ds.PixelData, number_of_frames=n_frames(ds))
    decoded = b"".join(_decoded(frame, ds) for frame in frames)
    return np.frombuffer(decoded, dtype="<u2").reshape(n_frames(ds), int(ds.Rows), int(ds.Columns))


def _decoded(frame: bytes, ds: Dataset) -> bytes:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((int(ds.Columns), int(ds.Rows), 1))
    image.SetDataElement(element)
    photometric = gdcm.PhotometricInterpretation.GetPIType(str(ds.PhotometricInterpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    stored = whole(ds, "BitsStored")
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, stored, stored - 1, whole(ds, "PixelRepresentation")))
    content: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")  # its bytes come as text
    return content
