"""From a folder of DICOM to records and pixels without identity."""
