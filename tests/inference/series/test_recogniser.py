"""The recogniser on real series and on headers as scanners write them."""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RawDataStorage

from inference.series.kinds import Kind
from inference.series.recogniser import read_headers, recognise_headers
from inference.series.site_table import SiteRule
from storage.blobs import file_blobs
from tests.inference.series.table import LABELS, Row, counted, folders, labels, printed, rows


@pytest.fixture(scope="module")
def table(test_data: Path) -> list[Row]:
    return list(rows(test_data))


@pytest.mark.parametrize("which", LABELS)
def test_every_series_of_the_test_data_has_a_label(test_data: Path, which: str) -> None:
    if not (test_data / which).is_dir():
        pytest.skip(f"no {which} beside the test data")
    assert folders(test_data / which) == {label["folder"] for label in labels(which)}


def test_real_series_are_recognised_with_and_without_their_names(table: list[Row]) -> None:
    told = "\n".join(printed(table))
    assert all(row.right for row in table), told
    assert all(row.right_blanked for row in table if not row.left_open), told


def test_where_only_a_name_tells_nothing_is_guessed_without_it(table: list[Row]) -> None:
    for row in table:
        if row.left_open:
            assert (row.blanked.kind, row.blanked.confidence) == (Kind.DERIVED, 0.5), row.label["folder"]


def test_what_else_is_told_of_real_series_is_true(table: list[Row]) -> None:
    assert {row.label["folder"]: row.untrue for row in table if row.untrue} == {}


def test_the_summary_is_in_the_documentation(table: list[Row]) -> None:
    if not any("symri" in row.label["folder"] for row in table):
        pytest.skip("no cases beside the test data")
    documented = (Path(__file__).parents[3] / "docs" / "series.md").read_text(encoding="utf-8")
    assert "\n".join(counted(table)) in documented, "\n".join(counted(table))


def test_repeats_are_counted(table: list[Row]) -> None:
    repeated = {row.label["folder"]: row.named.phases for row in table if row.named.phases > 1}
    assert repeated == {
        "d463_philips_dce_mag_phase": 5,
        "ge_mr750_dynamic_10phases": 10,
        "philips_enhanced_fe_epi": 4,
        "siemens_prisma_epi_mosaic": 6,
    }


def test_a_name_alone_gives_little_confidence(test_data: Path) -> None:
    found = recognise_headers(read_headers(file_blobs((test_data / "sarcoma/STS_001/MR_T1").iterdir())))
    assert (found.kind, found.plane, found.slices) == (Kind.T1W, "axial", 59)
    assert 0.3 <= found.confidence < 0.5
    assert "description" in found.reasons[0]


def test_what_is_no_image_is_passed_over(test_data: Path) -> None:
    """Philips sends its raw data with the UID of the images' series."""
    mprage = read_headers(file_blobs(sorted((test_data / "mr/philips_elition_mprage_classic").iterdir())))
    raw = read_headers(file_blobs((test_data / "mr/philips_elition_rawdata_nonimage").iterdir()))
    found = recognise_headers([*raw, *mprage])
    assert (found.kind, found.slices, found.volumes, found.problem) == (Kind.T1W, 170, 1, "")


def test_170_headers_take_less_than_a_second(test_data: Path) -> None:
    headers = read_headers(file_blobs((test_data / "mr/philips_elition_mprage_classic").iterdir()))
    begin = time.process_time()
    recognise_headers(headers)
    assert time.process_time() - begin < 1.0


def whatever(folder: Path) -> Iterator[list[Dataset]]:
    """Yield everything in `folder` that can be opened at all, by series."""
    series: defaultdict[str, list[Dataset]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True)
        except Exception:  # reading is the business of others
            continue
        series[f"{path.parent} {ds.get('SeriesInstanceUID')}"].append(ds)
    yield from series.values()


@pytest.mark.parametrize("folder", ["malformed", "conformance"])
def test_whatever_comes_is_answered_with_a_reason(test_data: Path, folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for headers in whatever(test_data / folder):
            found = recognise_headers(headers)
            assert all(found.reasons)
            if found.modality not in ("MR", "CT", "") and not any("Rows" in ds for ds in headers):
                assert found.kind is Kind.NON_IMAGE
            if found.modality == "SEG":
                assert found.kind is Kind.DERIVED


# -- what the test data lack: headers as scanners write them -----------------------------------------------------------


def header(place: int = 0, **attributes: Any) -> Dataset:
    """Make the header of an axial slice, `place` x 5 mm up, with `attributes` of the standard by their keywords."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.{place + 1}"
    ds.SeriesInstanceUID, ds.Modality, ds.Rows, ds.Columns = "1.2.3", "MR", 64, 64
    ds.PixelSpacing, ds.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 5 * place]
    ds.ImageType, ds.ScanOptions = ["ORIGINAL", "PRIMARY", "M"], ""
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def private(ds: Dataset, group: int, creator: str, element: int, vr: str, value: Any, block: int = 0x10) -> Dataset:
    """Add a private element. An empty `creator` is left out, as de-identification does."""
    if creator:
        ds.add_new(group << 16 | block, "LO", creator)
    ds.add_new(group << 16 | block << 8 | element, vr, value)
    return ds


SE = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 600, "EchoTime": 12, "FlipAngle": 90}
GR = {"ScanningSequence": "GR", "SequenceVariant": "SP", "RepetitionTime": 4, "EchoTime": 1.8, "FlipAngle": 12}
EP = {
    "ScanningSequence": ["EP", "GR"],
    "SequenceVariant": "SK",
    "RepetitionTime": 1500,
    "EchoTime": 30,
    "FlipAngle": 60,
}
LATE = {**GR, "ScanningSequence": ["GR", "IR"], "RepetitionTime": 700, "InversionTime": 300, "TriggerTime": 600}
STEADY = {**GR, "SequenceVariant": ["SK", "SS"], "RepetitionTime": 3, "FlipAngle": 60}


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({**SE, "SeriesDescription": "t2 tse tra"}, Kind.T1W),  # whatever its name says
        ({**SE, "RepetitionTime": 4000, "EchoTime": 90}, Kind.T2W),
        ({**SE, "RepetitionTime": 4000, "EchoTime": 15}, Kind.PDW),
        ({**SE, "RepetitionTime": 1200, "EchoTime": 80, "EchoTrainLength": 128}, Kind.T2W),  # single shot
        ({**SE, "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}, Kind.FLAIR),
        ({**SE, "RepetitionTime": 4500, "EchoTime": 40, "InversionTime": 160}, Kind.STIR),
        ({**SE, "InversionTime": 100}, Kind.T1W),  # of SPAIR, which inverts fat alone
        ({**SE, "ScanningSequence": ["SE", "IR"], "InversionTime": 160}, Kind.STIR),
        ({**SE, "RepetitionTime": 2000, "EchoTime": 10, "InversionTime": 860}, Kind.T1W),  # "T1 FLAIR"
        ({**SE, "RepetitionTime": None, "SeriesDescription": "t2 tse tra"}, Kind.T2W),  # the name is all there is
        ({**SE, "RepetitionTime": None, "SeriesDescription": "knee"}, Kind.UNKNOWN),
        ({**GR, "SeriesDescription": "dwi"}, Kind.T1W),
        ({**GR, "RepetitionTime": 500, "EchoTime": 17, "FlipAngle": 25}, Kind.T2_STAR),
        (STEADY, Kind.OTHER),
        ({**STEADY, "RepetitionTime": 300, "FlipAngle": 65}, Kind.OTHER),  # TR of a shot, as Siemens states it
        ({**STEADY, "SequenceVariant": ["SS", "SP", "SK"]}, Kind.T1W),  # GE: spoiled
        ({**STEADY, "FlipAngle": 2}, Kind.PDW),
        *[({**GR, "SequenceName": name}, Kind.OTHER) for name in ("*tfi2d1_15", "*de3d1", "*psif3d1", "BFFE")],
        ({**GR, "SequenceName": "*tfl3d1"}, Kind.T1W),
        ({**GR, "AngioFlag": "Y"}, Kind.OTHER),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "MIP"]}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "M", "ND", "SUB"]}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", "PROCESSED"]}, Kind.DERIVED),  # GE: Positive Enhancement Integral
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "KEP"]}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "VP"]}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", "WASH_IN", "M", "ND"]}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", "OTHER"], "SeriesDescription": "sSUB"}, Kind.DERIVED),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR", "", "CSAPARALLEL"]}, Kind.T1W),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, Kind.T1W),
        ({**GR, "ImageType": ["DERIVED", "SECONDARY", ""]}, Kind.T1W),  # compressed, or changed by de-identification
        ({**GR, "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "DIXON", "WATER"]}, Kind.WATER),  # Siemens
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, Kind.FAT),  # GE
        ({**GR, "ImageType": ["ORIGINAL", "PRIMARY", "IP", "IP", "DERIVED"]}, Kind.IN_PHASE),  # Philips
        ({**GR, "ImageType": ["ORIGINAL", "PRIMARY", "M", "OPP_PHASE"]}, Kind.OPPOSED_PHASE),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "FF", "FF", "DERIVED"]}, Kind.FAT_FRACTION),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "T1 MAP", "T1", "UNSPECIFIED"]}, Kind.T1_MAP),
        ({**SE, "ImageType": ["DERIVED", "PRIMARY", "M", "ND", "T2 MAP"]}, Kind.T2_MAP),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY", "M", "T2_STAR MAP"]}, Kind.T2_STAR_MAP),
        ({**GR, "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, Kind.PHASE),
        ({**LATE, "ContrastBolusAgent": "gadobutrol"}, Kind.LGE),
        ({**LATE, "ImageType": ["ORIGINAL", "PRIMARY", "M", "PSIR"]}, Kind.LGE),
        ({**LATE, "TriggerTime": None, "SequenceVariant": "MP", "InversionTime": 900}, Kind.T1W),  # MPRAGE
        ({**LATE, "TriggerTime": None, "InversionTime": 450}, Kind.T1W),  # prepared, and no heart
        ({**EP, "SequenceName": "*ep_b800#3"}, Kind.DWI),  # Siemens, without its private elements
        ({**EP, "ImageComments": "b=1000(0.445,0.000,0.895)", "Manufacturer": "TOSHIBA_MEC"}, Kind.DWI),
        ({**EP, "SequenceName": "tgse_pasl"}, Kind.ASL),
        ({**EP, "ImageType": ["DERIVED", "SECONDARY"], "DiffusionBValue": 800}, Kind.DERIVED),  # but what?
        ({**SE, "ImageType": ["DERIVED", "SECONDARY"], "SeriesDescription": "T2 map"}, Kind.T2_MAP),
        (
            {**EP, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVALUE"], "DiffusionBValue": 1400,
             "SeriesDescription": "ep2d_diff_b50_800_ADC"},
            Kind.DWI,
        ),
        (
            {**SE, "ImageType": ["DERIVED", "PRIMARY"], "SeriesDescription": "", "ProtocolName": "T1 mapping"},
            Kind.T1W,
        ),
        ({**GR, "ImageType": ["DERIVED", "PRIMARY"], "SeriesDescription": "t1_vibe_fa12"}, Kind.T1W),  # flip angle
        ({**EP, "ImageType": ["DERIVED", "PRIMARY"], "SeriesDescription": "dti_FA"}, Kind.FA),
        ({"Modality": "CT"}, Kind.CT),
        ({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Kind.LOCALIZER),
        ({**SE, "SamplesPerPixel": 3}, Kind.DERIVED),
    ],
)  # fmt: skip
def test_physics_decides(attributes: dict[str, Any], kind: Kind) -> None:
    found = recognise_headers([header(place, **attributes) for place in range(4)])
    assert found.kind is kind, found.reasons


@pytest.mark.parametrize(
    ("manufacturer", "element", "value", "expected"),
    [
        ("SIEMENS", (0x0019, "SIEMENS MR HEADER", 0x0C, "IS"), 800, 800),
        ("GE MEDICAL SYSTEMS", (0x0043, "GEMS_PARM_01", 0x39, "IS"), [1000000700, 8, 0, 0], 700),
        ("GE MEDICAL SYSTEMS", (0x0043, "GEMS_PARM_01", 0x39, "UN"), b"700\\8\\0\\0 ", 700),
        ("GE MEDICAL SYSTEMS", (0x0043, "", 0x39, "IS"), [700, 8, 0, 0], 700),  # its creator was removed
        ("Philips", (0x2001, "Philips Imaging DD 001", 0x03, "FL"), 600.0, 600),
        ("UIH", (0x0065, "Image Private Header", 0x09, "FD"), 929.75, 929.75),
        ("UIH", (0x0065, "Image Private Header", 0x09, "UN"), b"\x00\x00\x00\x00\x00\x0e\x8d@", 929.75),
    ],
)  # fmt: skip
def test_b_values_of_every_vendor(
    manufacturer: str, element: tuple[int, str, int, str], value: Any, expected: float
) -> None:
    weighted = [private(header(p, **EP, Manufacturer=manufacturer), *element, value) for p in range(3)]
    plain = [header(place, **EP, Manufacturer=manufacturer) for place in range(3)]
    found = recognise_headers([*plain, *weighted])  # images without weighting belong to the others
    assert (found.kind, found.b_values) == (Kind.DWI, (0, expected))  # what states none is b = 0


def test_an_element_of_another_creator_is_no_b_value() -> None:
    """A block belongs to the creator that it names: here somebody else took the usual one."""
    ds = private(header(**EP, Manufacturer="GE MEDICAL SYSTEMS"), 0x0043, "SOMEBODY", 0x39, "IS", 700)
    assert recognise_headers([ds]).b_values == ()
    other = private(header(**EP), 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", 800, block=0x11)
    assert recognise_headers([other]).b_values == (800,)


@pytest.mark.parametrize(
    ("state", "spoiling", "kind"),
    [
        ("FREE_PRECESSION", "NONE", Kind.OTHER),
        ("TRANSVERSE", "NONE", Kind.OTHER),
        ("TIME_REVERSED", "NONE", Kind.OTHER),
        ("LONGITUDINAL", "RF", Kind.T1W),
        ("NONE", "NONE", Kind.T1W),
    ],
)
def test_enhanced_objects_name_their_steady_state(state: str, spoiling: str, kind: Kind) -> None:
    shared, frame = Dataset(), Dataset()
    shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = [Dataset()], [Dataset()]
    shared.MRTimingAndRelatedParametersSequence[0].RepetitionTime = 4
    shared.MRTimingAndRelatedParametersSequence[0].FlipAngle = 25
    shared.MREchoSequence[0].EffectiveEchoTime = 1.8
    ds = header(EchoPulseSequence="GRADIENT", SteadyStatePulseSequence=state, Spoiling=spoiling)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], [frame]
    assert recognise_headers([ds]).kind is kind


def repeated(times: int, places: int = 2, **attributes: Any) -> list[Dataset]:
    return [
        header(place, **attributes, TemporalPositionIdentifier=t + 1, AcquisitionTime=f"1000{t % 60:02}")
        for t in range(times)
        for place in range(places)
    ]


@pytest.mark.parametrize(
    ("series", "kind", "phases"),
    [
        (repeated(5, **GR, ContrastBolusAgent="gadobutrol"), Kind.DYNAMIC, 5),
        (repeated(5, **GR), Kind.DYNAMIC, 5),
        (repeated(40, **GR, ContrastBolusAgent="gadobutrol"), Kind.PERFUSION, 40),
        (repeated(40, **EP, ContrastBolusAgent="gadobutrol"), Kind.PERFUSION, 40),
        (repeated(40, **EP), Kind.BOLD, 40),
        (repeated(40, **STEADY, TriggerTime=120, ContrastBolusAgent="gadobutrol"), Kind.PERFUSION, 40),  # of the heart
        ([header(z, **STEADY, TriggerTime=30 * t + 1) for t in range(25) for z in range(3)], Kind.CINE, 25),
        ([header(z, **LATE) for z in range(8)], Kind.LGE, 1),
        ([header(0, **{**LATE, "InversionTime": ti}) for ti in (100, 180, 260, 1000, 1900)], Kind.OTHER, 1),  # MOLLI
        (
            [header(z, **{**GR, "FlipAngle": a}, AcquisitionNumber=a) for a in (2, 5, 15) for z in range(3)],
            Kind.OTHER,
            1,
        ),
    ],
)
def test_repeats_of_a_place_decide(series: list[Dataset], kind: Kind, phases: int) -> None:
    found = recognise_headers(series)
    assert (found.kind, found.phases) == (kind, phases), found.reasons


def test_several_images_of_a_dixon_acquisition_in_one_series() -> None:
    types = [["ORIGINAL", "PRIMARY", kind, kind, "DERIVED"] for kind in ("W", "F", "IP", "OP")]
    found = recognise_headers([header(place, **{**GR, "ImageType": kind}) for kind in types for place in range(4)])
    assert (found.kind, found.volumes) == (Kind.DIXON, 4)


def test_two_echoes_in_and_opposed_phase_need_no_name() -> None:
    echoes = [{**GR, "EchoTime": te, "RepetitionTime": 150, "FlipAngle": 80} for te in (2.3, 4.6)]
    found = recognise_headers([header(place, **e, MagneticFieldStrength=1.5) for e in echoes for place in range(4)])
    assert (found.kind, found.echo_times) == (Kind.DIXON, (2.3, 4.6))


def test_many_echoes_of_a_place_are_the_source_of_a_map() -> None:
    spin = [header(z, **{**SE, "RepetitionTime": 2500, "EchoTime": te}) for te in (10, 20, 30, 40) for z in range(4)]
    gradient = [header(z, **{**GR, "EchoTime": te}) for te in (1, 2.2, 3.4, 4.6, 5.8, 7) for z in range(4)]
    assert (recognise_headers(spin).kind, recognise_headers(gradient).kind) == (Kind.T2W, Kind.T2_STAR)


def test_a_localizer_has_few_slices_in_several_planes() -> None:
    planes = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    series = [header(place, **GR) for place in range(9)]
    for number, ds in enumerate(series):
        ds.ImageOrientationPatient = planes[number % 3]
    assert recognise_headers(series).kind is Kind.LOCALIZER


@pytest.mark.parametrize("directions", [None, "", 1, [1, 0, 0, 0, 1], [1, 0, 0, 0, "", 0], [0, 0, 0, 0, 0, 0]])
def test_malformed_directions_leave_the_plane_open(directions: Any) -> None:
    found = recognise_headers([header(place, **SE, ImageOrientationPatient=directions) for place in range(3)])
    assert (found.kind, found.plane) == (Kind.T1W, None)
    assert "ImageOrientationPatient" in found.problem


@pytest.mark.parametrize(
    ("attributes", "suppressed"),
    [
        ({"ScanOptions": ["PFF", "FS"]}, True),
        ({"ScanOptions": "PFF"}, False),
        ({"ScanOptions": None, "SeriesDescription": "T1 SPAIR"}, True),
        ({"ScanOptions": "", "SeriesDescription": "t1_tse_fs_tra"}, True),  # empty where nobody filled it in
        ({"ScanOptions": "PFF", "SeriesDescription": "T1 fat sat"}, False),  # the header stands above its name
        ({"ScanOptions": "", "SeriesDescription": "T1 inspiration, respiratory gated"}, False),
        ({"ScanOptions": "", "SeriesDescription": "Ax T1 no FS"}, False),
        ({"ScanOptions": "", "SeriesDescription": "t1 non fat sat"}, False),
        ({"ScanOptions": "", "SeriesDescription": "T1 w/o fatsat"}, False),
        ({"InversionTime": 150, "RepetitionTime": 4000}, True),
    ],
)
def test_suppression_of_fat(attributes: dict[str, Any], suppressed: bool) -> None:
    assert recognise_headers([header(**{**SE, **attributes})]).fat_suppressed is suppressed


def test_a_header_that_is_silent_about_fat_leaves_it_open() -> None:
    ds = header(**SE)
    del ds.ScanOptions
    assert recognise_headers([ds]).fat_suppressed is None
    philips = private(header(**SE, Manufacturer="Philips"), 0x2001, "Philips Imaging DD 001", 0x21, "CS", "Y")
    assert recognise_headers([philips]).fat_suppressed is True


def test_the_protocol_of_ge_is_that_of_the_examination() -> None:
    ge = {**SE, "Manufacturer": "GE MEDICAL SYSTEMS", "ProtocolName": "THIGH T1 STIR +C"}
    found = recognise_headers([header(**ge, SeriesDescription="Ax T1")])
    assert (found.kind, found.fat_suppressed, found.contrast) == (Kind.T1W, False, False)
    unnamed = recognise_headers([header(**ge, SeriesDescription="")])
    assert (unnamed.kind, unnamed.fat_suppressed, unnamed.contrast) == (Kind.T1W, True, True)
    siemens = recognise_headers([header(**{**ge, "Manufacturer": "SIEMENS"}, SeriesDescription="Ax T1")])
    assert (siemens.fat_suppressed, siemens.contrast) == (True, True)


@pytest.mark.parametrize(
    ("attributes", "contrast", "phase"),
    [
        ({"Modality": "CT"}, False, "pre-contrast"),
        ({"Modality": "CT", "ContrastBolusAgent": "NONE"}, False, "pre-contrast"),
        ({"Modality": "CT", "ContrastBolusStartTime": "100000", "AcquisitionTime": "100030.5"}, True, "arterial"),
        ({"Modality": "CT", "ContrastBolusStartTime": "100000", "AcquisitionTime": "100110"}, True, "portal venous"),
        ({"Modality": "CT", "ContrastBolusStartTime": "100000", "AcquisitionTime": "102000"}, True, "delayed"),
        ({"Modality": "CT", "ContrastBolusAgent": "IOHEXOL", "SeriesDescription": "Late"}, True, "delayed"),
        ({**GR, "ContrastBolusStartTime": "100000", "AcquisitionTime": "102000"}, True, "hepatobiliary"),
        ({**GR, "ContrastBolusAgent": "gadobutrol"}, True, ""),
        (
            {**GR, "SeriesDescription": "t1 vibe fs +C portal"},
            True,
            "portal venous",
        ),  # technologists leave the rest empty
        ({**GR, "SeriesDescription": "t1 vibe fs pre gd"}, False, ""),
        ({**GR, "SeriesDescription": "arterial spin labelling"}, False, ""),
        (GR, False, ""),
    ],
)
def test_contrast_agent_and_phase(attributes: dict[str, Any], contrast: bool, phase: str) -> None:
    found = recognise_headers([header(place, **attributes) for place in range(3)])
    assert (found.contrast, found.phase) == (contrast, phase)


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (SiteRule(Kind.T1_MAP, station_name="MR7", series_description="*MAP*"), True),
        (SiteRule(Kind.T1_MAP, station_name="MR8", series_description="*MAP*"), False),
        (SiteRule(Kind.T1_MAP, protocol_name="map?"), False),
    ],
)
def test_a_site_names_the_kind_outright(rule: SiteRule, named: bool) -> None:
    series = [header(z, **SE, StationName="MR7", SeriesDescription="our map 2", FlowCompensation="") for z in range(3)]
    found = recognise_headers(
        series, [rule, SiteRule(Kind.PDW, series_description="*", fat_suppressed=True, contrast=True)]
    )
    assert (found.kind, found.confidence) == (Kind.T1_MAP if named else Kind.PDW, 1.0)
    assert "site" in found.reasons[0]
    assert (found.fat_suppressed, found.contrast) == ((False, False) if named else (True, True))


def test_a_site_makes_no_image_of_what_is_none() -> None:
    ds = header()
    del ds.Rows
    rules = [SiteRule(Kind.T1W, series_description="*")]
    assert recognise_headers([ds], rules).kind is Kind.UNKNOWN
    ds.SOPClassUID = RawDataStorage
    assert recognise_headers([ds], rules).kind is Kind.NON_IMAGE


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"SeriesNumber": 3, "SeriesDescription": " T1  TSE\ttra "}, (3, "T1 TSE tra")),
        ({"SeriesNumber": None, "SeriesDescription": ""}, (None, "")),
        ({}, (None, "")),
    ],
)
def test_a_series_keeps_its_number_and_its_description(
    attributes: dict[str, Any], told: tuple[int | None, str]
) -> None:
    for images in ({}, {"Rows": None}):  # and what holds no image
        ds = header(**{**SE, **attributes, **images})
        found = recognise_headers([ds])
        assert (found.number, found.description) == told
