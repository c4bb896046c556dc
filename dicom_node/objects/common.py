"""What every result object shares: identity, source headers, equipment, dates."""

import hashlib
import re
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.objects.codes import RESEARCH_NOTICE
from inference.findings import Algorithm, Findings
from inference.volume import Volume

SERIES_DESCRIPTION_LENGTH = 64  # PS3.5 6.2: VR LO
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # PS3.3 C.12.1.1.8: &ZZXX
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


def derived_uid(*parts: str) -> str:
    """A UID under 2.25 that depends on all the parts and on where one ends."""
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def device_uid(algorithm: Algorithm) -> str:
    """Other weights are another device."""
    return derived_uid("device", algorithm.name, algorithm.version, algorithm.weights_sha256)


def series_description(findings: Findings, kind: str) -> str:
    """At most 64 characters, the notice first so that no list cuts it off."""
    parts = [RESEARCH_NOTICE] if findings.research else []
    return ": ".join([*parts, f"{findings.title} {kind}"])[:SERIES_DESCRIPTION_LENGTH]


def source_headers(volume: Volume, extra_text: str = "") -> list[Dataset]:
    """The headers, without pixels, of the instances of `volume`, each once, in slice order.

    Texts are decoded, so that the source's SpecificCharacterSet can be kept, or replaced by UTF-8: where `extra_text`
    (what the node adds) is not ASCII, and where it is absent or has code extensions, which highdicom 0.28.2 refuses.
    Absent type 2 attributes of patient and study become empty.
    """
    headers: list[Dataset] = []
    for path in dict.fromkeys(frame.path for frame in volume.frames):
        ds = dcmread(path, stop_before_pixels=True)
        ds.decode()
        charset = ds.get("SpecificCharacterSet")
        if not extra_text.isascii() or not isinstance(charset, str) or charset.startswith("ISO 2022"):
            ds.SpecificCharacterSet = "ISO_IR 192"
        for keyword in TYPE_2:
            if keyword not in ds:
                setattr(ds, keyword, "")
        if "ProcedureCodeSequence" in ds and not ds.ProcedureCodeSequence:
            del ds.ProcedureCodeSequence  # type 3: present means at least one item; some scanners write none
        if headers and "ImageOrientationPatient" in ds and _close(ds, headers[0]):
            # highdicom compares orientations by text; scanners round the last digit differently within a series
            ds.ImageOrientationPatient = headers[0].ImageOrientationPatient
        headers.append(ds)
    return headers


def _close(one: Dataset, other: Dataset) -> bool:
    """Whether two direction cosines agree to the geometry's tolerance, 1e-4."""
    pairs = zip(one.ImageOrientationPatient, other.ImageOrientationPatient, strict=True)
    return all(abs(float(a) - float(b)) < 1e-4 for a, b in pairs)


def reduced_enhanced(source: Dataset, volume: Volume) -> Dataset:
    """A copy of an Enhanced header that holds only the frames of `volume`, in slice order.

    Frame k + 1 of the copy is slice k. Functional groups that are equal for all these frames move to the shared ones,
    because highdicom 0.28.2 reads pixel measures and orientation only there (PS3.3 C.7.6.16).
    """
    copy = Dataset()
    for element in source:
        if element.keyword not in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            copy.add(element)
    copy.file_meta = source.file_meta
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
    """Series description, dates and the equipment that contributed (PS3.3 C.12.1)."""
    ds.SeriesDescription = series_description(findings, kind)
    _set_dates(ds, findings.started_at, _offset(findings.source))
    algorithm = findings.algorithm
    purpose = Dataset()
    purpose.CodeValue = codes.DCM.ProcessingEquipment.value
    purpose.CodingSchemeDesignator = codes.DCM.ProcessingEquipment.scheme_designator
    purpose.CodeMeaning = codes.DCM.ProcessingEquipment.meaning
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer = algorithm.manufacturer[:64]
    equipment.ManufacturerModelName = algorithm.name[:64]
    equipment.SoftwareVersions = [algorithm.version[:64], context.software_version[:64]]
    equipment.StationName = context.device_name[:16]
    equipment.DeviceUID = device_uid(algorithm)
    equipment.ContributionDescription = "Automatic analysis; no human reviewed it"
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), equipment]


def _offset(source: Volume) -> str | None:
    """The source's TimezoneOffsetFromUTC; None where it says none that can be read."""
    ds = dcmread(source.frames[0].path, specific_tags=["TimezoneOffsetFromUTC"], stop_before_pixels=True)
    offset = str(ds.get("TimezoneOffsetFromUTC") or "").strip()
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
