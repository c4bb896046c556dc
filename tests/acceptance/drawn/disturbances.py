"""The disturbances of a study, one for each: what is changed before it is sent, and what must come of it then."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import RawDataStorage, SecondaryCaptureImageStorage

from tests.acceptance.drawn.bases import LIMB, Base
from tests.acceptance.drawn.expectations import Expected, Outcome

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
NAMES = ("SeriesDescription", "ProtocolName", "StudyDescription", "SequenceName")
PHILIPS_BLOCK = "Philips MR Imaging DD 001"


class Trouble(StrEnum):
    """The trouble of the machine while the study is on its way."""

    NONE = "none"
    CLOCK_BACK = "the clock is set back by an hour"
    CLOCK_AHEAD = "the clock is set ahead by thirty days"
    DISK_HANGS = "the disk hangs for some seconds"


@dataclass
class Draft:
    """A copy of a base with UIDs and a patient of its own, which a disturbance changes."""

    base: Base
    patient_id: str
    series: dict[str, list[Dataset]]
    random: Random

    @property
    def main(self) -> list[Dataset]:
        return self.series[self.base.main]

    @property
    def all(self) -> list[Dataset]:
        return [ds for datasets in self.series.values() for ds in datasets]

    @property
    def study_instance_uid(self) -> str:
        return str(self.main[0].StudyInstanceUID)

    def result(self, **changes: object) -> Expected:
        """Return the result of an undisturbed study."""
        base = self.base
        numbers = (*base.numbers, *base.quantities.values())
        whole = Expected(Outcome.RESULT, base.application, self.patient_id, numbers, tracking=base.tracking)
        return replace(whole, **changes)  # type: ignore[arg-type]

    def refusal(self, words: str) -> Expected:
        return Expected(Outcome.REFUSAL, self.base.application, words=words)


@dataclass
class Plan:
    """The instances to send, list after list as the study rests, and what must come, by Study Instance UID."""

    sent: Sequence[Sequence[Dataset]]
    expected: dict[str, Expected]
    trouble: Trouble = Trouble.NONE


Disturbance = Callable[[Draft], Plan | None]
"""Returns None where it cannot be applied to this base."""


def draft(base: Base, name: str, random: Random) -> Draft:
    """Copy the base, with UIDs and a patient that follow from `name`."""

    def renamed(uid: str) -> str:
        digest = hashlib.sha256(f"{name} {uid}".encode()).digest()
        return f"2.25.{int.from_bytes(digest[:15], 'big')}"

    patient_id = f"DRAWN-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    series = {}
    for key, datasets in base.series.items():
        series[key] = [copy.deepcopy(ds) for ds in datasets]
        for ds in series[key]:
            for keyword in UIDS:
                if keyword in ds:
                    setattr(ds, keyword, renamed(str(ds[keyword].value)))
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.PatientID, ds.PatientName, ds.PatientBirthDate = patient_id, "DRAWN^STUDY", "19600101"
    return Draft(base, patient_id, series, random)


def _one(drawn: Draft, expected: Expected, trouble: Trouble = Trouble.NONE) -> Plan:
    return Plan([drawn.all], {drawn.study_instance_uid: expected}, trouble)


# -- tags --------------------------------------------------------------------------------------------------------------


def without_names(drawn: Draft) -> Plan | None:
    for ds in drawn.all:
        for keyword in NAMES:
            if keyword in ds:
                del ds[keyword]
    return _one(drawn, drawn.result())


def without_body_part(drawn: Draft) -> Plan | None:
    for ds in drawn.all:
        if "BodyPartExamined" in ds:
            del ds.BodyPartExamined
    return _one(drawn, drawn.result())


def without_orientation(drawn: Draft) -> Plan | None:
    for ds in drawn.main:
        del ds.ImageOrientationPatient
    return _one(drawn, drawn.refusal("[Oo]rientation"))


def a_slice_is_missing(drawn: Draft) -> Plan | None:
    if drawn.base.application == LIMB:
        return None
    ordered = sorted(drawn.main, key=lambda ds: float(np.dot(_normal(ds), np.array(ds.ImagePositionPatient, float))))
    lost = ordered[drawn.random.randrange(2, len(ordered) - 2)]
    drawn.main.remove(lost)
    return _one(drawn, drawn.refusal("missing"))


def _normal(ds: Dataset) -> np.ndarray:
    across, down = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    return np.asarray(np.cross(across, down))


# -- patients ----------------------------------------------------------------------------------------------------------


def a_second_patient_in_the_series(drawn: Draft) -> Plan | None:
    for ds in drawn.main[len(drawn.main) // 2 :]:
        ds.PatientID = f"{drawn.patient_id}-OTHER"
    return _one(drawn, drawn.refusal("patient"))


def another_birth_date_in_another_series(drawn: Draft) -> Plan | None:
    if "adc" not in drawn.series:
        return None
    for ds in drawn.series["adc"]:
        ds.PatientBirthDate = "19750315"
    return _one(drawn, drawn.refusal("patient"))


def padding_and_an_empty_sex(drawn: Draft) -> Plan | None:
    for ds in drawn.main[::2]:
        ds.PatientID, ds.PatientSex = f"{drawn.patient_id} ", ""
    return _one(drawn, drawn.result())


def a_correction_of_the_whole_study(drawn: Draft) -> Plan | None:
    corrected = [copy.deepcopy(ds) for ds in drawn.all]
    for ds in corrected:
        ds.PatientID = f"{drawn.patient_id}-NEW"
    expected = drawn.result(patient_id=f"{drawn.patient_id}-NEW")
    return Plan([drawn.all, corrected], {drawn.study_instance_uid: expected})


def a_correction_of_half_the_study(drawn: Draft) -> Plan | None:
    corrected = [copy.deepcopy(ds) for ds in drawn.main[: len(drawn.main) // 2]]
    for ds in corrected:
        ds.PatientID = f"{drawn.patient_id}-NEW"
    expected = Expected(Outcome.WAIT, drawn.base.application, words="correct")
    return Plan([[*drawn.all, *corrected]], {drawn.study_instance_uid: expected})


# -- UIDs --------------------------------------------------------------------------------------------------------------


def a_copy_under_another_study(drawn: Draft) -> Plan | None:
    moved = [copy.deepcopy(ds) for ds in drawn.all]
    for ds in moved:
        ds.StudyInstanceUID = f"{ds.StudyInstanceUID}9"
    copied = str(moved[0].StudyInstanceUID)
    return Plan([drawn.all, moved], {drawn.study_instance_uid: drawn.result(), copied: drawn.result()})


# -- odd objects -------------------------------------------------------------------------------------------------------


def a_screenshot_in_the_series(drawn: Draft) -> Plan | None:
    odd = copy.deepcopy(drawn.main[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        if keyword in odd:
            del odd[keyword]
    _as_another(odd, SecondaryCaptureImageStorage)
    odd.ImageType, odd.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    drawn.main.insert(drawn.random.randrange(len(drawn.main)), odd)
    return _one(drawn, drawn.result())


def raw_data_in_the_series(drawn: Draft) -> Plan | None:
    odd = copy.deepcopy(drawn.main[0])
    del odd.PixelData
    _as_another(odd, RawDataStorage)
    drawn.main.append(odd)
    return _one(drawn, drawn.result())


def _as_another(ds: Dataset, sop_class_uid: str) -> None:
    ds.SOPInstanceUID = f"{ds.SOPInstanceUID}7"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.InstanceNumber = 9999


# -- scales and units --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Unit:
    """A unit of a map: how a rescale and a mapping name it, and the factor from the unit that the simulator stores."""

    rescale_type: str
    ucum: str
    factor: float


UNITS = {
    "adc": (
        _Unit("10-6 mm2/s", "10*-6.mm2/s", 1.0),
        _Unit("10-3 mm2/s", "10*-3.mm2/s", 1e-3),
        _Unit("mm2/s", "mm2/s", 1e-6),
    ),
    "t1_map": (_Unit("ms", "ms", 1.0), _Unit("s", "s", 1e-3)),
    "t2_map": (_Unit("ms", "ms", 1.0), _Unit("s", "s", 1e-3)),
}


def another_unit_of_a_map(drawn: Draft) -> Plan | None:
    """The unit stands in the mapping or in the rescale, never in both."""
    maps = sorted(UNITS.keys() & drawn.series.keys())
    if not maps:
        return None
    name = drawn.random.choice(maps)
    unit, mapped, step = drawn.random.choice(UNITS[name]), drawn.random.random() < 0.5, drawn.random.choice([0.1, 0.25])
    drawn.series.pop("dwi")  # or ADC would be fitted to it, and the map not used
    for ds in drawn.series[name]:
        _store(ds, ds.pixel_array / step)
        _tell(ds, step * unit.factor, unit.ucum if mapped else None, unit.rescale_type)
    return _one(drawn, drawn.result())


def two_scales_of_a_map_that_contradict(drawn: Draft) -> Plan | None:
    if "adc" not in drawn.series:
        return None
    drawn.series.pop("dwi")
    for ds in drawn.series["adc"]:
        _tell(ds, 1.0, "um2/s", "")
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 2, 0, "10-6 mm2/s"
    return _one(drawn, _without(drawn, "adc", "contradicts itself"))


def a_mapping_in_no_unit_beside_a_rescale(drawn: Draft) -> Plan | None:
    """Every image of a well-known vendor has these, and they contradict nothing."""
    for ds in drawn.main:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = ds.get("RescaleSlope", 1), 0, "US"
        ds.RealWorldValueMappingSequence = [_mapping(ds, float(ds.RescaleSlope), "1")]
    return _one(drawn, drawn.result())


def a_scale_of_each_slice_in_the_rescale(drawn: Draft) -> Plan | None:
    for ds in drawn.main:
        factor = drawn.random.uniform(0.6, 1.6)
        _store(ds, (ds.pixel_array * float(ds.get("RescaleSlope", 1) or 1)) / factor)
        ds.RescaleSlope, ds.RescaleIntercept = round(factor, 6), ds.get("RescaleIntercept", 0) or 0
    return _one(drawn, drawn.result())


def a_scale_of_each_slice_in_private_elements(drawn: Draft) -> Plan | None:
    if drawn.base.main == "series":  # real images keep their vendor
        return None
    for ds in drawn.main:
        ds.Manufacturer = "Philips Medical Systems"
        factor = drawn.random.uniform(0.6, 1.6)
        _store(ds, ds.pixel_array * float(ds.get("RescaleSlope", 1) or 1) * factor)
        block = ds.private_block(0x2005, PHILIPS_BLOCK, create=True)
        block.add_new(0x0E, "FL", factor)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1.5, 0, "normalized"
    return _one(drawn, drawn.result())


def _store(ds: Dataset, values: np.ndarray) -> None:
    ds.decompress() if ds.file_meta.TransferSyntaxUID.is_compressed else None
    stored = np.rint(np.clip(values, 0, 65535)).astype("<u2")
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = stored.tobytes()


def _tell(ds: Dataset, slope: float, ucum: str | None, rescale_type: str) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "RealWorldValueMappingSequence"):
        if keyword in ds:
            del ds[keyword]
    if ucum is None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope:.8g}", 0, rescale_type
    else:
        ds.RealWorldValueMappingSequence = Items([_mapping(ds, slope, ucum)])


def _mapping(ds: Dataset, slope: float, ucum: str) -> Dataset:
    mapping, unit = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = ucum, "UCUM", ucum
    mapping.MeasurementUnitsCodeSequence = [unit]
    first = "RealWorldValueFirstValueMapped"
    keyword_vr = "SS" if ds.PixelRepresentation else "US"
    mapping.add_new(first, keyword_vr, 0)
    mapping.add_new("RealWorldValueLastValueMapped", keyword_vr, 32767 if ds.PixelRepresentation else 65535)
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, 0.0
    mapping.LUTLabel = mapping.LUTExplanation = "drawn"
    return mapping


# -- sides -------------------------------------------------------------------------------------------------------------


def a_map_of_the_other_side(drawn: Draft) -> Plan | None:
    names = sorted(drawn.base.quantities.keys() & {"t1_map", "t2_map"})
    if not names:
        return None
    name = drawn.random.choice(names)
    for ds in drawn.series[name]:
        ds.Laterality = "L"
    return _one(drawn, _without(drawn, name))


def _without(drawn: Draft, name: str, words: str = "") -> Expected:
    """Return the result without the quantity of a map, which its report may explain in these `words`."""
    quantity = drawn.base.quantities[name]
    numbers = tuple(number for number in drawn.result().numbers if number is not quantity)
    return drawn.result(numbers=numbers, absent=(quantity.quantity,), words=words)


# -- the machine -------------------------------------------------------------------------------------------------------


def the_clock_is_set_back(drawn: Draft) -> Plan | None:
    return _one(drawn, drawn.result(), Trouble.CLOCK_BACK)


def the_clock_is_set_ahead(drawn: Draft) -> Plan | None:
    return _one(drawn, drawn.result(), Trouble.CLOCK_AHEAD)


def the_disk_hangs(drawn: Draft) -> Plan | None:
    return _one(drawn, drawn.result(), Trouble.DISK_HANGS)


DISTURBANCES: tuple[Disturbance, ...] = (
    without_names,
    without_body_part,
    without_orientation,
    a_slice_is_missing,
    a_second_patient_in_the_series,
    another_birth_date_in_another_series,
    padding_and_an_empty_sex,
    a_correction_of_the_whole_study,
    a_correction_of_half_the_study,
    a_copy_under_another_study,
    a_screenshot_in_the_series,
    raw_data_in_the_series,
    another_unit_of_a_map,
    two_scales_of_a_map_that_contradict,
    a_mapping_in_no_unit_beside_a_rescale,
    a_scale_of_each_slice_in_the_rescale,
    a_scale_of_each_slice_in_private_elements,
    a_map_of_the_other_side,
    the_clock_is_set_back,
    the_clock_is_set_ahead,
    the_disk_hangs,
)
