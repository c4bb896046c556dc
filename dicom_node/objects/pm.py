"""Parametric Map (PS3.3 A.75): one quantity at every voxel, as 32-bit floats in its own unit, on the source's grid."""

import highdicom as hd
import numpy as np
from highdicom.sr import CodeContentItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as SRCode
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DS

from dicom_node.objects.base.anatomy import Anatomy, anatomy_of, code_item
from dicom_node.objects.base.codes import sr_code
from dicom_node.objects.base.context import ObjectContext, equipment
from dicom_node.objects.base.description import describe
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import FIRST_PM_SERIES
from dicom_node.objects.base.source_headers import sharing, slice_headers, source_headers
from dicom_node.objects.base.value_lengths import SH_LENGTH
from inference.contract.findings import Findings, ParametricMap
from inference.volumes.planes import is_enhanced
from inference.volumes.volume import FrameReference, Volume
from storage.records.results import ObjectKind

WITHIN = 1e-3  # of the distance of slices: so close to a slice, no other one contributes
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
    range and the window are those of the voxels with a value. Frame positions are those of the slices of the findings'
    source, never computed. Each frame names the images it was computed from, and how (PS3.3 C.7.6.16.2.6).
    """
    number = findings.maps.index(one)
    role = f"PM {number}"
    sources = _grid_headers(findings)
    finite = _finite(one.values)
    ds = hd.pm.ParametricMap(
        source_images=sources,
        pixel_array=one.values,
        series_instance_uid=context.uid(f"{role} series"),
        series_number=context.series_number(FIRST_PM_SERIES + number),
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
    anatomy = anatomy_of([(volume, source_headers(volume)) for volume in one.sources], context.side)
    shared.FrameAnatomySequence = [_frame_anatomy(anatomy)]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = DS(findings.source.geometry.spacing[0], auto_format=True)
    organization = context.uid(f"{role} dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    _order_frames(ds, findings.source, one.values)
    _name_sources(ds, one, findings.source)
    del ds.ContributingEquipmentSequence[-1].ContributionDateTime  # the present time, which would differ on repetition
    describe(ds, findings, context, one.label[:SH_LENGTH], anatomy)
    return ds


def _grid_headers(findings: Findings) -> list[Dataset]:
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


def _frame_anatomy(anatomy: Anatomy) -> Dataset:
    """Return the item of Frame Anatomy Sequence (PS3.3 C.7.6.16.2.8).

    dcmqi 1.5.7, and so 3D Slicer, crashes on a map without it. If the images name no region, the item says "body
    structure", which has no side.
    """
    item = Dataset()
    item.AnatomicRegionSequence = anatomy.items() or [code_item(codes.SCT.BodyStructure)]
    item.FrameLaterality = anatomy.side or "U"
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


def _name_sources(ds: Dataset, one: ParametricMap, source: Volume) -> None:
    """Make each frame name the images that it was computed from, and the whole map all of them (PS3.3 C.12.2).

    The series on whose grid the map lies comes first: OHIF 3.13.2 draws a map over the first series that it names, and
    would take the values for those of other places if that had another grid.
    """
    derivation = code_item(_derivation(one, source))
    named: dict[str, dict[str, Dataset]] = {}
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        images: dict[tuple[str, int | None], Dataset] = {}  # several slices may be tiles of one image
        for volume in one.sources:
            for reference in (volume.frames[n] for n in contributing_slices(volume, source, k)):
                places_kept = _keeps_places(volume, source) and reference.tile is None
                images[reference.sop_instance_uid, reference.frame_number] = _source_image(reference, places_kept)
        item = Dataset()
        item.SourceImageSequence = list(images.values())
        item.DerivationCodeSequence = [derivation]
        frame.DerivationImageSequence = [item] if images else []
    for volume in (source, *one.sources):
        instances = named.setdefault(volume.series_instance_uid, {})
        instances.update({frame.sop_instance_uid: _instance(frame) for frame in volume.frames})
    ds.ReferencedSeriesSequence = [_series(uid, list(instances.values())) for uid, instances in named.items()]


def _derivation(one: ParametricMap, source: Volume) -> SRCode:
    """Return the code of the computation. For a map of the scanner, it is what was done to its voxels here."""
    if one.derivation is not None:
        return sr_code(one.derivation)
    if all(_keeps_places(volume, source) for volume in one.sources):
        return codes.DCM.PixelByPixelMask  # voxels with impossible values have lost them
    return codes.DCM.SpatialResampling


def _keeps_places(volume: Volume, source: Volume) -> bool:
    one, other = volume.geometry, source.geometry
    same_grid = one.shape == other.shape and np.allclose(one.affine, other.affine)
    return _share_frame_of_reference(volume, source) and same_grid


def _share_frame_of_reference(one: Volume, other: Volume) -> bool:
    if one.series_instance_uid == other.series_instance_uid:
        return True
    return bool(one.frame_of_reference_uid) and one.frame_of_reference_uid == other.frame_of_reference_uid


def contributing_slices(volume: Volume, source: Volume, k: int) -> range:
    """Return the slices of `volume` between which slice `k` of `source` lies: those that linear interpolation uses.

    They are all slices if the two are in different frames of reference, because a registration then relates them.
    """
    slices = len(volume.frames)
    if not _share_frame_of_reference(volume, source):
        return range(slices)
    _, rows, columns = source.geometry.shape
    corners = np.array([(k, row, column) for row in (0, rows - 1) for column in (0, columns - 1)], float)
    affine = volume.geometry.affine
    along = np.linalg.solve(affine[:3, :3], (source.geometry.to_lps(corners) - affine[:3, 3]).T)[0]
    first, last = np.floor(along.min() + WITHIN), np.ceil(along.max() - WITHIN)
    return range(max(int(first), 0), min(int(last), slices - 1) + 1)


def _source_image(reference: FrameReference, places_kept: bool) -> Dataset:
    item = _instance(reference)
    if reference.frame_number is not None:
        item.ReferencedFrameNumber = reference.frame_number
    item.SpatialLocationsPreserved = "YES" if places_kept else "NO"
    item.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def _instance(frame: FrameReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    return item


def _series(series_instance_uid: str, instances: list[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series_instance_uid
    item.ReferencedInstanceSequence = instances
    return item
