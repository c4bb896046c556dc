"""Which studies a site's rule names: every key, every place where images state its value, and what it never tells."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from inference.contract.study_rule import CodeKey, StudyRule, StudyValues, stated_values


def image(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in {"Modality": "MR", **attributes}.items():
        setattr(ds, keyword, value)
    return ds


def code(value: str, scheme: str = "SCT", meaning: str = "x") -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def within(keyword: str, **attributes: Any) -> Dataset:
    ds = Dataset()
    setattr(ds, keyword, [image(**attributes)])
    return ds


FRAMES = image(
    SharedFunctionalGroupsSequence=[within("FrameAnatomySequence", AnatomicRegionSequence=[code("68367000")])]
)
REQUEST = image(RequestAttributesSequence=[image(RequestedProcedureDescription="MRT Sarkom", Modality="")])
ORDER = image(RequestAttributesSequence=[image(RequestedProcedureCodeSequence=[code("7", "LOCAL", "Tumour")])])


@pytest.mark.parametrize(
    ("rule", "ds"),
    [
        (StudyRule(modality=("CT", "mr")), image()),
        (StudyRule(body_part=("KNEE", "thigh")), image(BodyPartExamined="THIGH ")),
        (StudyRule(body_part=("THIGH",)), image(AnatomicRegionSequence=[code("68367000")])),
        (StudyRule(body_part=("THIGH",)), image(AnatomicRegionSequence=[code("T-D9100", "SRT")])),
        (StudyRule(body_part=("THIGH",)), FRAMES),
        (StudyRule(procedure_code=(CodeKey("24720-1", "LN"),)), image(ProcedureCodeSequence=[code("24720-1", "LN")])),
        (StudyRule(procedure_code=(CodeKey("7", "LOCAL"),)), ORDER),
        (StudyRule(procedure_description=("*limb*",)), image(PerformedProcedureStepDescription="MR Limb")),
        (StudyRule(procedure_description=("*limb*",)), image(ProcedureCodeSequence=[code("1", "LN", "MR limb")])),
        (StudyRule(study_description=("*th?gh*",)), image(StudyDescription="Left Thigh")),
        (StudyRule(requested_procedure=("*sarkom",)), REQUEST),
        (StudyRule(requested_procedure=("*sarkom",)), image(RequestedProcedureDescription="Sarkom")),
        (StudyRule(requested_procedure=("tumour",)), ORDER),
        (StudyRule(station_name=("MR7",)), image(StationName="mr7")),
        (StudyRule(age=(18, 120)), image(PatientAge="018Y")),
        (StudyRule(age=(18, 120)), image(PatientAge="216M")),
        (StudyRule(age=(18, 120)), image(PatientAge="000Y", PatientBirthDate="19600102", StudyDate="20260501")),
        (StudyRule(body_part=("THIGH",)), image(BodyPartExamined=["PELVIS", "THIGH"])),
        (StudyRule(study_description=("[m]*",)), image(StudyDescription="[M] Thigh")),
        (StudyRule(age=(0, 0)), image(PatientAge="051W")),
        (StudyRule(age=(0, 17)), image(PatientBirthDate="20080502", StudyDate="20260501")),
        (StudyRule(age=(18, 120)), image(PatientBirthDate="20080501", StudyDate="20260501")),
        (StudyRule(modality=("MR",), age=(18, 120)), image(PatientAge="040Y")),
    ],
)
def test_a_study_that_is_named(rule: StudyRule, ds: Dataset) -> None:
    assert rule.unmet(stated_values([image(Modality="SC"), ds])) == []


@pytest.mark.parametrize(
    ("rule", "ds", "told"),
    [
        (StudyRule(modality=("CT",)), image(), ["the modality does not match"]),
        (StudyRule(body_part=("THIGH",)), image(), ["the body part is not stated"]),
        (StudyRule(body_part=("THIGH",)), image(BodyPartExamined="THIGHS"), ["the body part does not match"]),
        (
            StudyRule(procedure_code=(CodeKey("7", "LN"),)),
            image(ProcedureCodeSequence=[code("7", "LOCAL")]),
            ["the procedure code does not match"],
        ),
        (StudyRule(study_description=("thigh",)), image(StudyDescription="Left thigh"), ["the study description does"]),
        (StudyRule(age=(18, 120)), image(PatientAge="017Y"), ["the age does not match"]),
        (StudyRule(age=(0, 17)), image(PatientAge="018Y"), ["the age does not match"]),
        (StudyRule(age=(0, 17)), image(PatientAge="000Y"), ["the age is not stated"]),
        (StudyRule(study_description=("[mt]high",)), image(StudyDescription="Thigh"), ["the study description does"]),
        (StudyRule(age=(18, 120)), image(PatientAge="old", PatientBirthDate="1980"), ["the age is not stated"]),
        (
            StudyRule(modality=("MR",), sending_ae_title=("MR1",), age=(18, 120)),
            image(PatientAge="011Y"),
            ["the sending ae title is not stated", "the age does not match"],
        ),
    ],
)
def test_a_study_that_is_not_named_says_which_key_and_no_value(rule: StudyRule, ds: Dataset, told: list[str]) -> None:
    found = rule.unmet(stated_values([ds]))
    assert len(found) == len(told)
    assert all(phrase.startswith(expected) for phrase, expected in zip(found, told, strict=True))
    assert not any(value in " ".join(found) for value in ("017", "018", "011", "11", "THIGHS"))


def test_the_senders_of_a_study_are_values_too() -> None:
    sent = StudyValues.union([stated_values([image()]), StudyValues(sending_ae_title=frozenset({"MR12"}))])
    assert StudyRule(sending_ae_title=("MR1*",), modality=("MR",)).unmet(sent) == []
