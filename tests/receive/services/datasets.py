"""What a modality sends about a procedure step, and the requests of a storage commitment SCU."""

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

MR = "1.2.840.10008.5.1.4.1.1.4"
SECRET = "SECRET^PERSON"


def creation(*studies: str, **changes: object) -> Dataset:
    """The attribute list of an N-CREATE (PS3.4 table F.7.2-1). A change to None leaves the attribute out."""
    ds = Dataset()
    ds.PatientName = SECRET
    ds.PatientID = SECRET
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.PerformedProcedureStepID = "PPS1"
    ds.PerformedStationAETitle = "MR1"
    ds.PerformedStationName = ""
    ds.PerformedProcedureStepStartDate = "20260504"
    ds.PerformedProcedureStepStartTime = "120000"
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    ds.PerformedProcedureStepEndDate = ""
    ds.PerformedProcedureStepEndTime = ""
    ds.Modality = "MR"
    ds.PerformedSeriesSequence = Items([])
    ds.ScheduledStepAttributesSequence = Items([scheduled(uid) for uid in studies or ("1.2.3",)])
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def scheduled(study: str) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = study
    item.AccessionNumber = ""
    item.RequestedProcedureID = ""
    return item


def completion(instances: Sequence[str], state: str = "COMPLETED") -> Dataset:
    """The modification list of the last N-SET."""
    ds = Dataset()
    ds.PerformedProcedureStepStatus = state
    ds.PerformedProcedureStepEndDate = "20260504"
    ds.PerformedProcedureStepEndTime = "121500"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3.1"
    series.ProtocolName = "T1"
    series.ReferencedImageSequence = Items([reference(uid) for uid in instances])
    series.ReferencedNonImageCompositeSOPInstanceSequence = Items([])
    ds.PerformedSeriesSequence = Items([series])
    return ds


def reference(uid: str, sop_class: str = MR) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def commitment(transaction: str, *items: tuple[str, str]) -> Dataset:
    """The action information of an N-ACTION (PS3.4 table J.3-1) for (SOP class, SOP instance)."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = Items([reference(uid, sop_class) for sop_class, uid in items])
    return ds
