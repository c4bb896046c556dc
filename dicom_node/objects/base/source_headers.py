"""Headers of the source images, made fit to be copied into result objects."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from highdicom._standard_utils import get_sop_class_iod_map
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, DS, TM, validate_value

from dicom_node.objects.base.context import derived_uid
from dicom_node.objects.base.value_lengths import LO_LENGTH, SH_LENGTH
from inference.headers.reading import read_header
from inference.volumes.planes import is_enhanced, shared_groups
from inference.volumes.tiles import TileFormat
from inference.volumes.volume import Volume
from storage.blobs import Blob

UTF_8 = "ISO_IR 192"
LONGEST = {"SH": SH_LENGTH, "LO": LO_LENGTH}
STRICT_VRS = frozenset({"AS", "CS", "DA", "DS", "IS", "TM"})
PATIENT_GROUP = 0x0010
OF_FRAMES = ("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
IDENTIFIERS = frozenset({
    "PatientID", "AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID", "CodeValue",
})  # fmt: skip
OPTIONAL_IDENTIFIERS = frozenset({
    "StudyID", "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
})  # fmt: skip
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip


def source_headers(volume: Volume) -> list[Dataset]:
    """Return the header of each instance of `volume` once, in slice order, without pixels, as `source_header` does.

    They are read once, and all objects of a result share them.
    """
    if volume not in _headers:
        _headers[volume] = _read_headers(volume)
    return _headers[volume]


_headers: WeakKeyDictionary[Volume, list[Dataset]] = WeakKeyDictionary()


def _read_headers(volume: Volume) -> list[Dataset]:
    headers: list[Dataset] = []
    for blob in dict.fromkeys(frame.blob for frame in volume.frames):
        ds = source_header(blob)
        if headers and "ImageOrientationPatient" in ds and _close(ds, headers[0]):
            # highdicom compares orientations by text; scanners round the last digit differently within a series
            ds.ImageOrientationPatient = headers[0].ImageOrientationPatient
        headers.append(ds)
    return headers


def source_header(blob: Blob) -> Dataset:
    """Read the header of a stored instance, fit for highdicom 0.28.2 to copy patient and study from.

    Texts are decoded and the character set is UTF-8, because highdicom does not know all character sets; `describe`
    sets the character set of the source again. Private elements, elements that cannot be read, and attributes of the
    patient whose value is not of their VR are left out. Absent or invalid type 2 attributes of patient and study become
    empty. Texts that are longer than their VR allows are cut, but never an identifier: a number of the study or of an
    order is left out instead. Images without a frame of
    reference get one, which is the same for all images of the series.
    """
    ds = read_header(blob)
    _drop_unusable(ds)
    ds.SpecificCharacterSet = UTF_8
    _cut_texts(ds)
    for element in list(ds):
        if element.tag.group == PATIENT_GROUP and element.VR in STRICT_VRS and not _is_valid(element):
            del ds[element.tag]
    for keyword in TYPE_2:
        if keyword not in ds:
            setattr(ds, keyword, "")
    if isinstance(ds.PatientName, MultiValue):  # PN allows no backslash within, but allows several values
        ds.PatientName = " ".join(str(part) for part in ds.PatientName)
    if ds.PatientSex not in ("M", "F", "O"):
        ds.PatientSex = ""
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        if not is_one(kind, ds[keyword].value):
            setattr(ds, keyword, "")
    if "ProcedureCodeSequence" in ds and not ds.ProcedureCodeSequence:
        del ds.ProcedureCodeSequence  # type 3: present means at least one item; some scanners write none
    if not ds.get("SOPClassUID"):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID
    # highdicom looks up by the storage class which attributes of patient and study to copy, and fails for retired and
    # private classes. These attributes are the same for every class.
    get_sop_class_iod_map().setdefault(str(ds.SOPClassUID), "mr-image")
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = derived_uid("frame of reference", str(ds.SeriesInstanceUID))
    return ds


def _drop_unusable(ds: Dataset) -> None:
    """Remove private elements and elements that cannot be read, in sequences too; decode all others.

    `Dataset.decode` must not be used: it would decode a second time, and lose characters of a name that the declared
    character set does not have.
    """
    for tag in list(ds.keys()):
        try:
            element = None if tag.is_private else ds[tag]
        except Exception:  # pydicom's converters raise anything
            element = None
        if element is None:
            del ds[tag]
        elif element.VR == "SQ":
            for item in element.value:
                _drop_unusable(item)


def _cut_texts(ds: Dataset) -> None:
    for element in list(ds):
        longest = LONGEST.get(element.VR)
        if longest is not None and isinstance(element.value, str) and element.keyword not in IDENTIFIERS:
            if element.keyword in OPTIONAL_IDENTIFIERS and len(element.value) > longest:
                del ds[element.tag]
            element.value = element.value[:longest]
        elif element.VR == "SQ" and element.keyword not in OF_FRAMES:
            for item in element.value:
                _cut_texts(item)


def _is_valid(element: DataElement) -> bool:
    """Return True if every value is valid for the element's VR (PS3.5 6.2)."""
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return all(
        value is None or is_one(partial(validate_value, element.VR, validation_mode=RAISE), value) for value in values
    )


def is_one(kind: Callable[[Any], Any], value: Any) -> bool:
    """Return True if `kind`, a constructor or a check, accepts `value` without TypeError or ValueError."""
    try:
        kind(value)
    except (TypeError, ValueError):
        return False
    return True


def _close(one: Dataset, other: Dataset) -> bool:
    """Return True if two direction cosines agree within the tolerance of the geometry, 1e-4."""
    pairs = zip(one.ImageOrientationPatient, other.ImageOrientationPatient, strict=True)
    return all(abs(float(a) - float(b)) < 1e-4 for a, b in pairs)


def sharing(ds: Dataset) -> Dataset:
    """Return a new dataset with the elements of `ds`. Elements may be replaced or deleted in it, but not modified."""
    copy = Dataset(dict(ds.items()))
    copy.file_meta = ds.file_meta
    return copy


def slice_headers(volume: Volume) -> list[Dataset]:
    """Return the headers of the slices of `volume` as highdicom 0.28.2 wants them.

    There is one header for each slice, in slice order. An Enhanced object has a single header, reduced to these slices.
    A slice that is a tile of an image gets the header that it would have as a separate image.
    """
    headers = source_headers(volume)
    if is_enhanced(headers[0]):
        return [reduced_enhanced(headers[0], volume)]
    by_uid = {str(header.SOPInstanceUID): header for header in headers}
    return [
        by_uid[frame.sop_instance_uid] if frame.tile is None else _untiled(by_uid[frame.sop_instance_uid], volume, k)
        for k, frame in enumerate(volume.frames)
    ]


def _untiled(header: Dataset, volume: Volume, k: int) -> Dataset:
    _, rows, columns = volume.geometry.shape
    copy = sharing(header)
    copy.add_new("Rows", "US", rows)
    copy.add_new("Columns", "US", columns)
    copy.add_new("ImageType", "CS", [value for value in header.ImageType if value not in tuple(TileFormat)])
    copy.add_new("ImagePositionPatient", "DS", slice_position(volume, k))
    return copy


def slice_position(volume: Volume, k: int) -> list[Any]:
    """Compute ImagePositionPatient (three DS) of slice `k` from the geometry, because no header has it."""
    (position,) = volume.geometry.to_lps(np.array([[k, 0, 0]], float))
    return [DS(float(value), auto_format=True) for value in position]


def reduced_enhanced(source: Dataset, volume: Volume) -> Dataset:
    """Return a copy of an Enhanced header that holds only the frames of `volume`, in slice order.

    Frame k + 1 of the copy is slice k. Functional groups that are equal for all these frames move to the shared ones,
    because highdicom 0.28.2 reads pixel measures and orientation only there (PS3.3 C.7.6.16).
    """
    copy = sharing(source)
    for keyword in OF_FRAMES:
        copy.pop(keyword, None)
    frames = [
        deepcopy(source.PerFrameFunctionalGroupsSequence[(frame.frame_number or 1) - 1]) for frame in volume.frames
    ]
    shared = deepcopy(shared_groups(source))
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if all(keyword in frame and frame[keyword].value == frames[0][keyword].value for frame in frames):
            shared[keyword] = deepcopy(frames[0][keyword])
            for frame in frames:
                del frame[keyword]
    copy.SharedFunctionalGroupsSequence = [shared]
    copy.PerFrameFunctionalGroupsSequence = frames
    copy.NumberOfFrames = len(frames)
    return copy
