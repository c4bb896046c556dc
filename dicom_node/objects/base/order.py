"""The order and the institution of a result, as its images state them (PS3.3 table 10-9, C.7.5.1, C.17.2)."""

from copy import deepcopy

from pydicom.dataset import Dataset

ORDER = "ReferencedRequestSequence"  # of documents
REQUESTS = "RequestAttributesSequence"  # of all other objects
INSTITUTION = ("InstitutionName", "InstitutionAddress", "InstitutionCodeSequence", "InstitutionalDepartmentName")
OF_REQUEST = (  # PS3.3 table 10-9, Request Attributes Macro
    "RequestedProcedureID", "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyInstanceUID",
    "ReferencedStudySequence", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
    "ReasonForTheRequestedProcedure", "ReasonForRequestedProcedureCodeSequence", "ScheduledProcedureStepID",
    "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence",
)  # fmt: skip
OF_ORDER = {  # PS3.3 table C.17-4: what a document says of a request, and whether a value is required, if only empty
    "ReferencedStudySequence": True, "AccessionNumber": True, "IssuerOfAccessionNumberSequence": False,
    "PlacerOrderNumberImagingServiceRequest": True, "FillerOrderNumberImagingServiceRequest": True,
    "RequestedProcedureID": True, "RequestedProcedureDescription": True, "RequestedProcedureCodeSequence": True,
    "ReasonForTheRequestedProcedure": False, "ReasonForRequestedProcedureCodeSequence": False,
}  # fmt: skip


def describe_order(ds: Dataset, header: Dataset) -> None:
    """Copy the order and the institution of the image `header` into a result.

    Images and structure sets name the order in Request Attributes Sequence, documents in Referenced Request Sequence. A
    document names the order of an image that states no more than the accession number, too.
    """
    for keyword in INSTITUTION:
        if header.get(keyword):
            ds[keyword] = deepcopy(header[keyword])
    requests = [request for item in header.get(REQUESTS) or [] if (request := _request(item))]
    if ds.Modality not in ("SR", "KO"):
        if requests:
            setattr(ds, REQUESTS, requests)
        return
    if header.get("AccessionNumber") and not requests:
        requests = [Dataset()]
    if requests:
        rest = header if len(requests) == 1 else Dataset()  # of several orders, the image does not say which it means
        setattr(ds, ORDER, [_order(request, rest, header.StudyInstanceUID) for request in requests])


def _request(item: Dataset) -> Dataset:
    """Return what the standard allows of a request, without what is empty."""
    request = Dataset()
    for keyword in OF_REQUEST:
        if item.get(keyword):
            request[keyword] = deepcopy(item[keyword])
    return request


def _order(request: Dataset, rest: Dataset, study_instance_uid: str) -> Dataset:
    """Return a request as a document names it. What the request does not say, `rest` says."""
    order = Dataset()
    order.StudyInstanceUID = request.get("StudyInstanceUID") or study_instance_uid
    for keyword, required in OF_ORDER.items():
        stated = request if request.get(keyword) else rest
        if stated.get(keyword):
            order[keyword] = deepcopy(stated[keyword])
        elif required:
            setattr(order, keyword, [] if keyword.endswith("Sequence") else "")
    return order
