"""Results of sending and of asking: values that DIMSE, DICOMweb and folders share."""

from dataclasses import dataclass
from typing import Self

from dicom_node.dimse.status import (
    CANNOT_UNDERSTAND_STATUSES,
    MISMATCH_STATUSES,
    OUT_OF_RESOURCES_STATUSES,
    WARNING_STATUSES,
    DimseStatus,
)

_WARNINGS = (
    DimseStatus.OPTIONAL_ATTRIBUTES_NOT_SUPPORTED,
    DimseStatus.ATTRIBUTE_LIST_ERROR,
    DimseStatus.ATTRIBUTE_VALUE_OUT_OF_RANGE,
)
_REFUSALS = (
    DimseStatus.INVALID_OBJECT_INSTANCE,
    DimseStatus.SOP_CLASS_NOT_SUPPORTED,
    DimseStatus.NOT_AUTHORIZED,
    DimseStatus.DUPLICATE_INVOCATION,
    DimseStatus.UNRECOGNIZED_OPERATION,
    DimseStatus.MISTYPED_ARGUMENT,
)


@dataclass(frozen=True)
class SendResult:
    """The outcome of sending one instance.

    If the result is `ok`, `reason` is a note; otherwise it says what went wrong. `refused` means that the destination
    answered and does not take this object: only for now if the result is `retriable`, else for ever. The destination
    may take another object in its place.
    """

    sop_instance_uid: str  # empty if the file could not be read
    ok: bool
    retriable: bool = False
    reason: str = ""
    refused: bool = False

    @classmethod
    def from_status(cls, sop_instance_uid: str, status: int) -> Self:
        """Return the result that a C-STORE response status means (PS3.4 B.2.3, PS3.7 annex C).

        The peer's error comment is left out, because it may quote the patient.
        """
        code = f"0x{status:04X}"
        if status == DimseStatus.SUCCESS:
            return cls(sop_instance_uid, ok=True)
        if status in WARNING_STATUSES or status in _WARNINGS:
            return cls(sop_instance_uid, ok=True, reason=f"stored with warning {code}")
        if status == DimseStatus.DUPLICATE_SOP_INSTANCE:
            return cls(sop_instance_uid, ok=True, reason=f"was there already ({code})")
        retriable = False
        if status in OUT_OF_RESOURCES_STATUSES or status == DimseStatus.RESOURCE_LIMITATION:
            retriable, reason = True, f"out of resources ({code})"
        elif status in MISMATCH_STATUSES:
            reason = f"dataset does not match its SOP class ({code})"
        elif status in CANNOT_UNDERSTAND_STATUSES:
            reason = f"dataset is not understood ({code})"
        elif status in _REFUSALS:
            reason = f"refused ({code})"
        else:
            retriable, reason = True, f"failed ({code})"
        return cls(sop_instance_uid, ok=False, retriable=retriable, reason=reason, refused=True)


@dataclass(frozen=True)
class EchoResult:
    """The outcome of a connection test. `reason` says why it failed."""

    ok: bool
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class InstanceReference:
    """The UIDs that identify an instance and place it in its study and series."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
