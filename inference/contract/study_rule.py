"""The rule by which a site says which studies an application is for, and the values that it looks at.

The values hold attributes of the patient. They live only while a study is routed, and no text names them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any

from pydicom.dataset import Dataset

from inference.headers.attributes import matches, values
from inference.headers.body_parts import body_parts_of
from inference.headers.decoding import one_of_each_pattern

IN_A_YEAR = {"Y": 1, "M": 12, "W": 365.25 / 7, "D": 365.25}  # of the units of VR AS (PS3.5 6.2)


@dataclass(frozen=True)
class CodeKey:
    """A code by its value and its coding scheme."""

    value: str
    scheme: str


@dataclass(frozen=True)
class StudyValues:
    """The values that images state, each in every spelling that occurs. `age` is in years."""

    modality: frozenset[str] = frozenset()
    body_part: frozenset[str] = frozenset()
    procedure_code: frozenset[CodeKey] = frozenset()
    procedure_description: frozenset[str] = frozenset()
    study_description: frozenset[str] = frozenset()
    requested_procedure: frozenset[str] = frozenset()
    station_name: frozenset[str] = frozenset()
    sending_ae_title: frozenset[str] = frozenset()
    age: frozenset[float] = frozenset()

    @classmethod
    def union(cls, several: Iterable["StudyValues"]) -> "StudyValues":
        """Return all values that any of `several` has."""
        found = list(several)
        return cls(**{f.name: frozenset().union(*(getattr(one, f.name) for one in found)) for f in fields(cls)})


@dataclass(frozen=True)
class StudyRule:
    """The studies that an application is for. Every key that is given must match; its entries are alternatives.

    Texts are patterns ("*thigh*": `*` and `?` as in a shell, case ignored), `age` is from and up to, in years.
    """

    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    procedure_code: tuple[CodeKey, ...] = ()
    procedure_description: tuple[str, ...] = ()
    study_description: tuple[str, ...] = ()
    requested_procedure: tuple[str, ...] = ()
    station_name: tuple[str, ...] = ()
    sending_ae_title: tuple[str, ...] = ()
    age: tuple[float, float] | None = None

    def unmet(self, stated: StudyValues) -> list[str]:
        """Return a phrase for each key that does not match, without any value; empty if the study is one of these."""
        return [
            f"the {key.replace('_', ' ')} {'does not match' if getattr(stated, key) else 'is not stated'}"
            for key in (f.name for f in fields(self))
            if getattr(self, key) and not self._matches(key, getattr(stated, key))
        ]

    def _matches(self, key: str, stated: frozenset[Any]) -> bool:
        wanted = getattr(self, key)
        if key == "age":
            lowest, highest = wanted
            last = highest + 1 if highest == int(highest) else highest  # "up to 17" lasts to the 18th birthday
            return any(lowest <= age and (age < last or age == highest) for age in stated)
        if key == "procedure_code":
            return not stated.isdisjoint(wanted)
        return any(matches(text, pattern) for text in stated for pattern in wanted)


def stated_values(images: Iterable[Dataset]) -> StudyValues:
    """Return the values that these headers state. An element that cannot be read states nothing."""
    return StudyValues.union(map(_of_image, one_of_each_pattern(images)))


def _of_image(ds: Dataset) -> StudyValues:
    requests = [ds, *_items(ds, "RequestAttributesSequence")]
    performed = _items(ds, "ProcedureCodeSequence")
    requested = [code for request in requests for code in _items(request, "RequestedProcedureCodeSequence")]
    return StudyValues(
        modality=_texts([ds], "Modality"),
        body_part=_body_parts(ds),
        procedure_code=frozenset(key for code in (*performed, *requested) if (key := _key(code)) is not None),
        procedure_description=_texts([ds], "PerformedProcedureStepDescription") | _texts(performed, "CodeMeaning"),
        study_description=_texts([ds], "StudyDescription"),
        requested_procedure=_texts(requests, "RequestedProcedureDescription") | _texts(requested, "CodeMeaning"),
        station_name=_texts([ds], "StationName"),
        age=_ages(ds),
    )


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except Exception:  # pydicom reads values late, and raises many kinds of errors for a malformed one
        return None


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    return [item for item in values(_value(ds, keyword)) if isinstance(item, Dataset)]


def _texts(several: Iterable[Dataset], keyword: str) -> frozenset[str]:
    found = (str(text).strip(" \0") for ds in several for text in values(_value(ds, keyword)))
    return frozenset(filter(None, found))


def _body_parts(ds: Dataset) -> frozenset[str]:
    try:
        return body_parts_of(ds)
    except Exception:  # as in `_value`
        return frozenset()


def _key(code: Dataset) -> CodeKey | None:
    value = next(
        (v for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue") if (v := _texts([code], keyword))), ()
    )
    scheme = _texts([code], "CodingSchemeDesignator")
    return CodeKey(min(value), min(scheme)) if value and scheme else None


def _ages(ds: Dataset) -> frozenset[float]:
    """Return Patient's Age, or the age on the day of the study by the birth date.

    An age of 0 states nothing, because systems write 000Y for an age that they do not know.
    """
    told = re.fullmatch(r"(\d{3})([DWMY])", str(_value(ds, "PatientAge") or "").strip())
    if told and int(told[1]):
        return frozenset({int(told[1]) / IN_A_YEAR[told[2]]})
    born = _day(_value(ds, "PatientBirthDate"))
    day = next((d for key in ("StudyDate", "AcquisitionDate", "SeriesDate") if (d := _day(_value(ds, key)))), None)
    if born is None or day is None or day < born:
        return frozenset()
    years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    return frozenset({float(years) if years else (day - born).days / IN_A_YEAR["D"]})


def _day(value: Any) -> date | None:
    try:
        return datetime.strptime(str(value or "").strip().replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None
