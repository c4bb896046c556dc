"""Headers of other scanners and other maps, beside those of the test data: the kinds that must not be mistaken."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from inference.contract.binding import MINIMUM_CONFIDENCE
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition, recognise_headers
from tests.inference.series.test_recogniser import EP, GR, SE, header, private, repeated

LONG_SE = {**SE, "RepetitionTime": 4000, "EchoTime": 21}
MAPS = {Kind.T1_MAP, Kind.T2_MAP, Kind.T2_STAR_MAP, Kind.FAT_FRACTION, Kind.DERIVED, Kind.ADC, Kind.TENSOR, Kind.FA}


def recognised(**attributes: Any) -> Recognition:
    return recognise_headers([header(place, **attributes) for place in range(4)])


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        (["DERIVED", "PRIMARY", "QMAP", "T1"], Kind.T1_MAP),
        (["DERIVED", "PRIMARY", "QMAP", "T2"], Kind.T2_MAP),
        (["DERIVED", "PRIMARY", "QMAP", "PD"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "MULTI_QMAP", "R2"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "QMAP"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "PD"], Kind.DERIVED),
        (["DERIVED", "SECONDARY", "T1"], Kind.DERIVED),  # a map or a picture: in any case no measured contrast
        (["ORIGINAL", "PRIMARY", "FATFRAC"], Kind.FAT_FRACTION),
        (["DERIVED", "PRIMARY", "FAT_FRACTION"], Kind.FAT_FRACTION),
        (["DERIVED", "PRIMARY", "R2_STAR"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "R2STAR"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "T2STAR"], Kind.T2_STAR_MAP),
        (["DERIVED", "PRIMARY", "M", "T1 MAP", "MOCO"], Kind.T1_MAP),  # MyoMaps
        (["DERIVED", "PRIMARY", "M", "T2_STAR MAP"], Kind.T2_STAR_MAP),
        (["DERIVED", "PRIMARY", "ECV"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "ECV MAP", "ND"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "M", "MTR"], Kind.DERIVED),
        (["DERIVED", "SECONDARY", "TTP"], Kind.DERIVED),
        (["DERIVED", "SECONDARY", "PERFUSION", "REL_CBF"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "KTRANS"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "EADC", "EADC"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ColFA"], Kind.FA),
        (["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"], Kind.DWI),
        (["DERIVED", "PRIMARY", "DIFFUSION", "MD"], Kind.TENSOR),
        (["DERIVED", "PRIMARY", "MNIP"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "M", "SWI", "MINIMUM"], Kind.DERIVED),
        (["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"], Kind.T2_STAR),
        (["ORIGINAL", "PRIMARY", "SW_M_FFE", "M", "FFE"], Kind.T2_STAR),
        (["ORIGINAL", "PRIMARY", "SW_P_FFE", "P", "FFE"], Kind.PHASE),
        (["DERIVED", "PRIMARY", "QSM"], Kind.DERIVED),
        (["DERIVED", "SECONDARY", "MIP", "CSA MIP"], Kind.DERIVED),
        (["DERIVED", "PRIMARY", "SOMETHING NEW"], Kind.DERIVED),
        (["ORIGINAL", "PRIMARY", "B1 MAP"], Kind.DERIVED),
        (["ORIGINAL", "PRIMARY", "PERFUSION_FFE", "PERFUSION", "FFE"], Kind.ASL),
    ],
)
@pytest.mark.parametrize("timing", [LONG_SE, GR, {**GR, "RepetitionTime": 250, "EchoTime": 18}])
def test_a_map_is_none_of_the_contrasts_of_its_sources(
    timing: dict[str, Any], image_type: list[str], kind: Kind
) -> None:
    found = recognised(**timing, ImageType=image_type)
    assert found.kind is kind, found.reasons
    assert found.confidence >= 0.5


@pytest.mark.parametrize(
    ("unit", "title", "kind"),
    [
        ("ms", "", Kind.DERIVED),
        ("ms", "T2 map", Kind.T2_MAP),
        ("msec", "T1 mapping", Kind.T1_MAP),
        ("mm2/s", "", Kind.ADC),
        ("10-3 mm2/s", "", Kind.ADC),
        ("10*-6.mm2/s", "", Kind.ADC),
        ("%", "", Kind.DERIVED),
        ("%", "PDFF", Kind.FAT_FRACTION),
        ("Hz", "", Kind.DERIVED),
        ("Hz", "B0 map", Kind.FIELD_MAP),
        ("1/s", "R2*", Kind.DERIVED),
        ("ml/100g/min", "CBF", Kind.DERIVED),
        ("mrad", "", Kind.PHASE),
        ("cm/s", "", Kind.OTHER),
        ("ppm", "", Kind.DERIVED),
        ("US", "", Kind.PDW),  # unspecified, and no microseconds
        ("normalized", "", Kind.PDW),
    ],
)
@pytest.mark.parametrize("coded", [False, True])
def test_a_unit_makes_a_map(unit: str, title: str, kind: Kind, coded: bool) -> None:
    changes: dict[str, Any] = {"SeriesDescription": title}
    if coded:
        code, mapping = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "1" if unit in ("US", "normalized") else unit, "UCUM"
        mapping.MeasurementUnitsCodeSequence = [code]
        changes |= {"RealWorldValueMappingSequence": [mapping], "RescaleType": "US"}
    else:
        changes["RescaleType"] = unit
    assert recognised(**LONG_SE, **changes).kind is kind


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({**GR, "RepetitionTime": 3000, "FlipAngle": 90, "EchoTime": 5}, Kind.PDW),
        ({**GR, "RepetitionTime": 3000, "FlipAngle": 90, "EchoTime": 25}, Kind.T2_STAR),
        ({**GR, "RepetitionTime": 150, "FlipAngle": 80}, Kind.T1W),
        ({**GR, "RepetitionTime": 500, "FlipAngle": 70}, Kind.T1W),
        ({**GR, "RepetitionTime": 800, "FlipAngle": 14}, Kind.PDW),
        ({**GR, "RepetitionTime": 30, "FlipAngle": 5}, Kind.PDW),
        ({**GR, "SequenceVariant": "MP", "InversionTime": 900}, Kind.T1W),
        ({**GR, "SequenceVariant": "MP", "InversionTime": 6000}, Kind.OTHER),
        ({**GR, "InversionTime": 5000, "ScanningSequence": ["GR", "IR"]}, Kind.OTHER),
        ({**GR, "InversionTime": 900, "ImageType": ["ORIGINAL", "PRIMARY", "R", "ND"]}, Kind.OTHER),
        ({**SE, "RepetitionTime": 500, "EchoTime": 10}, Kind.T1W),
        ({**SE, "RepetitionTime": 3000, "EchoTime": 35}, Kind.PDW),
        ({**SE, "RepetitionTime": 3000, "EchoTime": 60}, Kind.T2W),
        ({**SE, "RepetitionTime": 2500, "EchoTime": 12, "InversionTime": 350}, Kind.T1W),
    ],
)
@pytest.mark.parametrize("field", [1.5, 3.0, None])
def test_contrast_is_what_saturation_says(changes: dict[str, Any], kind: Kind, field: float | None) -> None:
    found = recognised(**changes, MagneticFieldStrength=field)
    assert found.kind is kind, found.reasons


@pytest.mark.parametrize(
    "changes",
    [
        {**SE, "RepetitionTime": 3000, "EchoTime": 50},
        {**SE, "RepetitionTime": 1350, "EchoTime": 12},
        {**GR, "RepetitionTime": 1000, "FlipAngle": 60, "EchoTime": 4},
        {**GR, "SequenceVariant": "MP", "InversionTime": 2800, "MagneticFieldStrength": 3},
        {**SE, "SeriesDescription": "SyMRI PD Map"},  # though nothing else in its header calls it a map
    ],
)
def test_where_physics_leaves_two_kinds_open_no_input_takes_the_series(changes: dict[str, Any]) -> None:
    found = recognised(**changes)
    assert found.kind is Kind.UNKNOWN or found.confidence < MINIMUM_CONFIDENCE, found.reasons


def enhanced(frame_type: list[str], contrast: str, timing: dict[str, Any], times: int = 1) -> Dataset:
    """Make an Enhanced object of three places, whose groups are all per frame."""
    ds = header(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", NumberOfFrames=3 * times)
    del ds.ScanOptions
    ds.PerFrameFunctionalGroupsSequence = []
    for n in range(3 * times):
        frame = Dataset()
        for name in ("MRTimingAndRelatedParameters", "MREcho", "MRImageFrameType", "PlanePosition", "FrameContent"):
            setattr(frame, f"{name}Sequence", [Dataset()])
        for name in ("PlaneOrientation", "PixelMeasures"):
            setattr(frame, f"{name}Sequence", [Dataset()])
        own = frame.MRTimingAndRelatedParametersSequence[0]
        for keyword, value in timing.items():
            if keyword == "EchoTime":
                frame.MREchoSequence[0].EffectiveEchoTime = value
            else:
                setattr(own, keyword, value)
        frame.MRImageFrameTypeSequence[0].FrameType = frame_type
        frame.MRImageFrameTypeSequence[0].AcquisitionContrast = contrast
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 5 * (n % 3)]
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        frame.PixelMeasuresSequence[0].PixelSpacing = [1, 1]
        frame.FrameContentSequence[0].TemporalPositionIndex = n // 3 + 1
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    return ds


TRAIN = {"RepetitionTime": 3000, "EchoTime": 30, "FlipAngle": 80, "RFEchoTrainLength": 0, "GradientEchoTrainLength": 63}
REFOCUSED = {"RepetitionTime": 3000, "EchoTime": 90, "RFEchoTrainLength": 16, "GradientEchoTrainLength": 0}


@pytest.mark.parametrize(
    ("frame_type", "contrast", "timing", "times", "kind"),
    [
        (["ORIGINAL", "PRIMARY", "T2", "NONE"], "T2", TRAIN, 1, Kind.OTHER),
        (["ORIGINAL", "PRIMARY", "T2", "NONE"], "T2", TRAIN, 4, Kind.BOLD),
        (["ORIGINAL", "PRIMARY", "T2", "NONE"], "T2", REFOCUSED, 1, Kind.T2W),
        (["DERIVED", "PRIMARY", "T2", "T2_MAP"], "T2", REFOCUSED, 1, Kind.T2_MAP),
        (["DERIVED", "PRIMARY", "T1", "T1_MAP"], "T1", REFOCUSED, 1, Kind.T1_MAP),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "DIFFUSION", TRAIN, 1, Kind.ADC),
        (["DERIVED", "PRIMARY", "PERFUSION", "MTT"], "PERFUSION", TRAIN, 1, Kind.DERIVED),
        (["DERIVED", "PRIMARY", "T1", "MINIMUM"], "T1", REFOCUSED, 1, Kind.DERIVED),
        (["DERIVED", "PRIMARY", "T1", "SUBTRACTION"], "T1", REFOCUSED, 1, Kind.DERIVED),
    ],
)
def test_frames_of_enhanced_objects(
    frame_type: list[str], contrast: str, timing: dict[str, Any], times: int, kind: Kind
) -> None:
    found = recognise_headers([enhanced(frame_type, contrast, timing, times)])
    assert (found.kind, found.volumes, found.problem) == (kind, times, ""), found.reasons


def test_times_contradict_the_declared_contrast() -> None:
    """Philips says T1 for every fast gradient echo; one that no T1 weights feeds no input that takes T1w."""
    slow = {"RepetitionTime": 3000, "EchoTime": 90, "RFEchoTrainLength": 16, "GradientEchoTrainLength": 0}
    found = recognise_headers([enhanced(["ORIGINAL", "PRIMARY", "T1", "NONE"], "T1", slow)])
    assert (found.kind, found.confidence) == (Kind.T2W, 0.5)


def test_gradient_echo_epi_of_philips_is_told_by_its_factor() -> None:
    plain = {**GR, "EchoTime": 30, "RepetitionTime": 3000, "FlipAngle": 80, "Manufacturer": "Philips"}
    series = [private(ds, 0x2001, "Philips Imaging DD 001", 0x13, "SL", 63) for ds in repeated(4, **plain)]
    assert recognise_headers(series).kind is Kind.BOLD
    fse = [private(ds, 0x2001, "Philips Imaging DD 001", 0x13, "SL", 1) for ds in repeated(1, 4, **LONG_SE)]
    assert recognise_headers(fse).kind is Kind.PDW


def test_research_sequences_of_ge() -> None:
    research = {
        **GR,
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
    }
    echoes = [header(z, **{**research, "EchoTime": 1.1 + 1.6 * n}) for n in range(12) for z in range(3)]
    assert recognise_headers(echoes).kind is Kind.T2_STAR
    b0_map = [private(header(z, **research), 0x0019, "GEMS_ACQU_01", 0x9C, "LO", "B0map") for z in range(3)]
    assert recognise_headers(b0_map).kind is Kind.FIELD_MAP
    assert recognised(**research).kind is Kind.UNKNOWN


def test_a_look_locker_series_with_phase_images_is_the_source_of_a_map() -> None:
    """MOLLI: TrueFISP or FLASH images at many times after the inversion, magnitude and phase."""
    molli = [
        header(0, **{**GR, "InversionTime": ti, "ImageType": ["ORIGINAL", "PRIMARY", part, "ND"], "TriggerTime": 500})
        for part in "MP"
        for ti in (120, 200, 1010, 1100, 1900, 2000, 2800, 3700)
    ]
    assert recognise_headers(molli).kind is Kind.OTHER


def test_images_without_a_b_value_beside_weighted_ones_are_b_0() -> None:
    def canon(place: int, comment: str, **changes: Any) -> Dataset:
        return header(place, **{**EP, **changes}, Manufacturer="TOSHIBA_MEC", ImageComments=comment)

    weighted = [canon(place, "b=1500(0.4,0.1,-0.9)") for place in range(3)]
    plain = [canon(place, "") for place in range(3)]
    assert recognise_headers([*plain, *weighted]).b_values == (0, 1500)
    other_echo = [canon(place, "", EchoTime=99) for place in range(3)]
    assert recognise_headers([*other_echo, *weighted]).b_values == (1500,)
    derived = [canon(place, "", ImageType=["DERIVED", "SECONDARY", "OTHER"]) for place in range(3)]
    assert recognise_headers([*derived, *weighted]).b_values == (1500,)
