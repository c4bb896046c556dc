"""New objects of kinds for which highdicom 0.28.2 has no class."""

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.objects.base.context import ObjectContext, equipment
from inference.contract.findings import Findings


def new_object(
    source: Dataset,
    findings: Findings,
    context: ObjectContext,
    kind: str,
    sop_class_uid: str,
    modality: str,
    number: int,
) -> Dataset:
    """Return an object in a series of its own, in the patient and study of the header `source`.

    Its UIDs come from the roles "<kind> series" and "<kind> instance". The caller completes it, and then calls
    `describe`. `number` is an offset of `series_numbers`.
    """
    ds = hd.base.SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=context.uid(f"{kind} series"),
        series_number=context.series_number(number),
        sop_instance_uid=context.uid(f"{kind} instance"),
        sop_class_uid=sop_class_uid,
        instance_number=context.revision,
        modality=modality,
        **equipment(findings.algorithm, context),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate,
        study_time=source.StudyTime,
        referring_physician_name=source.ReferringPhysicianName,
        specific_character_set=source.get("SpecificCharacterSet"),
    )
    ds.copy_patient_and_study_information(source)
    return ds
