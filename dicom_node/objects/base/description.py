"""The description of a result object: series, dates, character set, and the equipment that made it."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.charset import convert_encodings, python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes

from dicom_node.objects.base.codes import RESEARCH_NOTICE
from dicom_node.objects.base.context import NODE_NAME, ObjectContext, device_uid
from dicom_node.objects.base.source_headers import UTF_8
from dicom_node.objects.base.value_lengths import LO_LENGTH
from inference.contract.findings import Algorithm, Findings, NoResult

OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")  # PS3.3 C.12.1.1.8: &ZZXX
TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.2: those the character set is for


def series_description(result: Findings | NoResult, kind: str) -> str:
    """Return a description of at most 64 characters.

    The notice comes first, because viewers cut long descriptions at their end, and the kind is never cut.
    """
    notice = f"{RESEARCH_NOTICE}: " if result.research else ""
    title = result.title[: LO_LENGTH - len(notice) - len(kind) - 1]
    return f"{notice}{title} {kind}"


def describe(ds: Dataset, findings: Findings, context: ObjectContext, kind: str) -> None:
    """Set the series description, dates, character set, and the equipment that contributed (PS3.3 C.12.1)."""
    describe_result(ds, findings, findings.source.frames[0].path, context, kind)


def describe_result(ds: Dataset, result: Findings | NoResult, source: Path, context: ObjectContext, kind: str) -> None:
    """Describe `ds` as `describe` does. `source` is a stored instance of the study."""
    ds.SeriesDescription = series_description(result, kind)
    describe_origin(ds, result.algorithm, result.started_at, source, context)


def describe_origin(
    ds: Dataset, algorithm: Algorithm | None, at: datetime, source: Path, context: ObjectContext
) -> None:
    """Set all that `describe` sets, except the series description."""
    declared = dcmread(source, specific_tags=["TimezoneOffsetFromUTC", "SpecificCharacterSet"], stop_before_pixels=True)
    _set_dates(ds, at, _offset(declared))
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


def _offset(header: Dataset) -> str | None:
    """Return the source's TimezoneOffsetFromUTC; None if there is none that can be read."""
    offset = str(header.get("TimezoneOffsetFromUTC") or "").strip()
    return offset if OFFSET.fullmatch(offset) else None


def _set_dates(ds: Dataset, at: datetime, offset: str | None) -> None:
    """Set the dates and times of the result, in the time zone of its source.

    TimezoneOffsetFromUTC (PS3.3 C.12.1.1.8) holds for every date and time of an object, also for the copied StudyDate
    and StudyTime. So the source's offset is kept, and our times are written in it. If the source has no offset, the
    result has none either; our times are then in the node's local time, as the source's times are in the scanner's.
    """
    local = at.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)
    for keyword in ("Content", "Series", "InstanceCreation"):
        setattr(ds, f"{keyword}Date", local.strftime("%Y%m%d"))
        setattr(ds, f"{keyword}Time", local.strftime("%H%M%S"))
    if offset:
        ds.TimezoneOffsetFromUTC = offset
    elif "TimezoneOffsetFromUTC" in ds:
        del ds.TimezoneOffsetFromUTC
