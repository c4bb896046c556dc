"""What an MPPS SCP refuses, and with which status (PS3.4 F.7.2, PS3.7 annex C)."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.receive.procedure_steps import (
    FINAL,
    StepContent,
    judge_change,
    judge_creation,
    merge,
)
from storage.records.procedure_steps import ProcedureStepState
from tests.receive.services.datasets import SECRET, completion, creation, reference

NEW = ProcedureStepState.IN_PROGRESS


def refused(judged: StepContent | DimseResponse) -> DimseStatus:
    assert isinstance(judged, DimseResponse)
    assert len(judged.comment) <= 64
    assert SECRET not in judged.comment
    return judged.status


def taken(judged: StepContent | DimseResponse) -> StepContent:
    assert isinstance(judged, StepContent)
    return judged


def series(*instances: Dataset) -> Sequence:
    item = Dataset()
    item.SeriesInstanceUID = "1.2.3.1"
    item.ReferencedImageSequence = Sequence(instances)
    return Sequence([item])


def test_what_is_read_of_a_new_step() -> None:
    content = taken(judge_creation(creation("1.2.3", "1.2.4", "1.2.3")))
    assert content == StepContent(NEW, ("1.2.3", "1.2.4"), ())


@pytest.mark.parametrize(
    "keyword",
    [
        "PerformedProcedureStepID",
        "PerformedStationAETitle",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformedProcedureStepStatus",
        "Modality",
        "ScheduledStepAttributesSequence",
    ],
)
def test_a_new_step_lacks_something(keyword: str) -> None:
    empty: object = Sequence([]) if keyword.endswith("Sequence") else ""
    assert refused(judge_creation(creation(**{keyword: None}))) is DimseStatus.MISSING_ATTRIBUTE
    assert refused(judge_creation(creation(**{keyword: empty}))) is DimseStatus.MISSING_ATTRIBUTE_VALUE


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED", "DONE"])
def test_a_new_step_is_in_progress(state: str) -> None:
    assert refused(judge_creation(creation(PerformedProcedureStepStatus=state))) is DimseStatus.INVALID_ATTRIBUTE_VALUE


def test_a_new_step_names_its_study() -> None:
    without = creation()
    del without.ScheduledStepAttributesSequence[0].StudyInstanceUID
    assert refused(judge_creation(without)) is DimseStatus.MISSING_ATTRIBUTE
    without.ScheduledStepAttributesSequence[0].StudyInstanceUID = ""
    assert refused(judge_creation(without)) is DimseStatus.MISSING_ATTRIBUTE_VALUE
    without.ScheduledStepAttributesSequence[0].add_new("StudyInstanceUID", "LO", "../../etc")
    assert refused(judge_creation(without)) is DimseStatus.INVALID_ATTRIBUTE_VALUE


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED", "IN PROGRESS"])
def test_a_step_in_progress_may_become(state: str) -> None:
    merged = merge(creation(), completion(["1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.1"], state))
    assert taken(judge_change(NEW, merged)) == StepContent(
        ProcedureStepState(state), ("1.2.3",), ("1.2.3.1.1", "1.2.3.1.2")
    )


@pytest.mark.parametrize("before", [ProcedureStepState.COMPLETED, ProcedureStepState.DISCONTINUED])
@pytest.mark.parametrize("after", ["COMPLETED", "DISCONTINUED", "IN PROGRESS"])
def test_an_ended_step_stays_as_it_is(before: ProcedureStepState, after: str) -> None:
    answer = judge_change(before, merge(creation(), completion(["1.2.3.1.1"], after)))
    assert answer is FINAL
    assert (FINAL.status, FINAL.error_id) == (0x0110, 0xA710)


def test_what_an_end_needs() -> None:
    nothing = completion([])
    nothing.PerformedSeriesSequence = Sequence([])
    assert refused(judge_change(NEW, merge(creation(), nothing))) is DimseStatus.MISSING_ATTRIBUTE_VALUE
    nothing.PerformedProcedureStepStatus = "DISCONTINUED"
    assert taken(judge_change(NEW, merge(creation(), nothing))).referenced == ()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"PerformedProcedureStepStatus": ""}, DimseStatus.MISSING_ATTRIBUTE_VALUE),
        ({"PerformedProcedureStepStatus": "FINISHED"}, DimseStatus.INVALID_ATTRIBUTE_VALUE),
        ({"PerformedSeriesSequence": series(Dataset())}, DimseStatus.MISSING_ATTRIBUTE_VALUE),
        ({"PerformedSeriesSequence": series(reference("1.2.x"))}, DimseStatus.INVALID_ATTRIBUTE_VALUE),
    ],
)
def test_a_change_that_says_nothing_clear(changes: dict[str, object], status: DimseStatus) -> None:
    modifications = completion(["1.2.3.1.1"])
    for keyword, value in changes.items():
        setattr(modifications, keyword, value)
    assert refused(judge_change(NEW, merge(creation(), modifications))) is status


def test_other_objects_than_images_count() -> None:
    modifications = completion(["1.2.3.1.1"])
    modifications.PerformedSeriesSequence[0].ReferencedNonImageCompositeSOPInstanceSequence = Sequence(
        [reference("1.2.3.2.1")]
    )
    assert taken(judge_change(NEW, merge(creation(), modifications))).referenced == ("1.2.3.1.1", "1.2.3.2.1")


def test_a_change_leaves_what_it_does_not_name() -> None:
    before = creation()
    merged = merge(before, completion([]))
    assert merged.PatientName == SECRET
    assert before.PerformedProcedureStepStatus == "IN PROGRESS"
