"""What is sent to a destination that does not take everything, and what is said of the rest."""

import pytest

from dicom_node.deliver.stand_ins import Offer, choose
from dicom_node.objects.registry import stands_for
from storage.records.results import ObjectKind

DEFAULT = frozenset({ObjectKind.SEG, ObjectKind.PM, ObjectKind.SR})
SR_3D = {ObjectKind.SR, ObjectKind.SR_REGIONS}
SR_COMPREHENSIVE = {ObjectKind.SR_COMPREHENSIVE, ObjectKind.SR_REGIONS_COMPREHENSIVE}
SR_ENHANCED = {ObjectKind.SR_ENHANCED, ObjectKind.SR_REGIONS_ENHANCED}


def offers(
    primaries: frozenset[ObjectKind] = DEFAULT, arrived: frozenset[ObjectKind] = frozenset(), label_map: bool = False
) -> list[Offer]:
    """What is built for a destination that wants these kinds, its number in the order of delivery as id."""
    return [
        Offer(number, kind, () if kind in primaries else stands_for(kind, primaries), kind in arrived)
        for number, kind in enumerate(ObjectKind)
        if (kind in primaries or stands_for(kind, primaries)) and (label_map or kind is not ObjectKind.SEG_BINARY)
    ]


def outcome(offered: list[Offer], refused: set[ObjectKind]) -> tuple[list[ObjectKind], dict[ObjectKind, str]]:
    """What is sent, in order, and why what was to be sent is not, with "!" before it where nothing stands for it."""
    choice = choose(offered, {o.id: f"no {o.kind}" for o in offered if o.kind in refused})
    kinds = {o.id: o.kind for o in offered}
    assert set(choice.sent) | set(choice.unsent) == set(kinds)
    assert not set(choice.sent) & set(choice.unsent)
    said = {
        o.kind: f"{'' if choice.unsent[o.id].replaced else '!'}{choice.unsent[o.id].reason}"
        for o in offered
        if not o.stands_for and o.id in choice.unsent
    }
    return [kinds[i] for i in choice.sent], said


@pytest.mark.parametrize(
    ("refused", "sent", "said"),
    [
        (set(), "SEG PM SR", {}),
        (
            {ObjectKind.SEG},
            "PM RTSTRUCT SR-REGIONS",
            {
                "SEG": "no SEG; sent instead: RTSTRUCT",
                "SR": "it refers to SEG, which is not sent; sent instead: SR-REGIONS",
            },
        ),
        (SR_3D, "SEG PM SR-COMPREHENSIVE", {"SR": "no SR; sent instead: SR-COMPREHENSIVE"}),
        (SR_3D | SR_COMPREHENSIVE, "SEG PM SR-ENHANCED", {"SR": "no SR; sent instead: SR-ENHANCED"}),
        (SR_3D | SR_COMPREHENSIVE | SR_ENHANCED, "SEG PM SC", {"SR": "no SR; sent instead: SC"}),
        (
            {ObjectKind.SEG, *SR_3D},
            "PM RTSTRUCT SR-REGIONS-COMP",
            {"SEG": "no SEG; sent instead: RTSTRUCT", "SR": "no SR; sent instead: SR-REGIONS-COMP"},
        ),
        (
            {ObjectKind.SEG, ObjectKind.RTSTRUCT, *SR_3D, *SR_COMPREHENSIVE, *SR_ENHANCED},
            "PM SC",
            {"SEG": "no SEG; sent instead: SC", "SR": "no SR; sent instead: SC"},
        ),
        ({ObjectKind.PM}, "SEG SR", {"PM": "!no PM; nothing can be sent in place of PM"}),
        (
            {ObjectKind.SEG, ObjectKind.RTSTRUCT, ObjectKind.SC},
            "PM SR-REGIONS",
            {
                "SEG": "!no SEG; nothing can be sent in place of SEG",
                "SR": "it refers to SEG, which is not sent; sent instead: SR-REGIONS",
            },
        ),
        (
            set(ObjectKind),
            "",
            {kind: f"!no {kind}; nothing can be sent in place of {kind}" for kind in ("SEG", "PM", "SR")},
        ),
    ],
)
def test_what_is_sent_where_something_is_refused(refused: set[ObjectKind], sent: str, said: dict[str, str]) -> None:
    assert outcome(offers(), refused) == (sent.split(), said)


def test_what_is_sent_anyway_stands_for_what_is_refused() -> None:
    offered = offers(DEFAULT | {ObjectKind.RTSTRUCT})
    sent, said = outcome(offered, {ObjectKind.SEG})
    assert sent == ["PM", "RTSTRUCT", "SR-REGIONS"]
    assert said["SEG"] == "no SEG; sent instead: RTSTRUCT"


def test_who_takes_no_label_map_gets_it_binary() -> None:
    sent, said = outcome(offers(label_map=True), {ObjectKind.SEG})
    assert " ".join(sent) == "SEG-BINARY PM SR-REGIONS"
    assert said["SEG"] == "no SEG; sent instead: SEG-BINARY"


def test_key_objects_name_only_what_is_sent() -> None:
    offered = offers(DEFAULT | {ObjectKind.KO})
    assert outcome(offered, set())[0][-1] == "KO"
    sent, said = outcome(offered, SR_3D)
    assert sent[-1] == "KO-IMAGES"
    assert said["KO"] == "it refers to SR, which is not sent; sent instead: KO-IMAGES"
    assert outcome(offered, {ObjectKind.SEG})[1]["KO"].startswith("it refers to SEG and SR, which is not sent")


def test_without_a_seg_the_report_refers_to_none() -> None:
    offered = offers(frozenset({ObjectKind.SR}))
    assert outcome(offered, {ObjectKind.SR})[0] == ["SR-COMPREHENSIVE"]


def test_a_stand_in_that_is_refused_gives_way_to_the_next() -> None:
    choice = choose(
        offers(),
        {o.id: f"no {o.kind}" for o in offers() if o.kind in (ObjectKind.SEG, ObjectKind.RTSTRUCT, ObjectKind.SC)},
    )
    (rtstruct, picture) = (o.id for o in offers() if o.kind in (ObjectKind.RTSTRUCT, ObjectKind.SC))
    assert not choice.unsent[rtstruct].replaced
    assert choice.unsent[picture].reason == "no SC; nothing can be sent in place of SEG"


def test_what_has_arrived_stays() -> None:
    """Sent again, because it was never committed, the SEG is refused; its report is there already."""
    offered = offers(arrived=frozenset({ObjectKind.SR}))
    sent, said = outcome(offered, {ObjectKind.SEG})
    assert sent == ["PM", "RTSTRUCT", "SR"]
    assert list(said) == ["SEG"]
