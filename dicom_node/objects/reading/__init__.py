"""Result objects of any writer, read back: segmentations to masks, measurement reports to values.

Strict about what a later comparison relies on (identity, geometry, numbers), tolerant of everything else.
"""

from dicom_node.objects.reading.report import (
    Group,
    Image,
    Measured,
    Region,
    Report,
    SegmentReference,
    read_report,
)
from dicom_node.objects.reading.segmentation import ReadSegment, Segmentation, read_segmentation

__all__ = [
    "Group",
    "Image",
    "Measured",
    "ReadSegment",
    "Region",
    "Report",
    "SegmentReference",
    "Segmentation",
    "read_report",
    "read_segmentation",
]
