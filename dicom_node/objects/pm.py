"""Parametric Map (PS3.3 A.75): one quantity at every voxel, as 32-bit floats in its own unit, on the source's grid."""

import highdicom as hd
import numpy as np
from highdicom.sr import CodeContentItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DS

from dicom_node.objects.base.codes import sr_code
from dicom_node.objects.base.context import ObjectContext, equipment
from dicom_node.objects.base.description import describe
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import FIRST_PM_SERIES
from dicom_node.objects.base.source_headers import sharing, slice_headers
from dicom_node.objects.base.value_lengths import SH_LENGTH
from inference.contract.findings import Findings, ParametricMap
from inference.volumes.planes import functional, is_enhanced
from inference.volumes.volume import Volume
from storage.records.results import ObjectKind

SIDES = ("FrameLaterality", "ImageLaterality", "Laterality")  # of a frame, an image, a series
WINDOW = (1, 99)  # percentiles of the values that the display window reaches to

Values = NDArray[np.float32]


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return a Parametric Map for each map of the findings."""
    return [build_pm(parts.findings, one, parts.context) for one in parts.findings.maps]


def build_pm(findings: Findings, one: ParametricMap, context: ObjectContext) -> Dataset:
    """Build the Parametric Map of `one`, a member of `findings.maps`.

    Stored values are the quantity itself: the Real World Value Mapping has slope 1 and intercept 0, and names the
    quantity, the method where there is one, and the unit. Voxels without a value are NaN, which PS3.5 8.1.2 allows. Any
    number in place of NaN, even one declared as padding, would be taken for a measured value by some reader. The mapped
    range and the window are those of the voxels with a value. Frame positions are those of the source slices, never
    computed; each frame names its source frame.
    """
    number = findings.maps.index(one)
    role = f"PM {number}"
    sources = _sources(findings)
    finite = _finite(one.values)
    ds = hd.pm.ParametricMap(
        source_images=sources,
        pixel_array=one.values,
        series_instance_uid=context.uid(f"{role} series"),
        series_number=FIRST_PM_SERIES + number,
        sop_instance_uid=context.uid(f"{role} instance"),
        instance_number=context.revision,
        **equipment(findings.algorithm, context),
        # A map of a head may be as recognisable as its source, unless that declares that it is not.
        contains_recognizable_visual_features=sources[0].get("RecognizableVisualFeatures") != "NO",
        real_world_value_mappings=[_mapping(one, finite)],
        voi_lut_transformations=[_window(finite)],
        content_description=f"{one.label}: {one.quantity.meaning}"[:64],
        content_creator_name="AI^Node",
        content_qualification="RESEARCH" if findings.research else "PRODUCT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.FrameAnatomySequence = [_anatomy(sources[0])]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = DS(findings.source.geometry.spacing[0], auto_format=True)
    organization = context.uid(f"{role} dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if is_enhanced(sources[0]):
        _name_true_frames(ds, findings.source)
    elif findings.source.frames[0].tile is not None:
        _name_tiled_images(ds)
    _order_frames(ds, findings.source, one.values)
    del ds.ContributingEquipmentSequence[-1].ContributionDateTime  # the present time, which would differ on repetition
    describe(ds, findings, context, one.label[:SH_LENGTH])
    return ds


def _sources(findings: Findings) -> list[Dataset]:
    """Return the source's headers as highdicom 0.28.2 wants them.

    SliceThickness is filled in where it is empty: it is type 2 in MR, and type 1C here.
    """
    headers = slice_headers(findings.source)
    if is_enhanced(headers[0]):
        measures = list(headers[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence)
    else:
        headers = measures = [sharing(header) for header in headers]
    for item in measures:
        if not item.get("SliceThickness"):
            item.add_new("SliceThickness", "DS", DS(findings.source.geometry.spacing[0], auto_format=True))
    return headers


def _anatomy(source: Dataset) -> Dataset:
    """Return the item of Frame Anatomy Sequence (PS3.3 C.7.6.16.2.8), as the source has it.

    dcmqi 1.5.7, and so 3D Slicer, crashes on a map without it. If the source names no region, the item says "body
    structure", which has no side.
    """
    found = functional(source, 0, "FrameAnatomySequence") if is_enhanced(source) else source
    item = Dataset()
    if found is not None and found.get("AnatomicRegionSequence"):
        item.AnatomicRegionSequence = found.AnatomicRegionSequence
    else:
        region = codes.SCT.BodyStructure
        item.AnatomicRegionSequence = [hd.sr.CodedConcept(region.value, region.scheme_designator, region.meaning)]
    sides = (found.get(keyword) for keyword in SIDES) if found is not None else ()
    item.FrameLaterality = next((side for side in sides if side), "U")
    return item


def _mapping(one: ParametricMap, finite: Values) -> Dataset:
    """Return the Real World Value Mapping (PS3.3 C.7.6.16.2.11)."""
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=one.label[:SH_LENGTH],
        lut_explanation=one.quantity.meaning[:64],
        unit=sr_code(one.unit),
        value_range=(float(finite.min()), float(finite.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=sr_code(one.quantity),
    )
    if one.method is not None:
        mapping.QuantityDefinitionSequence.append(
            CodeContentItem(name=codes.SCT.MeasurementMethod, value=sr_code(one.method))
        )
    return mapping


def _window(finite: Values) -> hd.VOILUTTransformation:
    low, high = (float(v) for v in np.percentile(finite, WINDOW))
    return hd.VOILUTTransformation(
        window_center=DS((low + high) / 2, auto_format=True),
        window_width=DS((high - low) or 1.0, auto_format=True),
    )


def _finite(values: Values) -> Values:
    """Return the finite values; a single 0 if there are none."""
    finite = values[np.isfinite(values)]
    return finite if finite.size else np.zeros(1, np.float32)


def _order_frames(ds: Dataset, source: Volume, values: Values) -> None:
    """Order the frames along the normal, as the slices are.

    highdicom 0.28.2 orders frames against the normal; dcmqi 1.5.7, and so 3D Slicer, would then show the map upside
    down.
    """
    step = source.geometry.affine[:3, 0]
    ds.PerFrameFunctionalGroupsSequence = sorted(
        ds.PerFrameFunctionalGroupsSequence,
        key=lambda frame: float(step @ np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)),
    )
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
        frame.FrameContentSequence[0].DimensionIndexValues = [k]
    ds.FloatPixelData = values.astype("<f4", copy=False).tobytes()


def _name_true_frames(ds: Dataset, source: Volume) -> None:
    """Make references name the frames of the stored object, because the map was built from a reduced copy of it."""
    for frame in ds.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for reference in derivation.SourceImageSequence:
                stored = source.frames[int(reference.ReferencedFrameNumber) - 1].frame_number
                reference.ReferencedFrameNumber = stored


def _name_tiled_images(ds: Dataset) -> None:
    """Make references name each image once, because the map was built from one header for each tile.

    A tile and the whole image are not in the same place, so SpatialLocationsPreserved is NO.
    """
    for series in ds.ReferencedSeriesSequence:
        once = {item.ReferencedSOPInstanceUID: item for item in series.ReferencedInstanceSequence}
        series.ReferencedInstanceSequence = list(once.values())
    for frame in ds.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for reference in derivation.SourceImageSequence:
                reference.SpatialLocationsPreserved = "NO"
