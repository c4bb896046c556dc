"""Segmentation (PS3.3 A.51; Label Map Segmentation, A.51.8) on the grid of the source volume.

highdicom makes the object for one slice: patient, study, equipment, segments, and the functional groups of a frame. The
frames are encoded here. Thousands of functional groups take seconds to make and write as pydicom datasets. They take no
time as bytes that are joined from a piece for each slice and a piece for each segment.
"""

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DS

from dicom_node.objects.base.anatomy import Anatomy, code_item
from dicom_node.objects.base.codes import sr_code
from dicom_node.objects.base.context import ObjectContext, equipment
from dicom_node.objects.base.description import anatomy_of_findings, describe
from dicom_node.objects.base.encoding import add_sequence, element, encoded, item, sequence
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import SEG_SERIES
from dicom_node.objects.base.source_headers import slice_headers, slice_position
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from dicom_node.runtime.logs import fields
from inference.contract.findings import Findings, Segment
from inference.headers.reading import read_header
from inference.volumes.planes import functional, is_enhanced
from inference.volumes.volume import FrameReference, Volume
from storage.records.results import ObjectKind

MAXIMUM_FRACTIONAL_VALUE = 255

BINARY, FRACTIONAL, LABELMAP = SegmentationForm.BINARY, SegmentationForm.FRACTIONAL, SegmentationForm.LABELMAP
_FrameImage = NDArray[Any]  # [row, column]
Position = list[Any]  # three DS: ImagePositionPatient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Frame:
    """The source slice and the segment of a frame, both from 0. The segment is None in a label map, which holds all."""

    slice: int
    segment: int | None


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return the Segmentation in the form that the profile asks for; for SEG_BINARY, a second one in BINARY form.

    The second one exists only if the first is a label map, for destinations that refuse label maps.
    """
    if kind is ObjectKind.SEG:
        return [build_seg(parts.findings, parts.context, parts.profile)]
    seg = parts.requested(ObjectKind.SEG)
    if seg is None or seg.SegmentationType != LABELMAP:
        return []
    return [build_seg(parts.findings, parts.variant(kind), replace(parts.profile, segmentation=BINARY))]


def build_seg(
    findings: Findings,
    context: ObjectContext,
    profile: ObjectProfile = ObjectProfile(),  # noqa: B008 - frozen
) -> Dataset:
    """Build the SEG of `findings`, which must hold at least one segment, in the form that the profile asks for.

    Segments that overlap cannot be a label map. The SEG is then BINARY, and SegmentationType and SegmentsOverlap say
    so. Frames are ordered by segment, then down the slices. The positions of frames are those of the source slices;
    only the positions of tiles are computed. Each frame names its source instance, and the frame number if the source
    is Enhanced.
    """
    segments, source = findings.segments, findings.source
    overlap = _overlap(segments)
    form = profile.segmentation
    if form is LABELMAP and overlap:
        form = BINARY
        log.warning(
            "Overlapping segments cannot be a label map: the segmentation is BINARY",
            extra=fields("label_map_omitted", sop_instance_uid=context.uid("SEG instance")),
        )
    seg, one_frame = _of_one_slice(findings, context, form)
    frames = _frames(segments, form, profile.omits_empty_frames)
    positions = _positions(source)
    _describe_grid(seg, frames, positions, places_only=form is LABELMAP or len(segments) == 1)
    _reference_sources(seg, source)
    seg.SegmentsOverlap = _segments_overlap(segments, form, overlap)
    seg.NumberOfFrames = len(frames)
    images = (_image(segments, form, frame) for frame in frames)
    pixels = _packed(images) if form is BINARY else _joined(images)
    seg.add_new("PixelData", "OW" if seg.BitsAllocated > 8 else "OB", pixels)
    describe(seg, findings, context, "SEG")
    groups = _functional_groups(seg, one_frame, frames, source, positions)
    add_sequence(seg, "PerFrameFunctionalGroupsSequence", groups)
    return seg


# -- the part of highdicom ---------------------------------------------------------------------------------------------


def _of_one_slice(findings: Findings, context: ObjectContext, form: SegmentationForm) -> tuple[Dataset, Dataset]:
    """Return the object without frames, and the functional groups of its first frame."""
    first = replace(findings.source, frames=findings.source.frames[:1])
    (header,) = slice_headers(first)
    anatomy = anatomy_of_findings(findings, context)
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0] if is_enhanced(header) else header
    if not measures.get("SliceThickness"):  # type 2 in MR, 1C here
        measures.SliceThickness = DS(findings.source.geometry.spacing[0], auto_format=True)
    made = hd.seg.Segmentation(
        source_images=[header],
        pixel_array=np.zeros((1, *findings.source.array.shape[1:]), np.uint8),
        segmentation_type=form.value,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=MAXIMUM_FRACTIONAL_VALUE,
        segment_descriptions=[
            _description(findings, number, s, anatomy) for number, s in enumerate(findings.segments, 1)
        ],
        series_instance_uid=context.uid("SEG series"),
        series_number=context.series_number(SEG_SERIES),
        sop_instance_uid=context.uid("SEG instance"),
        instance_number=context.revision,
        **equipment(findings.algorithm, context),
        content_label="AI_SEGMENTATION",
        content_description=findings.title[:64],
        content_creator_name="AI^Node",
        omit_empty_frames=False,
    )
    seg = Dataset()
    seg.update({element.tag: element for element in made if element.keyword != "PixelData"})
    seg.file_meta = made.file_meta
    if "PixelPaddingValue" in seg:
        seg["PixelPaddingValue"].VR = "US"
    organization = context.uid("SEG dimensions")
    for dimension in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        dimension.DimensionOrganizationUID = organization
    return seg, seg.PerFrameFunctionalGroupsSequence[0]


def _description(findings: Findings, number: int, segment: Segment, anatomy: Anatomy) -> hd.seg.SegmentDescription:
    """Describe a segment. Where it names no region of its own, its region is what the images show."""
    region = replace(anatomy, region=sr_code(segment.anatomic_region)) if segment.anatomic_region else anatomy
    algorithm = findings.algorithm
    description = hd.seg.SegmentDescription(
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
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )
    (kind,) = description.SegmentedPropertyTypeCodeSequence
    if segment.modifier is not None:  # highdicom 0.28.2 knows modifiers of the region only
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(sr_code(segment.modifier))]
        region = replace(region, side="")  # the modifier may name another
    elif region.region is None and region.laterality is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code_item(region.laterality)]
    if items := region.items():
        description.AnatomicRegionSequence = items
    return description


# -- frames ------------------------------------------------------------------------------------------------------------


def _overlap(segments: Sequence[Segment]) -> bool:
    taken = np.zeros(-(-segments[0].mask.size // 8), np.uint8)  # a bit for each voxel
    for segment in segments:
        bits = np.packbits(segment.mask)
        if np.any(bits & taken):
            return True
        taken |= bits
    return False


def _segments_overlap(segments: Sequence[Segment], form: SegmentationForm, overlap: bool) -> str:
    """Return SegmentsOverlap (PS3.3 C.8.20.2).

    It is UNDEFINED for probabilities: PS3.3 does not define whether several segments at one place then overlap.
    """
    if form is FRACTIONAL and len(segments) > 1 and any(s.probability is not None for s in segments):
        return "UNDEFINED"
    return "YES" if overlap else "NO"


def _frames(segments: Sequence[Segment], form: SegmentationForm, omits_empty: bool) -> list[_Frame]:
    if omits_empty:
        present = np.array([_present(segment, form) for segment in segments])
    else:
        present = np.ones((len(segments), len(segments[0].mask)), bool)
    if form is LABELMAP:
        return [_Frame(k, None) for k in _downwards(np.asarray(present.any(axis=0)))]
    return [_Frame(k, number) for number, slices in enumerate(present) for k in _downwards(slices)]


def _downwards(slices: NDArray[np.bool_]) -> list[int]:
    """Order slices against the normal, as highdicom does: slices, rows and columns are then right-handed."""
    return [int(k) for k in np.flatnonzero(slices)[::-1]]


def _present(segment: Segment, form: SegmentationForm) -> NDArray[np.bool_]:
    """Return for each slice True if a part of the segment is encoded there."""
    if form is FRACTIONAL and segment.probability is not None:
        return np.array([bool(_fraction(image).any()) for image in segment.probability])
    return np.asarray(segment.mask.any(axis=(1, 2)))


def _image(segments: Sequence[Segment], form: SegmentationForm, frame: _Frame) -> _FrameImage:
    if frame.segment is None:
        labels = np.zeros(segments[0].mask.shape[1:], np.uint8 if len(segments) < 256 else "<u2")
        for number, segment in enumerate(segments, start=1):
            labels[segment.mask[frame.slice]] = number
        return labels
    segment = segments[frame.segment]
    if form is BINARY:
        return segment.mask[frame.slice]
    if segment.probability is not None:
        return _fraction(segment.probability[frame.slice])
    return segment.mask[frame.slice] * np.uint8(MAXIMUM_FRACTIONAL_VALUE)


def _fraction(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.around(probability * float(MAXIMUM_FRACTIONAL_VALUE)).astype(np.uint8)


def _packed(images: Iterator[_FrameImage]) -> bytes:
    """Pack pixels into bits, the first one lowest, without padding between frames (PS3.5 8.1.1, 8.2)."""
    pixels = BytesIO()
    while some := list(islice(images, 8)):  # eight images fill whole bytes, whatever their size
        pixels.write(np.packbits(np.concatenate([image.ravel() for image in some]), bitorder="little").tobytes())
    return _even(pixels)


def _joined(images: Iterable[_FrameImage]) -> bytes:
    pixels = BytesIO()
    for image in images:
        pixels.write(image.tobytes())
    return _even(pixels)


def _even(pixels: BytesIO) -> bytes:
    pixels.write(bytes(pixels.tell() % 2))
    return pixels.getvalue()  # no copy


# -- places of frames --------------------------------------------------------------------------------------------------


def _positions(volume: Volume) -> list[Position]:
    """Return ImagePositionPatient of every slice from its header; that of a tile is computed."""
    if volume.frames[0].tile is not None:
        return [slice_position(volume, k) for k in range(len(volume.frames))]
    tags = ["ImagePositionPatient", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"]
    headers = {blob: read_header(blob, tags) for blob in dict.fromkeys(frame.blob for frame in volume.frames)}
    return [_position(headers[frame.blob], frame.frame_number) for frame in volume.frames]


def _position(header: Dataset, frame_number: int | None) -> Position:
    place = header if frame_number is None else functional(header, frame_number - 1, "PlanePositionSequence")
    assert place is not None
    return [DS(float(value), auto_format=True) for value in place.ImagePositionPatient]


def _describe_grid(seg: Dataset, frames: Sequence[_Frame], positions: Sequence[Position], places_only: bool) -> None:
    """Set the pixel measures from the positions of the slices; SpacingBetweenSlices only if these are evenly spaced.

    `places_only` means that frames differ only in their place, so that they may be a 3D volume (PS3.3 C.7.6.17).
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    measures = shared.PixelMeasuresSequence[0]
    spacing, _ = get_volume_positions(positions, orientation)
    if spacing is not None:
        measures.SpacingBetweenSlices = DS(round(spacing, 6), auto_format=True)
    elif "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    if places_only and len(frames) > 1:
        even, _ = get_volume_positions([positions[frame.slice] for frame in frames], orientation, sort=False)
        if even is not None:
            seg.DimensionOrganizationType = "3D"


def _reference_sources(seg: Dataset, source: Volume) -> None:
    """Set Source Image Sequence and Common Instance Reference (PS3.3 C.12.2), with every slice of the source."""
    references = []
    for sop_class_uid, sop_instance_uid in dict.fromkeys((f.sop_class_uid, f.sop_instance_uid) for f in source.frames):
        reference = Dataset()
        reference.ReferencedSOPClassUID = sop_class_uid
        reference.ReferencedSOPInstanceUID = sop_instance_uid
        references.append(reference)
    seg.SourceImageSequence = references
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references


def _functional_groups(
    seg: Dataset, one_frame: Dataset, frames: Sequence[_Frame], source: Volume, positions: Sequence[Position]
) -> Iterator[bytes]:
    """Encode the item of each frame (PS3.3 C.7.6.16), from one piece for each slice and one for each segment."""
    derivation = one_frame.DerivationImageSequence[0]
    how = encoded(derivation["DerivationCodeSequence"])
    purpose = encoded(derivation.SourceImageSequence[0]["PurposeOfReferenceCodeSequence"])
    planes = sorted({frame.slice for frame in frames}, reverse=True)
    index = {k: n for n, k in enumerate(planes, start=1)}
    derivations = {k: _derivation(source.frames[k], how, purpose) for k in planes}
    places = {k: _plane_position(positions[k]) for k in planes}
    # The only segment is named in the shared functional groups.
    several = "SegmentIdentificationSequence" in one_frame
    numbers = [_segment_identification(n) if several else b"" for n in range(1, len(seg.SegmentSequence) + 1)]
    for frame in frames:
        k, segment = frame.slice, frame.segment
        dimensions = [index[k]] if segment is None else [segment + 1, index[k]]
        number = b"" if segment is None else numbers[segment]
        yield item(derivations[k] + _frame_content(dimensions) + places[k] + number)


def _derivation(source: FrameReference, how: bytes, purpose: bytes) -> bytes:
    number = b"" if source.frame_number is None else element("ReferencedFrameNumber", b"%d" % source.frame_number)
    reference = (
        element("ReferencedSOPClassUID", source.sop_class_uid.encode())
        + element("ReferencedSOPInstanceUID", source.sop_instance_uid.encode())
        + number
        + element("SpatialLocationsPreserved", b"YES" if source.tile is None else b"NO")  # a tile lies elsewhere
        + purpose
    )
    return sequence("DerivationImageSequence", sequence("SourceImageSequence", reference) + how)


def _frame_content(dimension_index_values: list[int]) -> bytes:
    values = struct.pack(f"<{len(dimension_index_values)}L", *dimension_index_values)
    return sequence("FrameContentSequence", element("DimensionIndexValues", values))


def _plane_position(position: Position) -> bytes:
    value = "\\".join(map(str, position)).encode()
    return sequence("PlanePositionSequence", element("ImagePositionPatient", value))


def _segment_identification(number: int) -> bytes:
    return sequence("SegmentIdentificationSequence", element("ReferencedSegmentNumber", struct.pack("<H", number)))
