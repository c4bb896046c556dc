"""What the images of one series say of their number."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.complete.inventory import take_inventory
from inference.headers.images import counts_as_image
from storage.records.completion import Grade
from storage.records.evidence import InstanceEvidence, StudyContents
from storage.records.instances import Facts

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
MR = "1.2.840.10008.5.1.4.1.1.4"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def axial(z: float, **changes: object) -> Facts:
    return replace(Facts(position=(0.0, 0.0, z), orientation=AXIAL), **changes)  # type: ignore[arg-type]


def coronal(y: float) -> Facts:
    return Facts(position=(0.0, y, 0.0), orientation=CORONAL)


def stack(*places: float, **changes: object) -> list[Facts]:
    return [axial(z, **changes) for z in places]


def contents(facts: list[Facts], sop_class: str = MR) -> StudyContents:
    return StudyContents(
        tuple(
            InstanceEvidence(f"1.1.{n}", sop_class, "1.1", NOW + timedelta(seconds=n), f) for n, f in enumerate(facts)
        )
    )


REGULAR = [4.0 * n for n in range(10)]

CASES: dict[str, tuple[list[Facts], Grade, int | None, str]] = {
    "evenly spaced": (stack(*REGULAR), Grade.REGULAR, None, "10 slices evenly spaced without a gap"),
    "evenly spaced, but for rounding": (
        stack(*(z + 0.01 * (n % 2) for n, z in enumerate(REGULAR))), Grade.REGULAR, None, "10 slices",
    ),
    "one missing": (stack(*REGULAR[:4], *REGULAR[5:]), Grade.SHORT, None, "a gap of 1 slice between 9"),
    "three missing": (stack(*REGULAR[:3], *REGULAR[6:]), Grade.SHORT, None, "a gap of 3 slices between 7"),
    "one of three steps is twice as wide": (stack(0, 4, 12), Grade.SHORT, None, "a gap of 1 slice between 3"),
    "an oblique stack": (
        [Facts(position=(0, 2.4 * n, 3.2 * n), orientation=(1, 0, 0, 0, 0.8, -0.6)) for n in range(9) if n != 5],
        Grade.SHORT, None, "a gap of 1 slice",
    ),
    "two slices": (stack(0, 4), Grade.SILENT, None, ""),
    "a localizer of few slices in two planes": ([*stack(0, 10), coronal(0), coronal(10)], Grade.SILENT, None, ""),
    "two regular planes": ([*stack(*REGULAR), *(coronal(5.0 * n) for n in range(5))], Grade.REGULAR, None, "15 slices"),
    "two echoes at each place": (
        [*stack(*REGULAR, echo_number=1), *stack(*REGULAR, echo_number=2)], Grade.REGULAR, None, "10 slices",
    ),
    "two echoes, one not at each place": (
        [*stack(*REGULAR, echo_number=1), *stack(*REGULAR[:-1], echo_number=2)],
        Grade.SHORT, None, "1 image fewer at some of 10 slices than at the others",
    ),
    "no geometry": ([Facts()] * 5, Grade.SILENT, None, ""),
    "one image without position": ([*stack(*REGULAR), Facts()], Grade.SILENT, None, ""),
    "as many as declared": (stack(*REGULAR, images_in_acquisition=10), Grade.DECLARED, 10, "10 of 10 declared images"),
    "fewer than declared": (stack(*REGULAR, images_in_acquisition=11), Grade.SHORT, 11, "10 of 11 declared images"),
    "as many as declared, with a gap": (
        stack(*REGULAR[:4], *REGULAR[5:], images_in_acquisition=9), Grade.SHORT, 9, "a gap of 1 slice",
    ),
    "two acquisitions": (
        [*stack(*REGULAR, acquisition_number=1, images_in_acquisition=10),
         *stack(*REGULAR, acquisition_number=2, images_in_acquisition=10)], Grade.DECLARED, 20, "20 of 20 declared",
    ),
    "two acquisitions, one too short": (
        [*stack(*REGULAR, acquisition_number=1, images_in_acquisition=10),
         *stack(*REGULAR[1:], acquisition_number=2, images_in_acquisition=10)], Grade.SHORT, 20, "19 of 20 declared",
    ),
    "two acquisitions, divided otherwise": (
        [*[Facts(acquisition_number=1, images_in_acquisition=10)] * 12,
         *[Facts(acquisition_number=2, images_in_acquisition=10)] * 8],
        Grade.SILENT, None, "20 images (20 were declared, divided otherwise)",
    ),
    "images of one acquisition disagree": (
        [*stack(*REGULAR[:5], images_in_acquisition=5), *stack(*REGULAR[5:], images_in_acquisition=10)],
        Grade.REGULAR, None, "10 slices evenly spaced without a gap",
    ),
    "only some declare": (
        [*stack(*REGULAR[:5], images_in_acquisition=5), *stack(*REGULAR[5:])], Grade.REGULAR, None, "10 slices",
    ),
    "every time point declares its own slices": (
        [*stack(*REGULAR, images_in_acquisition=10, temporal_positions=2, temporal_position=1),
         *stack(*REGULAR, images_in_acquisition=10, temporal_positions=2, temporal_position=2)],
        Grade.DECLARED, 20, "20 of 20 declared images",
    ),
    "the first of two time points": (
        stack(*REGULAR, images_in_acquisition=10, temporal_positions=2, temporal_position=1),
        Grade.SHORT, 20, "10 of 20 declared images",
    ),
    "multi-frame": ([Facts(frames=60), Facts(frames=30)], Grade.MULTI_FRAME, None, "2 multi-frame instances of 90"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_series(name: str) -> None:
    facts, grade, declared, text = CASES[name]
    (series,) = take_inventory(contents(facts)).series
    assert (series.grade, series.declared) == (grade, declared), series.text
    assert text in series.text
    assert series.here == len(facts)
    assert (series.first_received_at, series.last_received_at) == (NOW, NOW + timedelta(seconds=len(facts) - 1))


def test_the_order_of_arrival_does_not_matter() -> None:
    facts = stack(*REGULAR[:4], *REGULAR[5:])
    assert take_inventory(contents(facts[::-1])).series[0].text == take_inventory(contents(facts)).series[0].text


def test_what_is_no_image_declares_nothing() -> None:
    assert counts_as_image(MR)
    assert counts_as_image("1.3.12.2.1107.5.9.1")  # private
    assert not counts_as_image("1.2.840.10008.5.1.4.1.1.88.33")
    assert not counts_as_image(SEGMENTATION)
    inventory = take_inventory(contents([Facts()], SEGMENTATION))
    assert (inventory.images, inventory.series) == (1, ())
    assert not inventory.says_declared


def test_five_thousand_images_are_counted_in_a_moment() -> None:
    facts = [axial(float(z), temporal_positions=50, temporal_position=t) for t in range(50) for z in range(100)]
    (series,) = take_inventory(contents(facts)).series
    assert (series.grade, series.here) == (Grade.DECLARED, 5000)
