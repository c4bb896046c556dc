"""The binding of studies that show both sides of the body."""

from dataclasses import replace

import pytest

from inference.contract.binding import bind, bind_sides, named_inputs
from inference.contract.inputs import InputRule
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition

T1W = InputRule("t1w", kind="T1w")
T2W = InputRule("t2w", kind="T2w")
ADC = InputRule("adc", kind="ADC", required=False)


def series(number: int, side: str, kind: Kind = Kind.T1W, **change: object) -> Recognition:
    plain = Recognition(
        f"1.{number}", "MR", kind, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1, number=number, description=f"{kind} TSE", laterality=side,
    )  # fmt: skip
    return replace(plain, **change)  # type: ignore[arg-type]


def test_both_sides_are_bound_each_with_its_own_series() -> None:
    shown = [
        series(1, "R"), series(2, "L", slices=36), series(3, "L", Kind.T2W), series(4, "R", Kind.T2W),
        series(5, "L", Kind.ADC),
    ]  # fmt: skip
    right, left = bind_sides([T1W, T2W, ADC], shown, each=True)
    assert (right.side, right.beside, right.inputs) == ("R", "L", {"t1w": "1.1", "t2w": "1.4"})
    assert (left.side, left.beside, left.inputs) == ("L", "R", {"t1w": "1.2", "t2w": "1.3", "adc": "1.5"})
    assert right.left_out == left.left_out == ()
    assert named_inputs([T1W, T2W, ADC], right, shown) == (
        "T1w: series 1 'T1w TSE' (right side)", "T2w: series 4 'T2w TSE' (right side)",
    )  # fmt: skip


def test_a_series_without_side_feeds_both_sides() -> None:
    shown = [series(1, "R"), series(2, "L"), series(3, "", Kind.T2W)]
    assert [b.inputs["t2w"] for b in bind_sides([T1W, T2W], shown, each=True)] == ["1.3", "1.3"]


def test_a_series_that_names_the_side_goes_before_one_that_names_none() -> None:
    shown = [series(1, "R"), series(2, "L"), series(3, "", slices=90)]
    right, left = bind_sides([replace(T1W, prefer=("many slices",))], shown, each=True)
    assert (right.inputs, left.inputs) == ({"t1w": "1.1"}, {"t1w": "1.2"})


@pytest.mark.parametrize("other", ["", "R"])
def test_nothing_is_split_where_one_names_no_side_or_the_same(other: str) -> None:
    (one,) = bind_sides([T1W], [series(1, "R"), series(2, other)], each=True)
    assert (one.inputs, one.beside) == ({"t1w": "1.2"}, "")
    also = " (right side)" if other else ""
    assert one.left_out == (
        f"Not used, although it fits as well as series 2 'T1w TSE'{also}: series 1 'T1w TSE' (right side).",
    )


def test_an_application_of_one_side_says_which_it_leaves_out() -> None:
    shown = [series(1, "R", slices=40), series(2, "L")]
    (one,) = bind_sides([T1W], shown, each=False)
    assert (one.side, one.inputs) == ("R", {"t1w": "1.1"})
    assert one.left_out == (
        "Only the right side is analysed: this application analyses one side of a study.",
        "Not used, although it fits as well as series 1 'T1w TSE' (right side): series 2 'T1w TSE' (left side).",
    )


def test_a_side_that_lacks_an_input_is_left_out_and_told() -> None:
    shown = [series(1, "R"), series(2, "L"), series(3, "L", Kind.T2W)]
    (one,) = bind_sides([T1W, T2W], shown, each=True)
    assert (one.side, one.inputs) == ("L", {"t1w": "1.2", "t2w": "1.3"})
    assert one.left_out[0] == (
        "Only the left side is analysed. Of the right side, no series fits (MR, T2w, at least 3 slices)."
    )
    (swapped,) = bind_sides([T1W, T2W], [*shown[:2], series(3, "R", Kind.T2W)], each=True)
    assert (swapped.side, swapped.inputs) == ("R", {"t1w": "1.1", "t2w": "1.3"})


def test_the_sides_are_never_mixed() -> None:
    shown = [series(1, "R"), series(2, "L", Kind.ADC)]
    found = bind([T1W, ADC], shown)
    assert found.inputs == {"t1w": "1.1"}
    assert [d.reason for d in found.decisions if d.input == "adc"][1] == "shows the left side, not the right"
    assert not bind([T1W, replace(ADC, required=True)], shown).accepted


def test_what_an_application_prefers_is_no_equal() -> None:
    shown = [series(1, ""), series(2, "", plane="coronal"), series(3, "", slices=20)]
    (one,) = bind_sides([replace(T1W, prefer=("axial",))], shown, each=True)
    assert one.left_out == ("Not used, although it fits as well as series 1 'T1w TSE': series 3 'T1w TSE'.",)
