"""What a series is, and which one feeds an input."""

from dataclasses import replace
from pathlib import Path

import pytest

from inference.binding import bind, feeds_inputs
from inference.inputs import InputRule
from inference.series import Facts, Kind, SeriesDescription, judge, read_headers, recognise


@pytest.mark.parametrize(
    ("series", "kind", "plane", "slices"),
    [
        ("mr/philips_elition_mprage_classic", Kind.T1W, "sagittal", 170),
        ("mr/siemens_xa30_study/5_anat-T1w_acq-tfl", Kind.T1W, "sagittal", 96),
        ("mr/siemens_prisma_t1_sag_HFDR", Kind.T1W, "sagittal", 35),
        ("mr/siemens_xa30_study/11_DWI_dir80_PA", Kind.ADC, "axial", 39),
        ("mr/siemens_xa30_study/12_DWI_dir80_PA", Kind.DWI, "axial", 39),
        ("mr/siemens_xa30_study/9_gre_field_mapping", Kind.OTHER, "axial", 33),
        ("mr/siemens_xa30_study/27_asl_2d_tra", Kind.OTHER, "axial", 12),
        ("mr/ge_hdxt_prostate_adc", Kind.ADC, "axial", 20),
        ("mr/canon_galan_dti_enhanced_oblique", Kind.DWI, "axial", 40),
        ("mr/small/philips_dti_001", Kind.DWI, "axial", 8),
        ("mr/small/hitachi_anatomical_001", Kind.PDW, "sagittal", 4),
        ("malformed/geometry_slicecount_001", Kind.FLAIR, "sagittal", 2),
        ("sarcoma/STS_001/MR_T1", Kind.T1W, "axial", 59),
    ],
)
def test_real_series_are_recognised(test_data: Path, series: str, kind: Kind, plane: str, slices: int) -> None:
    found = recognise(read_headers(p for p in (test_data / series).rglob("*") if p.is_file()))
    assert (found.kind, found.plane, found.slices) == (kind, plane, slices)


def test_a_name_alone_gives_little_confidence(test_data: Path) -> None:
    found = recognise(read_headers((test_data / "sarcoma/STS_001/MR_T1").iterdir()))
    assert found.confidence < 0.5
    assert "description" in found.reasons[0]


SPIN_ECHO = Facts(
    image_type=frozenset({"ORIGINAL", "PRIMARY"}), sequence=frozenset({"SE"}), variant=frozenset({"SK"}), declared="",
    repetition_time=600, echo_time=12, inversion_time=None, flip_angle=90, fat_suppressed=False,
    b_values=frozenset(), description="t2 tse tra",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, Kind.T1W),  # although its description says t2
        ({"repetition_time": 4000, "echo_time": 90}, Kind.T2W),
        ({"repetition_time": 4000, "echo_time": 15}, Kind.PDW),
        ({"repetition_time": 9000, "echo_time": 120, "inversion_time": 2500}, Kind.FLAIR),
        ({"repetition_time": 4500, "echo_time": 40, "inversion_time": 160}, Kind.T2W),
        ({"b_values": frozenset({0.0, 800.0})}, Kind.DWI),
        ({"image_type": frozenset({"DERIVED", "ADC"})}, Kind.ADC),
        ({"repetition_time": None}, Kind.T2W),  # now the description is all there is
        ({"repetition_time": None, "description": "loc"}, Kind.UNKNOWN),
        ({"sequence": frozenset({"GR"}), "repetition_time": 5, "echo_time": 2, "flip_angle": 12}, Kind.T1W),
        ({"sequence": frozenset({"GR"}), "repetition_time": 30, "echo_time": 25, "flip_angle": 12}, Kind.OTHER),
    ],
)
def test_physics_decides(change: dict[str, object], kind: Kind) -> None:
    assert judge(replace(SPIN_ECHO, **change)).kind is kind  # type: ignore[arg-type]


def description(uid: str, **change: object) -> SeriesDescription:
    plain = SeriesDescription(
        uid, "MR", Kind.T1W, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1,
    )  # fmt: skip
    return replace(plain, **change)  # type: ignore[arg-type]


def test_the_best_series_is_taken_and_every_other_one_told_why_not() -> None:
    series = [
        description("1.1", contrast=True),
        description("1.2", slices=20),
        description("1.3"),
        description("1.4", kind=Kind.T2W),
        description("1.5", problem="1 slice(s) missing", volumes=0),
        description("1.6", modality="CT"),
    ]
    binding = bind([InputRule("t1w", kind="T1w", minimum_slices=10)], series)
    assert binding.inputs == {"t1w": "1.3"}
    reasons = {d.series_instance_uid: d.reason for d in binding.decisions}
    assert reasons["1.1"].startswith("fits, but series 1.3 fits better")
    assert reasons["1.4"] == "is T2w, not T1w (spin echo)"
    assert reasons["1.5"] == "cannot be used: 1 slice(s) missing"
    assert reasons["1.6"] == "modality is CT, not MR"


@pytest.mark.parametrize(("body_part", "accepted"), [("THIGH", True), ("", True), ("BRAIN", False)])
def test_a_limb_model_takes_no_head(body_part: str, accepted: bool) -> None:
    rule = InputRule("t1w", kind="T1w", body_parts=("THIGH", "KNEE"))
    binding = bind([rule], [description("1.1", body_part=body_part)])
    assert binding.accepted is accepted
    assert accepted or "shows BRAIN, none of THIGH, KNEE" in binding.reason


def test_a_missing_input_says_what_is_missing() -> None:
    binding = bind([InputRule("t2w", kind="T2w")], [description("1.1")])
    assert not binding.accepted
    assert binding.reason == (
        "no series fits input 't2w' (MR, T2w, at least 3 slices): series 1.1 is T1w, not T2w (spin echo)"
    )


def test_an_optional_input_may_be_missing() -> None:
    rules = [InputRule("t1w", kind="T1w"), InputRule("t2w", kind="T2w", required=False)]
    assert bind(rules, [description("1.1")]).inputs == {"t1w": "1.1"}


def test_one_series_feeds_one_input() -> None:
    binding = bind([InputRule("a", kind="T1w"), InputRule("b", kind="T1w")], [description("1.1"), description("1.2")])
    assert sorted(binding.inputs.values()) == ["1.1", "1.2"]


@pytest.mark.parametrize(
    ("sop_class_uid", "modality", "feeds"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", "MR", True),
        ("1.2.840.10008.5.1.4.1.1.4.1", "MR", True),
        ("1.2.840.10008.5.1.4.1.1.88.34", "SR", False),
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", False),
        ("1.2.840.10008.5.1.4.1.1.66", "MR", False),  # Raw Data
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", False),
    ],
)
def test_only_images_can_change_a_result(sop_class_uid: str, modality: str, feeds: bool) -> None:
    assert feeds_inputs(sop_class_uid, modality) is feeds
