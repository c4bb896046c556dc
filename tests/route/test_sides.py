"""The jobs of a study that shows both sides of the body, and the earlier studies that each is compared with."""

import json
from dataclasses import replace

import pytest

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudy
from dicom_node.route.routing import Route
from inference.contract.inputs import EarlierRule
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition
from storage.records.routing import RoutingDecision
from tests.route.test_routing import application, described, routed, series


def of_both(each: bool = True) -> ConfiguredApplication:
    manifest = application("knee").manifest
    assert manifest is not None
    asking = replace(manifest, each_side=each, earlier=EarlierRule(maximum=2))
    return ConfiguredApplication("knee", ("pacs",), asking)


def shown(uid: str, side: str, number: int) -> Recognition:
    return replace(described(uid, Kind.T1W), laterality=side, number=number, description="T1 TSE")


def earlier(uid: str, *sides: str) -> EarlierStudy:
    uids = [f"{uid}.{n}" for n in range(len(sides))]
    held = tuple(replace(series(one), study_instance_uid=uid) for one in uids)
    return EarlierStudy(uid, 30, held, tuple(shown(one, side, 9) for one, side in zip(uids, sides, strict=True)))


def both_sides(*before: EarlierStudy, each: bool = True) -> Route:
    held = [series("1.1"), series("1.2")]
    found = [shown("1.1", "R", 3), shown("1.2", "L", 4)]
    return routed("1.9", 1, held, found, [of_both(each)], earlier=before)


def test_each_side_is_a_job_of_its_own() -> None:
    found = both_sides()
    right, left = found.jobs
    assert [(j.side, j.beside, j.inputs) for j in found.jobs] == [
        ("R", "L", {"t1w": "1.1"}), ("L", "R", {"t1w": "1.2"}),
    ]  # fmt: skip
    assert right.fingerprint != left.fingerprint
    assert right.detail.used == ("T1w: series 3 'T1 TSE' (right side)",)
    assert left.detail.left_out == ()
    assert found.reason == "applies: knee (right), knee (left)"
    assert [a.title for a in found.decision.applications] == ["knee (right)", "knee (left)"]
    assert [s.laterality for s in found.decision.series] == ["R", "L"]
    assert RoutingDecision.from_json(json.loads(json.dumps(found.decision.to_json()))) == found.decision


def test_an_application_of_one_side_has_one_job_whose_report_says_so() -> None:
    (job,) = both_sides(each=False).jobs
    assert (job.side, job.beside) == ("L", "")
    assert job.detail.left_out[0].startswith("Only the left side is analysed")
    assert "series 3 'T1 TSE' (right side)" in job.detail.left_out[1]


def test_each_side_is_compared_with_its_own_side_only() -> None:
    right, left = both_sides(earlier("1.6", "L"), earlier("1.7", "R", "L"), earlier("1.8", "")).jobs
    assert right.inputs == {"t1w": "1.1", "t1w@1": "1.7.0"}
    assert left.inputs == {"t1w": "1.2", "t1w@1": "1.6.0", "t1w@2": "1.7.1"}
    assert {s.study_instance_uid: s.reason for s in right.detail.not_taken} == {
        "1.6": "shows the left side, and the study the right",
        "1.8": "does not say which side it shows, and the study shows both",
    }
    assert left.detail.used[1] == "T1w: series 9 'T1 TSE' (left side), 30 days before"


@pytest.mark.parametrize(("side", "taken"), [("R", "1.7.0"), ("L", "1.7.1"), ("", None)])
def test_one_limb_is_compared_with_the_same_limb_of_an_earlier_study_of_both(side: str, taken: str | None) -> None:
    (job,) = routed(
        "1.9", 1, [series("1.1")], [shown("1.1", side, 3)], [of_both()], earlier=[earlier("1.7", "R", "L")]
    ).jobs
    assert (job.side, job.beside, job.inputs.get("t1w@1")) == (side, "", taken)
    assert [s.reason for s in job.detail.not_taken] == (
        [] if taken else ["shows both sides, and the study does not say which one it shows"]
    )
