"""Requests for `Dcmjs.scu`, with datasets as dcmjs naturalizes them."""

from collections.abc import Sequence
from typing import Any

from dicom_node.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from dicom_node.receive.procedure_steps import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from tests.storage.node import MR, SECRET


def created(study: str, step: str, **changes: str) -> dict[str, Any]:
    """An N-CREATE (PS3.4 F.7.2.1)."""
    dataset = {
        "PatientName": SECRET,
        "PatientID": SECRET,
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "MR1",
        "PerformedStationName": "",
        "PerformedProcedureStepStartDate": "20260504",
        "PerformedProcedureStepStartTime": "120000",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "PerformedProcedureStepEndDate": "",
        "PerformedProcedureStepEndTime": "",
        "Modality": "MR",
        "PerformedSeriesSequence": [],
        "ScheduledStepAttributesSequence": [{"StudyInstanceUID": study, "AccessionNumber": ""}],
        **changes,
    }
    return {"service": "N-CREATE", "sopClass": MPPS, "sopInstance": step, "dataset": dataset}


def completed(step: str, instances: Sequence[str], state: str = "COMPLETED") -> dict[str, Any]:
    """An N-SET (PS3.4 F.7.2.2)."""
    references = [{"ReferencedSOPClassUID": MR, "ReferencedSOPInstanceUID": uid} for uid in instances]
    series = {"SeriesInstanceUID": "1.2.3.1", "ProtocolName": "T1", "ReferencedImageSequence": references}
    dataset = {
        "PerformedProcedureStepStatus": state,
        "PerformedProcedureStepEndDate": "20260504",
        "PerformedProcedureStepEndTime": "121500",
        "PerformedSeriesSequence": [series],
    }
    return {"service": "N-SET", "sopClass": MPPS, "sopInstance": step, "dataset": dataset}


def committed(transaction: str, *items: tuple[str, str]) -> dict[str, Any]:
    """An N-ACTION (PS3.4 J.3.2) for (SOP class, SOP instance)."""
    references = [{"ReferencedSOPClassUID": c, "ReferencedSOPInstanceUID": uid} for c, uid in items]
    return {
        "service": "N-ACTION",
        "sopClass": PUSH_MODEL,
        "sopInstance": PUSH_MODEL_INSTANCE,
        "action": 1,
        "dataset": {"TransactionUID": transaction, "ReferencedSOPSequence": references},
    }
