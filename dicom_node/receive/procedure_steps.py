"""The node as a Modality Performed Procedure Step SCP (PS3.4 annex F).

A step is created IN PROGRESS and ends COMPLETED or DISCONTINUED; after that it may no longer be updated. Decisions are
pure functions of datasets; `ProcedureStepService` applies them, and stores a step durably before it answers.

The node checks only attributes that it uses, and attributes of type 1 in PS3.4 table F.7.2-1. Stricter checks would
help nobody: a modality whose step is refused reports nothing more, but sends its images nevertheless.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt

from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.receive.events import UNREADABLE, calling_ae_title, readable
from dicom_node.runtime.logs import fields, unexpected
from storage.errors import Retriable
from storage.records.instances import UID
from storage.records.procedure_steps import ProcedureStep, ProcedureStepState
from storage.tables.procedure_steps import PROCEDURE_STEP_CLASS_UID, ProcedureSteps, decode

log = logging.getLogger(__name__)

MODALITY_PERFORMED_PROCEDURE_STEP = PROCEDURE_STEP_CLASS_UID
MAY_NO_LONGER_BE_UPDATED = 0xA710  # Error ID (PS3.4 table F.7.2-2)
ATTEMPTS = 5  # of an N-SET that races with others of the same step

_TYPE_1 = (  # of an N-CREATE (PS3.4 table F.7.2-1)
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
    "ScheduledStepAttributesSequence",
)


SUCCESS = DimseResponse(DimseStatus.SUCCESS)
FINAL = DimseResponse(
    DimseStatus.PROCESSING_FAILURE, "Performed Procedure Step Object may no longer be updated", MAY_NO_LONGER_BE_UPDATED
)


@dataclass(frozen=True)
class StepContent:
    """The part of a step's dataset that the node uses."""

    state: ProcedureStepState
    study_instance_uids: tuple[str, ...]
    referenced: tuple[str, ...]  # SOP instances of all its series


# -- decisions ---------------------------------------------------------------------------------------------------------


def judge_creation(ds: Dataset) -> StepContent | DimseResponse:
    """Return the content of an N-CREATE's attribute list, or the response that refuses it (PS3.4 F.7.2.1)."""
    for keyword in _TYPE_1:
        if keyword not in ds:
            return DimseResponse(DimseStatus.MISSING_ATTRIBUTE, f"{keyword} is missing")
        if _is_empty(ds[keyword].value):
            return DimseResponse(DimseStatus.MISSING_ATTRIBUTE_VALUE, f"{keyword} has no value")
    if _text(ds.PerformedProcedureStepStatus) != ProcedureStepState.IN_PROGRESS:
        return DimseResponse(DimseStatus.INVALID_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus must be IN PROGRESS")
    return judge_content(ds)


def judge_change(state: ProcedureStepState, merged: Dataset) -> StepContent | DimseResponse:
    """Return the content of a step in `state` after an N-SET, or the response that refuses it (PS3.4 F.7.2.2)."""
    if state is not ProcedureStepState.IN_PROGRESS:
        return FINAL
    if _is_empty(merged.get("PerformedProcedureStepStatus")):
        return DimseResponse(DimseStatus.MISSING_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus has no value")
    content = judge_content(merged)
    # Every step has a series, though it may hold no instances. A step that was given up may lack one, because no study
    # waits for it.
    is_completed = isinstance(content, StepContent) and content.state is ProcedureStepState.COMPLETED
    if is_completed and not merged.get("PerformedSeriesSequence"):
        return DimseResponse(DimseStatus.MISSING_ATTRIBUTE_VALUE, "PerformedSeriesSequence has no item")
    return content


def judge_content(ds: Dataset) -> StepContent | DimseResponse:
    """Return the content of a step, or the response that refuses it."""
    try:
        state = ProcedureStepState(_text(ds.PerformedProcedureStepStatus))
    except ValueError:
        return DimseResponse(DimseStatus.INVALID_ATTRIBUTE_VALUE, "PerformedProcedureStepStatus has an unknown value")
    studies: list[str] = []
    for item in _items(ds, "ScheduledStepAttributesSequence"):
        if "StudyInstanceUID" not in item:
            return DimseResponse(DimseStatus.MISSING_ATTRIBUTE, "StudyInstanceUID is missing")
        uid = _text(item.StudyInstanceUID)
        if not uid:
            return DimseResponse(DimseStatus.MISSING_ATTRIBUTE_VALUE, "StudyInstanceUID has no value")
        if not UID.fullmatch(uid):
            return DimseResponse(DimseStatus.INVALID_ATTRIBUTE_VALUE, "StudyInstanceUID is not a UID")
        studies.append(uid)
    referenced: list[str] = []
    for series in _items(ds, "PerformedSeriesSequence"):
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            for item in _items(series, keyword):
                uid = _text(item.get("ReferencedSOPInstanceUID"))
                if not uid:
                    return DimseResponse(DimseStatus.MISSING_ATTRIBUTE_VALUE, "ReferencedSOPInstanceUID has no value")
                if not UID.fullmatch(uid):
                    return DimseResponse(DimseStatus.INVALID_ATTRIBUTE_VALUE, "ReferencedSOPInstanceUID is not a UID")
                referenced.append(uid)
    return StepContent(state, tuple(dict.fromkeys(studies)), tuple(dict.fromkeys(referenced)))


def merge(ds: Dataset, modifications: Dataset) -> Dataset:
    """Apply an N-SET: attributes replace those of the same tag, sequences as a whole (PS3.7 10.1.3)."""
    merged = Dataset()
    for part in (ds, modifications):
        decode(part)  # each in its own character set
        merged.update(part)
    return merged


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    return ds.get(keyword) or ()


def _text(value: Any) -> str:
    return str(value or "").strip()


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0) or _text(value) == ""


# -- the service -------------------------------------------------------------------------------------------------------


class ProcedureStepService:
    """A service that keeps the steps of modalities. Its methods do not raise: every failure becomes a response.

    `admits_peers_only` is True if peers are configured. Otherwise anybody may send steps, and the host of each is kept,
    because a step counts only from a host that also sent images of its study.
    """

    def __init__(
        self,
        steps: ProcedureSteps,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        admits_peers_only: bool = False,
    ) -> None:
        self._steps = steps
        self._now = now
        self._admits_peers_only = admits_peers_only

    def create(
        self, sop_instance_uid: str | None, ds: Dataset, calling: str, host: str = ""
    ) -> tuple[DimseResponse, str]:
        """Answer an N-CREATE (PS3.4 F.7.2.1), and return the SOP Instance UID too, a new one if none is given."""
        uid = sop_instance_uid or str(generate_uid(prefix=None))
        return self._guarded("create", uid, calling, lambda: self._create(uid, ds, calling, host)), uid

    def set(self, sop_instance_uid: str, modifications: Dataset, calling: str, host: str = "") -> DimseResponse:
        """Answer an N-SET (PS3.4 F.7.2.2). If two race, the second reads the updated step again and retries."""
        return self._guarded("set", sop_instance_uid, calling, lambda: self._set(sop_instance_uid, modifications, host))

    def _create(self, uid: str, ds: Dataset, calling: str, host: str) -> DimseResponse:
        if not UID.fullmatch(uid):
            return DimseResponse(DimseStatus.INVALID_OBJECT_INSTANCE, "The SOP Instance UID is not a UID")
        judged = judge_creation(ds)
        if isinstance(judged, DimseResponse):
            return judged
        new = self._steps.create(uid, ds, calling, judged.study_instance_uids, judged.referenced, self._now(), host)
        return (
            SUCCESS
            if new
            else DimseResponse(DimseStatus.DUPLICATE_SOP_INSTANCE, "There is such a procedure step already")
        )

    def _set(self, uid: str, modifications: Dataset, host: str) -> DimseResponse:
        for _ in range(ATTEMPTS):
            step = self._steps.get(uid)
            if step is None:
                return DimseResponse(DimseStatus.NO_SUCH_SOP_INSTANCE, "There is no such procedure step")
            answer = self._change(step, modifications, host)
            if answer is not None:
                return answer
        return DimseResponse(DimseStatus.RESOURCE_LIMITATION, "Too many changes at once, send it again later")

    def _change(self, step: ProcedureStep, modifications: Dataset, host: str) -> DimseResponse | None:
        """Update a step; return None if another N-SET has changed it since it was read."""
        if step.state is not ProcedureStepState.IN_PROGRESS:
            return FINAL
        try:
            merged = merge(self._steps.dataset(step), modifications)
        except FileNotFoundError:
            return None
        judged = judge_change(step.state, merged)
        if isinstance(judged, DimseResponse):
            return judged
        won = self._steps.update(
            step, merged, judged.state, judged.study_instance_uids, judged.referenced, self._now(), host
        )
        return SUCCESS if won else None

    def _guarded(self, what: str, uid: str, calling: str, act: Callable[[], DimseResponse]) -> DimseResponse:
        extra = {"peer": calling, "procedure_step": uid if UID.fullmatch(uid) else "?"}
        try:
            answer = act()
        except Retriable as error:
            log.warning("A procedure step was not kept: %s", error, extra=fields("procedure_step_postponed", **extra))
            return DimseResponse(DimseStatus.RESOURCE_LIMITATION, "Cannot be kept now, send it again later")
        except Exception as error:
            failed = fields("procedure_step_failed", **extra)
            log.error("A procedure step could not be kept: %s", unexpected(error), extra=failed)
            return DimseResponse(DimseStatus.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")
        if answer.status is DimseStatus.SUCCESS:
            if what == "create":
                log.info("A procedure step was created", extra=fields("procedure_step_created", **extra))
            else:
                log.info("A procedure step was changed", extra=fields("procedure_step_changed", **extra))
        else:
            log.warning(
                "Refused to %s a procedure step (0x%04X): %s",
                what,
                answer.status,
                answer.comment,
                extra=fields("procedure_step_refused", **extra),
            )
        return answer

    # -- as handlers of pynetdicom's events --

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Return the handlers of N-CREATE and N-SET for pynetdicom."""
        return [(evt.EVT_N_CREATE, self._on_create), (evt.EVT_N_SET, self._on_set)]

    def _on_create(self, event: Any) -> tuple[Dataset, Dataset | None]:
        given = event.request.AffectedSOPInstanceUID
        ds = readable(lambda: event.attribute_list)
        if ds is None:
            return UNREADABLE.dataset(), None
        answer, uid = self.create(None if given is None else str(given), ds, calling_ae_title(event), self._host(event))
        if given is None and answer.status is DimseStatus.SUCCESS:
            reply = Dataset()  # pynetdicom makes it the response's Affected SOP Instance UID (PS3.7 10.1.5.1.4)
            reply.AffectedSOPInstanceUID = uid
            return answer.dataset(), reply
        return answer.dataset(), None

    def _host(self, event: Any) -> str:
        return "" if self._admits_peers_only else str(event.assoc.requestor.address_info.address)

    def _on_set(self, event: Any) -> tuple[Dataset, Dataset | None]:
        ds = readable(lambda: event.modification_list)
        if ds is None:
            return UNREADABLE.dataset(), None
        uid = str(event.request.RequestedSOPInstanceUID or "")
        return self.set(uid, ds, calling_ae_title(event), self._host(event)).dataset(), None
