"""Segmentation (PS3.3 A.51): BINARY, one segment per structure, on the grid of the source volume."""

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.objects.codes import sr_code
from dicom_node.objects.common import ObjectContext, describe, reduced_enhanced, source_headers
from inference.findings import Findings, Segment

SERIES_NUMBER = 9001


def build_seg(findings: Findings, context: ObjectContext) -> Dataset:
    """The SEG of `findings`, which must hold at least one segment.

    Frame positions are those of the source slices, never computed; each frame names its source instance, and the frame
    number where the source is Enhanced.
    """
    headers = source_headers(findings.source)
    enhanced = "PerFrameFunctionalGroupsSequence" in headers[0]
    sources = [reduced_enhanced(headers[0], findings.source)] if enhanced else headers
    seg = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=_pixels(findings.segments),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(findings, number, s) for number, s in enumerate(findings.segments, 1)],
        series_instance_uid=context.uid("SEG series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=context.uid("SEG instance"),
        instance_number=context.revision,
        manufacturer=findings.algorithm.manufacturer[:64],
        manufacturer_model_name=findings.algorithm.name[:64],
        software_versions=findings.algorithm.version[:64],
        device_serial_number=findings.algorithm.weights_sha256[:16],
        content_label="AI_SEGMENTATION",
        content_description=findings.title[:64],
        content_creator_name="AI^Node",
        omit_empty_frames=True,
    )
    if enhanced:
        _name_true_frames(seg, findings)
    organization = context.uid("SEG dimensions")
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    describe(seg, findings, context, "SEG")
    return seg


def _pixels(segments: tuple[Segment, ...]) -> NDArray[np.uint8]:
    """(slice, row, column) segment numbers where no two segments overlap, else (slice, row, column, segment) 0 / 1."""
    count = np.zeros(segments[0].mask.shape, np.uint16)
    for segment in segments:
        count += segment.mask
    if len(segments) > 255 or count.max() > 1:
        return np.stack([segment.mask for segment in segments], axis=-1).astype(np.uint8)
    labels = np.zeros(count.shape, np.uint8)
    for number, segment in enumerate(segments, 1):
        labels[segment.mask] = number
    return labels


def _description(findings: Findings, number: int, segment: Segment) -> hd.seg.SegmentDescription:
    algorithm = findings.algorithm
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:64],
        segmented_property_category=sr_code(segment.category),
        segmented_property_type=sr_code(segment.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm.name[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version[:64],
            source=algorithm.manufacturer[:64],
        ),
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.tracking_id,
        anatomic_regions=[sr_code(segment.anatomic_region)] if segment.anatomic_region else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )


def _name_true_frames(seg: Dataset, findings: Findings) -> None:
    """The SEG was built from a reduced copy of the source; its references must name the stored object's frames."""
    # highdicom gives frames of several segments the very same item: each is to be renamed once
    references = {
        id(source): source
        for frame in seg.PerFrameFunctionalGroupsSequence
        for derivation in frame.DerivationImageSequence
        for source in derivation.SourceImageSequence
    }
    for source in references.values():
        k = int(source.ReferencedFrameNumber) - 1
        source.ReferencedFrameNumber = findings.source.frames[k].frame_number
