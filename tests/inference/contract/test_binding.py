"""The binding of series to inputs, and the volume of a series that is meant."""

from dataclasses import replace
from pathlib import Path

import pytest

from inference.contract.binding import bind
from inference.contract.inputs import BValues, InputRule, input_key, selected, split_key
from inference.headers.image_content import COMPONENT
from inference.headers.images import feeds_inputs
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition, read_headers, recognise_headers
from storage.blobs import file_blobs
from storage.errors import InputRefused


def series(uid: str, kind: Kind = Kind.T1W, **change: object) -> Recognition:
    plain = Recognition(
        uid, "MR", kind, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1, number=int(uid),
    )  # fmt: skip
    return replace(plain, **change)  # type: ignore[arg-type]


def refusal(rule: InputRule, one: Recognition) -> str:
    """Return why the series is refused, an empty text if it is taken."""
    (decision,) = bind([rule], [one]).decisions
    return "" if decision.taken else decision.reason


@pytest.mark.parametrize(
    ("prefer", "taken"),
    [
        ((), "3"),  # the most slices
        (("3D",), "2"),
        (("coronal", "3D"), "4"),
        (("sagittal", "3D"), "2"),  # none is sagittal
        (("fat suppressed", "3D"), "5"),
    ],
)
def test_the_first_preference_weighs_most(prefer: tuple[str, ...], taken: str) -> None:
    found = bind(
        [InputRule("t1w", kind="T1w", prefer=prefer)],
        [
            series("1"),
            series("2", dimension="3D"),
            series("3", slices=60),
            series("4", plane="coronal", contrast=True),
            series("5", fat_suppressed=True),
            series("6", dimension="3D", plane="coronal", fat_suppressed=True, confidence=0.4),  # its name alone says so
        ],
    )
    assert found.inputs == {"t1w": taken}
    reasons = {d.series_instance_uid: d.reason for d in found.decisions}
    assert f"fits, but series {taken} fits better" in reasons["6"]
    assert reasons["6"].endswith("its kind is surer")
    if prefer and taken != "1":
        assert reasons["1"].endswith(f"preferred: {prefer[0] if taken != '2' else '3D'}")


def test_kinds_are_in_order_of_preference() -> None:
    rule = InputRule("fluid", kind=["FLAIR", "T2w"], prefer=("3D",))
    both = [series("1", Kind.T2W, dimension="3D"), series("2", Kind.FLAIR)]
    assert bind([rule], both).inputs == {"fluid": "2"}
    assert bind([rule], both[:1]).inputs == {"fluid": "1"}
    assert refusal(rule, series("3", Kind.PDW)) == "is PDw, not FLAIR or T2w (spin echo)"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"fat_suppressed": True}, "it is surely fat suppressed"),
        ({"contrast": False}, "it is surely not contrast-enhanced"),
    ],
)
def test_what_certainly_is_as_asked_goes_before_what_does_not_say(asked: dict[str, bool], said: str) -> None:
    rule = InputRule("t2w_fs", kind=["T2w", "STIR"], prefer=("3D",), **asked)
    unknown = series("1", Kind.T2W, dimension="3D", **dict.fromkeys(asked))
    found = bind([rule], [unknown, series("2", Kind.STIR, **asked)])
    assert found.inputs == {"t2w_fs": "2"}
    assert found.decisions[0].reason.endswith(said)
    assert bind([rule], [unknown]).inputs == {"t2w_fs": "1"}


def test_an_input_may_follow_the_plane_of_another() -> None:
    rules = [InputRule("t1w", kind="T1w"), InputRule("t2w", kind="T2w", prefer=("same plane as t1w",))]
    found = [series("1", plane="coronal"), series("2", Kind.T2W, slices=90), series("3", Kind.T2W, plane="coronal")]
    assert bind(rules, found).inputs == {"t1w": "1", "t2w": "3"}


def test_a_plane_may_be_demanded() -> None:
    assert refusal(InputRule("t2w", kind="T1w", plane="sagittal"), series("1")) == "is axial, not sagittal"


def test_diffusion_needs_the_b_values_that_are_asked_for() -> None:
    asked = BValues(count=2, lowest_at_most=100, highest_at_least=400)
    rule = InputRule("diffusion", kind=["ADC", "DWI"], b_values=asked, volumes="all")
    assert refusal(rule, series("1", Kind.DWI, b_values=(0.0, 800.0), volumes=2)) == ""
    assert refusal(rule, series("1", Kind.ADC)) == ""
    wanted = "not at least 2 b-values, the lowest at most 100, the highest at least 400"
    assert refusal(rule, series("1", Kind.DWI, b_values=(800.0,))) == f"has b = 800, {wanted}"
    assert refusal(rule, series("1", Kind.DWI, b_values=(0.0, 50.0))) == f"has b = 0, 50, {wanted}"
    assert refusal(rule, series("1", Kind.DWI, b_values=(500.0, 800.0))) == f"has b = 500, 800, {wanted}"
    assert refusal(rule, series("1", Kind.DWI)) == f"has no known b-value, {wanted}"
    three = replace(rule, b_values=BValues(count=3))
    assert refusal(three, series("1", Kind.DWI, b_values=(0.0, 995.0, 1000.0, 1005.0))).startswith("has b = 0, 995")
    truly = series("1", Kind.DWI, b_values=(0.0, 50.0, 800.0))
    scattered = series("2", Kind.DWI, b_values=(0.0, 990.0, 995.0, 1000.0, 1005.0))
    assert refusal(three, truly) == ""
    most = InputRule("diffusion", kind="DWI", prefer=("many b-values",))
    assert bind([most], [truly, scattered]).inputs == {"diffusion": "1"}


def test_a_series_of_several_volumes_feeds_what_takes_them(test_data: Path) -> None:
    """A real series has two echoes: an input of one volume refuses it without `select`, one of all volumes takes it."""
    folder = test_data / "mr" / "siemens_xa30_study" / "8_gre_field_mapping"
    found = recognise_headers(read_headers(file_blobs(sorted(folder.glob("*.dcm")))))
    assert found.volumes == 2
    one = InputRule("echoes")
    assert "volumes" in refusal(one, found)
    assert bind([one], [found]).unusable
    assert refusal(replace(one, volumes="all"), found) == ""
    assert refusal(replace(one, select="shortest echo"), found) == ""
    assert refusal(replace(one, volumes="all"), series("1", volumes=0, problem="a slice is missing")) != ""


def test_a_selection_means_exactly_one_volume() -> None:
    echoes = [{"EchoTime": 12.46, COMPONENT: "magnitude"}, {"EchoTime": 10.0, COMPONENT: "magnitude"}]
    assert selected(echoes, "shortest echo") == 1
    assert selected(echoes, "longest echo") == 0
    assert selected([{COMPONENT: "phase"}, {COMPONENT: "magnitude"}], "magnitude") == 1
    assert selected([{"b-value": None}, {"b-value": 0.0}, {"b-value": 800.0}], "highest b-value") == 2
    with pytest.raises(InputRefused, match="2 of the 2 volumes of the series can be the one asked for"):
        selected(echoes, "magnitude")
    with pytest.raises(InputRefused, match="none of the 2 volumes"):
        selected(echoes, "highest b-value")


def test_keys_of_inputs_name_the_time_point() -> None:
    assert [split_key(input_key("t1w", n)) for n in (0, 1, 12)] == [("t1w", 0), ("t1w", 1), ("t1w", 12)]
    assert input_key("t1w", 0) == "t1w"


def description(uid: str, **change: object) -> Recognition:
    plain = Recognition(
        uid, "MR", Kind.T1W, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1, number=int(uid.replace(".", "")), description="SE",
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
    assert reasons["1.1"].startswith("fits, but series 13 'SE' fits better")
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
    assert binding.reason == ("no series fits (MR, T2w, at least 3 slices): series 11 'SE' is T1w, not T2w (spin echo)")


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
