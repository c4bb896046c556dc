"""What every result object shares: identity, source headers, character set, equipment, dates."""

import hashlib
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from pydicom import dcmread
from pydicom.charset import convert_encodings, python_encoding
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, DS, TM, validate_value

from dicom_node.objects.base.codes import RESEARCH_NOTICE
from inference.contract.findings import Algorithm, Findings, NoResult
from inference.volumes.planes import is_enhanced
from inference.volumes.tiles import MOSAIC, VFRAME
from inference.volumes.volume import Volume

NODE = "dicom-node"  # manufacturer and model where no algorithm made the object
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # PS3.3 C.12.1.1.8: &ZZXX
UTF_8 = "ISO_IR 192"
TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2: those the character set is for
LONGEST = {"SH": 16, "LO": 64}  # PS3.5 6.2, characters
STRICT_VRS = frozenset({"AS", "CS", "DA", "DS", "IS", "TM"})
PATIENT_GROUP = 0x0010
OF_FRAMES = ("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
IDENTIFIERS = frozenset({"PatientID", "AccessionNumber"})
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Predecessor:
    """The SR of an earlier revision that this result supersedes."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class ObjectContext:
    """Who writes the objects, and for which revision.

    Every new UID derives from `uid_seed`: a job that was killed and runs again gives the same SOP Instance UIDs.
    """

    device_name: str
    uid_seed: str
    revision: int = 1
    predecessors: tuple[Predecessor, ...] = ()
    software_version: str = field(default_factory=lambda: version("dicom-node"))

    def uid(self, role: str) -> str:
        """The UID (PS3.5 B.2, 2.25 root) of one role in this result."""
        return derived_uid(self.uid_seed, role)

    @property
    def node_uid(self) -> str:
        """The device UID of the node itself, where no algorithm made the object."""
        return derived_uid("device", NODE, self.device_name)


def derived_uid(*parts: str) -> str:
    """A UID under 2.25 that depends on all the parts and on where one ends."""
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def device_uid(algorithm: Algorithm) -> str:
    """Other weights are another device."""
    return derived_uid("device", algorithm.name, algorithm.version, algorithm.weights_sha256)


def equipment(algorithm: Algorithm | None, context: ObjectContext) -> dict[str, Any]:
    """Who made an object, as highdicom wants it (PS3.3 C.7.5.1, C.7.5.2): the node itself without an algorithm."""
    if algorithm is None:
        return {
            "manufacturer": NODE,
            "manufacturer_model_name": NODE,
            "software_versions": context.software_version[:64],
        }
    return {
        "manufacturer": algorithm.manufacturer[:64],
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": algorithm.weights_sha256[:16],
    }


def series_description(result: Findings | NoResult, kind: str) -> str:
    """At most 64 characters, the notice first so that no list cuts it off, and the kind never cut."""
    notice = f"{RESEARCH_NOTICE}: " if result.research else ""
    title = result.title[: LONGEST["LO"] - len(notice) - len(kind) - 1]
    return f"{notice}{title} {kind}"


def source_headers(volume: Volume) -> list[Dataset]:
    """The headers, without pixels, of the instances of `volume`, each once, in slice order, as `source_header`.

    They are read once for all objects of a result, which share them.
    """
    if volume not in _headers:
        _headers[volume] = _read_headers(volume)
    return _headers[volume]


_headers: WeakKeyDictionary[Volume, list[Dataset]] = WeakKeyDictionary()


def _read_headers(volume: Volume) -> list[Dataset]:
    headers: list[Dataset] = []
    for path in dict.fromkeys(frame.path for frame in volume.frames):
        ds = source_header(path)
        if headers and "ImageOrientationPatient" in ds and _close(ds, headers[0]):
            # highdicom compares orientations by text; scanners round the last digit differently within a series
            ds.ImageOrientationPatient = headers[0].ImageOrientationPatient
        headers.append(ds)
    return headers


def source_header(path: Path) -> Dataset:
    """The header of one stored instance, made fit for highdicom 0.28.2 to copy patient and study from.

    Texts are decoded and the character set is UTF-8, because highdicom knows not all of them; `describe` gives the
    object that of its source back. Private elements, those that cannot be read, and attributes of the patient that are
    none of their VR are left out. Absent or invalid type 2 attributes of patient and study become empty, and texts
    longer than their VR allows are cut, but never an identifier. An image without a frame of reference gets the one of
    its series.
    """
    ds = dcmread(path, stop_before_pixels=True)
    _drop_unusable(ds)
    ds.SpecificCharacterSet = UTF_8
    for element in list(ds):
        longest = LONGEST.get(element.VR)
        if longest is not None and isinstance(element.value, str) and element.keyword not in IDENTIFIERS:
            element.value = element.value[:longest]
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
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = derived_uid("frame of reference", str(ds.SeriesInstanceUID))
    return ds


def _drop_unusable(ds: Dataset) -> None:
    """Removes private elements and those that cannot be read, in sequences too. The rest is decoded afterwards.

    `Dataset.decode` would decode a second time, and lose what a name holds beside its declared character set.
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


def _is_valid(element: DataElement) -> bool:
    """Whether every value is one of the element's VR (PS3.5 6.2)."""
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return all(
        value is None or is_one(partial(validate_value, element.VR, validation_mode=RAISE), value) for value in values
    )


def is_one(kind: Callable[[Any], Any], value: Any) -> bool:
    """Whether `kind`, a constructor or a check, takes `value`."""
    try:
        kind(value)
    except (TypeError, ValueError):
        return False
    return True


def _close(one: Dataset, other: Dataset) -> bool:
    """Whether two direction cosines agree to the geometry's tolerance, 1e-4."""
    pairs = zip(one.ImageOrientationPatient, other.ImageOrientationPatient, strict=True)
    return all(abs(float(a) - float(b)) < 1e-4 for a, b in pairs)


def sharing(ds: Dataset) -> Dataset:
    """A dataset with the very elements of `ds`: they may be replaced in it, or left out, but not changed."""
    copy = Dataset(dict(ds.items()))
    copy.file_meta = ds.file_meta
    return copy


def slice_headers(volume: Volume) -> list[Dataset]:
    """The headers of the slices of `volume` as highdicom 0.28.2 wants them: one for each slice, in slice order, or the
    one of an Enhanced object, reduced to these slices.

    A slice that is tiled into an image gets the header that it would have as an image of its own.
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
    copy.add_new("ImageType", "CS", [value for value in header.ImageType if value not in (MOSAIC, VFRAME)])
    copy.add_new("ImagePositionPatient", "DS", slice_position(volume, k))
    return copy


def slice_position(volume: Volume, k: int) -> list[Any]:
    """ImagePositionPatient, three DS, of slice `k` by the geometry of the volume, for where no header has it."""
    (position,) = volume.geometry.to_lps(np.array([[k, 0, 0]], float))
    return [DS(float(value), auto_format=True) for value in position]


def reduced_enhanced(source: Dataset, volume: Volume) -> Dataset:
    """A copy of an Enhanced header that holds only the frames of `volume`, in slice order.

    Frame k + 1 of the copy is slice k. Functional groups that are equal for all these frames move to the shared ones,
    because highdicom 0.28.2 reads pixel measures and orientation only there (PS3.3 C.7.6.16).
    """
    copy = sharing(source)
    for keyword in OF_FRAMES:
        del copy[keyword]
    frames = [
        deepcopy(source.PerFrameFunctionalGroupsSequence[(frame.frame_number or 1) - 1]) for frame in volume.frames
    ]
    shared = deepcopy(source.SharedFunctionalGroupsSequence[0])
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if all(keyword in frame and frame[keyword].value == frames[0][keyword].value for frame in frames):
            shared[keyword] = deepcopy(frames[0][keyword])
            for frame in frames:
                del frame[keyword]
    copy.SharedFunctionalGroupsSequence = [shared]
    copy.PerFrameFunctionalGroupsSequence = frames
    copy.NumberOfFrames = len(frames)
    return copy


def describe(ds: Dataset, findings: Findings, context: ObjectContext, kind: str) -> None:
    """Series description, dates, character set and the equipment that contributed (PS3.3 C.12.1)."""
    describe_result(ds, findings, findings.source.frames[0].path, context, kind)


def describe_result(ds: Dataset, result: Findings | NoResult, source: Path, context: ObjectContext, kind: str) -> None:
    """As `describe`; `source` is a stored instance of the study."""
    ds.SeriesDescription = series_description(result, kind)
    describe_origin(ds, result.algorithm, result.started_at, source, context)


def describe_origin(
    ds: Dataset, algorithm: Algorithm | None, at: datetime, source: Path, context: ObjectContext
) -> None:
    """Who made `ds` from what, and when: all of `describe` but the series description."""
    declared = dcmread(source, specific_tags=["TimezoneOffsetFromUTC", "SpecificCharacterSet"], stop_before_pixels=True)
    _set_dates(ds, at, _offset(declared))
    purpose = Dataset()
    purpose.CodeValue = codes.DCM.ProcessingEquipment.value
    purpose.CodingSchemeDesignator = codes.DCM.ProcessingEquipment.scheme_designator
    purpose.CodeMeaning = codes.DCM.ProcessingEquipment.meaning
    device = Dataset()
    device.PurposeOfReferenceCodeSequence = [purpose]
    device.Manufacturer = algorithm.manufacturer[:64] if algorithm else NODE
    device.ManufacturerModelName = algorithm.name[:64] if algorithm else NODE
    versions = [algorithm.version[:64]] if algorithm else []
    device.SoftwareVersions = [*versions, context.software_version[:64]]
    device.StationName = context.device_name[:16]
    device.DeviceUID = device_uid(algorithm) if algorithm else context.node_uid
    device.ContributionDescription = "Automatic analysis; no human reviewed it"
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), device]
    _set_character_set(ds, declared.get("SpecificCharacterSet"))


def _set_character_set(ds: Dataset, declared: Any) -> None:
    """The source's own character set where it holds every text of `ds`, none where none is needed, else UTF-8.

    A PACS that reads the images of a study then reads its results: not all of them know UTF-8.
    """
    texts = {text for text in _texts(ds) if not text.isascii()}
    terms = [declared] if isinstance(declared, str) else list(declared or [])
    known = bool(terms) and all(term in python_encoding for term in terms)  # PS3.3 C.12.1.1.2
    characters = {character for text in texts for character in text}
    if known and all(_encodes(character, terms) for character in characters):
        ds.SpecificCharacterSet = declared
    elif texts:
        ds.SpecificCharacterSet = UTF_8
    elif "SpecificCharacterSet" in ds:
        del ds.SpecificCharacterSet


def _texts(ds: Dataset) -> Iterator[str]:
    for element in ds:
        if element.VR in TEXT_VRS and element.value is not None:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            yield from (str(value) for value in values)
        elif element.VR == "SQ" and element.keyword != "PerFrameFunctionalGroupsSequence":  # thousands, without texts
            for item in element.value:
                yield from _texts(item)


def _encodes(character: str, terms: list[str]) -> bool:
    """Whether one of these character sets has it. The default one is ASCII; pydicom takes it for Latin 1."""
    for term, encoding in zip(terms, convert_encodings(terms), strict=True):
        encoded = character.encode(encoding, "ignore")
        if term in ("", "ISO_IR 6", "ISO 2022 IR 6"):
            encoded = encoded if character.isascii() else b""
        if encoding == "shift_jis" and len(encoded) > 1:
            continue  # JIS X 0201 has one byte
        if encoded:
            return True
    return False


def _offset(header: Dataset) -> str | None:
    """The source's TimezoneOffsetFromUTC; None where it says none that can be read."""
    offset = str(header.get("TimezoneOffsetFromUTC") or "").strip()
    return offset if OFFSET.fullmatch(offset) else None


def _set_dates(ds: Dataset, at: datetime, offset: str | None) -> None:
    """Dates and times of the result, in the time zone of its source.

    TimezoneOffsetFromUTC (PS3.3 C.12.1.1.8) holds for every date and time of an object, the copied StudyDate and
    StudyTime among them. So the source's offset is kept and ours are written in it; where the source has none, neither
    has the result, and ours are the node's local time, as the source's are the scanner's.
    """
    local = at.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)
    for keyword in ("Content", "Series", "InstanceCreation"):
        setattr(ds, f"{keyword}Date", local.strftime("%Y%m%d"))
        setattr(ds, f"{keyword}Time", local.strftime("%H%M%S"))
    if offset:
        ds.TimezoneOffsetFromUTC = offset
    elif "TimezoneOffsetFromUTC" in ds:
        del ds.TimezoneOffsetFromUTC
