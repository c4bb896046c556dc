"""Results of sending and of asking: values that DIMSE, DICOMweb and folders share."""

from dataclasses import dataclass
from enum import Enum
from typing import Self

from dicom_node.dimse.status import (
    CANNOT_UNDERSTAND_STATUSES,
    MISMATCH_STATUSES,
    OUT_OF_RESOURCES_STATUSES,
    WARNING_STATUSES,
    DimseStatus,
)
from storage.records.deliveries import NO_REMARK, Remark, StoredAs

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


class SendOutcome(Enum):
    """The outcome of a try to send an instance."""

    STORED = "stored"  # the destination says so
    EXISTS = "exists"  # it says that it already has an instance of this UID
    REFUSED = "refused"  # it does not take this object and never will; it may take another one in its place
    FAILED = "failed"  # it answers with a failure that may pass
    UNCLEAR = "unclear"  # it answers, but not whether the instance was stored
    LOST = "lost"  # the instance was sent, and no answer to it came
    AWAY = "away"  # the destination was not reached, so that the instance cannot be there
    DENIED = "denied"  # it takes nothing from this node
    UNREADABLE = "unreadable"  # this machine cannot read the file now
    UNSENDABLE = "unsendable"  # the file cannot be sent


@dataclass(frozen=True)
class SendResult:
    """The result of sending one instance.

    `reason` says what went wrong. If `may_exist`, the failure can also mean that the destination already has an
    instance of this UID. `remark` is what the destination said of an instance that it stored.
    """

    sop_instance_uid: str  # empty if the file could not be read
    outcome: SendOutcome
    reason: str = ""
    may_exist: bool = False
    remark: Remark = NO_REMARK

    @property
    def ok(self) -> bool:
        """True where the destination says that it has an instance of this UID."""
        return self.outcome in (SendOutcome.STORED, SendOutcome.EXISTS)

    @property
    def retriable(self) -> bool:
        """True where the same instance may be stored later."""
        return self.outcome in (
            SendOutcome.FAILED,
            SendOutcome.UNCLEAR,
            SendOutcome.LOST,
            SendOutcome.AWAY,
            SendOutcome.UNREADABLE,
        )

    @property
    def refused(self) -> bool:
        """True where the destination answered that it does not take this object, for now or for ever."""
        return self.outcome in (SendOutcome.REFUSED, SendOutcome.FAILED)

    @classmethod
    def from_status(
        cls, sop_instance_uid: str, status: int, attributes: tuple[str, ...] = (), stored_as: StoredAs | None = None
    ) -> Self:
        """Return the result that a C-STORE response status means (PS3.4 B.2.3, PS3.7 annex C).

        `attributes` and `stored_as` are what the response tells of a stored instance, as in `Remark`. The peer's error
        comment is left out, because it may quote the patient.
        """
        code = f"0x{status:04X}"
        if status == DimseStatus.SUCCESS or status in WARNING_STATUSES or status in _WARNINGS:
            remark = Remark(status, attributes, stored_as)
            return cls(sop_instance_uid, SendOutcome.STORED, str(remark), remark=remark)
        if status == DimseStatus.DUPLICATE_SOP_INSTANCE:
            return cls(sop_instance_uid, SendOutcome.EXISTS, f"an instance of this UID exists there ({code})")
        outcome = SendOutcome.REFUSED
        if status in OUT_OF_RESOURCES_STATUSES or status == DimseStatus.RESOURCE_LIMITATION:
            outcome, reason = SendOutcome.FAILED, f"out of resources ({code})"
        elif status in MISMATCH_STATUSES:
            reason = f"dataset does not match its SOP class ({code})"
        elif status in CANNOT_UNDERSTAND_STATUSES:
            reason = f"dataset is not understood ({code})"
        elif status in _REFUSALS:
            reason = f"refused ({code})"
        else:
            outcome, reason = SendOutcome.FAILED, f"failed ({code})"
        return cls(sop_instance_uid, outcome, reason)


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

    def is_at(self, place: StoredAs) -> bool:
        """Return True if the place is the instance's own; UIDs of it that are not known are taken for the same."""
        return (
            place.sop_instance_uid == self.sop_instance_uid
            and place.series_instance_uid in ("", self.series_instance_uid)
            and place.study_instance_uid in ("", self.study_instance_uid)
        )
