"""The answer to STOW-RS (PS3.18 10.5.3), in the form of the standard and in the forms that services give it.

Texts of the other side are never kept, because they may quote the patient.
"""

import json
import re
from collections.abc import Iterator, Sequence
from email.parser import BytesParser
from email.policy import HTTP
from http import HTTPStatus
from typing import Any

import requests
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from dicom_node.dimse.results import InstanceReference, SendOutcome, SendResult
from dicom_node.dimse.status import WARNING_STATUSES, DimseStatus
from storage.records.deliveries import StoredAs

DICOM_JSON = "application/dicom+json"
DICOM_XML = "application/dicom+xml"
ALREADY_EXISTS = 0xB00E  # 45070: a failure reason of several services, which no part of the standard names
# No instance was stored, and the answer may give the reason for each (PS3.18 table 10.5.3-1).
_NOTHING_STORED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT})
_OUTCOMES = (b"00081198", b"00081199", b"0008119A")  # Failed, Referenced SOP Sequence, Other Failures Sequence
_READABLE = (DICOM_JSON, "application/json", DICOM_XML, "application/xml")
_PLACE = re.compile(r"/studies/(?P<study>[\d.]+)/series/(?P<series>[\d.]+)/instances/(?P<instance>[\d.]+)")


def make_readable(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    """Change a response so that the library reads the outcome of each instance from it.

    The library does so only for a media type without parameters, only for one dataset that is no part of a list or of a
    multipart message, and only where some instances were stored.
    """
    declared = response.headers.get("Content-Type", "")
    media_type = declared.partition(";")[0].strip().lower()
    if response.request.method == "POST":
        if media_type.startswith("multipart/"):
            media_type, response._content = _first_part(declared, response.content)
        if media_type in _READABLE[:2]:
            response._content = _alone(response.content)
        tells_why = media_type in _READABLE and any(tag in response.content for tag in _OUTCOMES)
        if response.status_code in _NOTHING_STORED and tells_why:
            response.status_code = HTTPStatus.ACCEPTED
    response.headers["Content-Type"] = media_type


def _first_part(declared: str, body: bytes) -> tuple[str, bytes]:
    """Return the media type and the content of the first part of a multipart message that can be read."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + declared.encode("latin-1") + b"\r\n\r\n" + body)
    for part in message.walk():
        if part.get_content_type() in _READABLE:
            return part.get_content_type(), bytes(part.get_payload(decode=True))
    return "", b""


def _alone(body: bytes) -> bytes:
    """Return a dataset in JSON by itself if it is the only one of a list."""
    if not body.lstrip().startswith(b"["):
        return body
    try:
        datasets = json.loads(body)
    except ValueError:
        return body
    return json.dumps(datasets[0]).encode() if len(datasets) == 1 else body


def read_answer(answer: Dataset, sent: Sequence[InstanceReference]) -> dict[str, SendResult]:
    """Return the outcome of each instance, as a Store Instances Response tells it (PS3.18 table I.2-1).

    An instance is stored only if Referenced SOP Sequence names it. If only one instance was sent, an item that names
    another UID is about that one: the service has given it a new UID.
    """
    references = {reference.sop_instance_uid: reference for reference in sent}
    (only,) = references if len(references) == 1 else (None,)
    results = {
        uid: SendResult(uid, SendOutcome.UNCLEAR, "the answer does not say whether it was stored") for uid in references
    }
    stored = answer.get("ReferencedSOPSequence") or ()
    for item in stored:
        named = str(item.ReferencedSOPInstanceUID)
        uid = only if only is not None and len(stored) == 1 else named
        warning = int(item.get("WarningReason") or answer.get("WarningReason") or DimseStatus.SUCCESS)
        attributes = (*_changed(item), *_changed(answer))
        place = _place(item, references.get(uid))
        result = SendResult.from_status(uid, warning, attributes, place)
        results[uid] = result if result.ok else SendResult.from_status(uid, DimseStatus.SUCCESS, attributes, place)
    for item in answer.get("FailedSOPSequence") or ():
        uid = only or str(item.ReferencedSOPInstanceUID)
        results[uid] = _failure(uid, int(item.get("FailureReason") or DimseStatus.PROCESSING_FAILURE))
    for item in answer.get("OtherFailuresSequence") or ():
        if only is not None and not results[only].ok:
            results[only] = _failure(only, int(item.get("FailureReason") or DimseStatus.PROCESSING_FAILURE))
    return results


def _failure(uid: str, reason: int) -> SendResult:
    """Return what a failure reason means. Some services say Processing Failure also for what they have already."""
    code = f"0x{reason:04X}"
    if reason == ALREADY_EXISTS:
        return SendResult(uid, SendOutcome.EXISTS, f"an instance of this UID exists there ({code})")
    result = SendResult.from_status(uid, reason)
    if result.outcome is SendOutcome.STORED or reason in WARNING_STATUSES:
        return SendResult(uid, SendOutcome.FAILED, f"failed ({code})")
    if reason == DimseStatus.PROCESSING_FAILURE:
        return SendResult(uid, result.outcome, result.reason, may_exist=True)
    return result


def _place(item: Dataset, sent: InstanceReference | None) -> StoredAs | None:
    """Return where the service keeps an instance if its UIDs are not those that were sent; None if nothing tells so.

    Retrieve URL tells the study and the series. It is believed only if it names the instance too, because a service may
    have names of its own for studies.
    """
    if sent is None:
        return None
    named = str(item.ReferencedSOPInstanceUID)
    place = _PLACE.search(str(item.get("RetrieveURL") or ""))
    if place is not None and place["instance"] == named:
        kept = StoredAs(named, place["series"], place["study"])
    else:
        kept = StoredAs(named, sent.series_instance_uid, sent.study_instance_uid)
    return None if kept == StoredAs(sent.sop_instance_uid, sent.series_instance_uid, sent.study_instance_uid) else kept


def _changed(ds: Dataset) -> Iterator[str]:
    """Yield the names of the attributes whose original values an answer holds (PS3.3 C.12.1.1.9)."""
    for item in ds.get("OriginalAttributesSequence") or ():
        for modified in item.get("ModifiedAttributesSequence") or ():
            yield from (keyword_for_tag(element.tag) or str(element.tag) for element in modified)
