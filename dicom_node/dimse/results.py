"""Results of sending and of asking: values that DIMSE, DICOMweb and folders share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SendResult:
    """The outcome of sending one instance.

    `reason` is a note where `ok`; otherwise it says what went wrong. `refused` means that the destination answered and
    does not take this object: for good, or only for now where `retriable`. It may take something else in its place.
    """

    sop_instance_uid: str  # empty where the file could not be read
    ok: bool
    retriable: bool = False
    reason: str = ""
    refused: bool = False


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
