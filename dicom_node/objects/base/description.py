"""The description of a result object: series, dates, character set, and the equipment that made it."""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydicom.charset import convert_encodings, python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes

from dicom_node.objects.base.anatomy import Anatomy, anatomy_of
from dicom_node.objects.base.codes import RESEARCH_NOTICE
from dicom_node.objects.base.context import NODE_NAME, ObjectContext, device_uid
from dicom_node.objects.base.dates import CLOCKS_DIFFER, is_older_than_images, set_dates
from dicom_node.objects.base.order import describe_order
from dicom_node.objects.base.source_headers import UTF_8, source_header, source_headers
from dicom_node.objects.base.value_lengths import LABEL_LENGTH, LO_LENGTH, short_names
from dicom_node.runtime.logs import fields
from inference.contract.findings import Algorithm, Findings, NoResult
from inference.headers.reading import read_header
from storage.blobs import Blob

DECLARED = ["TimezoneOffsetFromUTC", "SpecificCharacterSet", "StudyDate", "StudyTime"]
log = logging.getLogger(__name__)

NO_IMAGES = ("SR", "KO", "RTSTRUCT")  # modalities of objects whose series name no body part
TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2: those the character set is for


def distinguishing_words(title: str, context: ObjectContext) -> str:
    """Return the words that tell the result from others: application, side, and the edition from the second on.

    They have at most 18 characters, because lists of series often show no more than 20 of a description.
    """
    (label,) = short_names([context.label or title], LABEL_LENGTH)
    edition = f"r{context.edition}" if context.edition > 1 else ""
    return " ".join(word for word in (label, context.side, edition) if word)


def series_description(result: Findings | NoResult, context: ObjectContext, kind: str) -> str:
    """Return a description of at most 64 characters, which ends with the notice that the result is for research.

    What tells series apart comes first, because viewers cut long descriptions at their end.
    """
    notice = f", {RESEARCH_NOTICE}" if result.research else ""
    return f"{distinguishing_words(result.title, context)} {kind}"[: LO_LENGTH - len(notice)] + notice


def describe(
    ds: Dataset, findings: Findings, context: ObjectContext, kind: str, anatomy: Anatomy | None = None
) -> None:
    """Set the series description, what the result shows, and all that `describe_origin` sets.

    `anatomy` is that of the findings, unless the object was made of other images.
    """
    if ds.Modality not in NO_IMAGES:
        describe_anatomy(ds, anatomy or anatomy_of_findings(findings, context))
    describe_result(ds, findings, findings.source.frames[0].blob, context, kind)


def describe_anatomy(ds: Dataset, anatomy: Anatomy) -> None:
    """Set body part and side of the series (PS3.3 C.7.3.1).

    dciodvfy allows no side of the series in objects with functional groups: their segments and frames name it.
    """
    if anatomy.body_part:
        ds.BodyPartExamined = anatomy.body_part
    if "SharedFunctionalGroupsSequence" not in ds and anatomy.paired is not False:
        ds.Laterality = anatomy.side  # type 2C: required of a paired region, if only empty


def anatomy_of_findings(findings: Findings, context: ObjectContext) -> Anatomy:
    """Return what the images of the findings show, those of an earlier study omitted."""
    study = findings.source.study_instance_uid
    volumes = {volume.frames: volume for volume in (findings.source, *findings.inputs)}
    used = [volume for volume in volumes.values() if volume.study_instance_uid == study]
    return anatomy_of([(volume, source_headers(volume)) for volume in used], context.side)


def describe_result(ds: Dataset, result: Findings | NoResult, source: Blob, context: ObjectContext, kind: str) -> None:
    """Set the series description, and all that `describe_origin` sets. `source` is a stored instance of the study."""
    ds.SeriesDescription = series_description(result, context, kind)
    if isinstance(result, NoResult) and is_older_than_images(result.started_at, [source], context):
        log.warning(CLOCKS_DIFFER, extra=fields("clocks_differ", study=str(ds.StudyInstanceUID)))
    describe_origin(ds, result.algorithm, result.started_at, source, context)


def describe_origin(
    ds: Dataset, algorithm: Algorithm | None, at: datetime, source: Blob, context: ObjectContext
) -> None:
    """Set order, institution, dates, character set, and the equipment that contributed (PS3.3 C.12.1)."""
    declared = read_header(source, DECLARED)
    describe_order(ds, source_header(source))
    set_dates(ds, at, declared, context)
    purpose = Dataset()
    purpose.CodeValue = codes.DCM.ProcessingEquipment.value
    purpose.CodingSchemeDesignator = codes.DCM.ProcessingEquipment.scheme_designator
    purpose.CodeMeaning = codes.DCM.ProcessingEquipment.meaning
    device = Dataset()
    device.PurposeOfReferenceCodeSequence = [purpose]
    device.Manufacturer = algorithm.manufacturer[:64] if algorithm else NODE_NAME
    device.ManufacturerModelName = algorithm.name[:64] if algorithm else NODE_NAME
    versions = [algorithm.version[:64]] if algorithm else []
    device.SoftwareVersions = [*versions, context.software_version[:64]]
    device.StationName = context.device_name[:16]
    device.DeviceUID = device_uid(algorithm) if algorithm else context.node_uid
    device.ContributionDescription = "Automatic analysis; no human reviewed it"
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), device]
    _set_character_set(ds, declared.get("SpecificCharacterSet"))


def _set_character_set(ds: Dataset, declared: Any) -> None:
    """Declare the source's character set if it has every character of `ds`, else none for ASCII, else UTF-8.

    A PACS that reads the images of a study can then read its results too. Some PACS do not know UTF-8.
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
        elif element.VR == "SQ" and element.keyword != "PerFrameFunctionalGroupsSequence":  # no texts in it
            for item in element.value:
                yield from _texts(item)


def _encodes(character: str, terms: list[str]) -> bool:
    """Return True if one of these character sets has the character.

    The default character set is ASCII, but pydicom takes it for Latin 1.
    """
    for term, encoding in zip(terms, convert_encodings(terms), strict=True):
        encoded = character.encode(encoding, "ignore")
        if term in ("", "ISO_IR 6", "ISO 2022 IR 6"):
            encoded = encoded if character.isascii() else b""
        if encoding == "shift_jis" and len(encoded) > 1:
            continue  # JIS X 0201 has one byte
        if encoded:
            return True
    return False
