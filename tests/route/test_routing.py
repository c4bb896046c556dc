"""Which applications apply, what their jobs are called, and why nothing applies."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.earlier_studies import EarlierStudy
from dicom_node.route.routing import RoutableStudy, Route, route
from inference.contract.inputs import EarlierRule, InputRule
from inference.contract.manifest import Manifest
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition
from storage.blobs import FileBlob
from storage.records.instances import Instance, Series
from storage.records.jobs import NewJob
from storage.records.routing import RoutingDecision


def series(uid: str, instances: int = 3) -> Series:
    made = tuple(
        Instance(
            f"{uid}.{n}", "1.2.840.10008.5.1.4.1.1.4", uid, "1.9", "1.2.840.10008.1.2.1", "MR",
            FileBlob(Path("x"), 1, ""), datetime(2026, 1, 1, tzinfo=UTC), 1,
        )
        for n in range(instances)
    )  # fmt: skip
    return Series(uid, "1.9", "MR", made)


def described(uid: str, kind: Kind) -> Recognition:
    return Recognition(
        uid, "MR", kind, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1,
    )  # fmt: skip


def before(uid: str, **region: str) -> EarlierStudy:
    """A month ago."""
    found = replace(described(f"{uid}.1", Kind.T1W), **region)  # type: ignore[arg-type]
    return EarlierStudy(uid, 30, (replace(series(f"{uid}.1"), study_instance_uid=uid),), (found,))


def routed(
    study_instance_uid: str,
    revision: int,
    held: Sequence[Series],
    recognised: Sequence[Recognition],
    applications: Sequence[ConfiguredApplication],
    priority: int = 0,
    own: Sequence[str] = (),
    earlier: Sequence[EarlierStudy] = (),
) -> Route:
    study = RoutableStudy(study_instance_uid, revision, held, recognised, priority, frozenset(own), earlier)
    return route(study, applications)


def course(now: Recognition, *earlier: EarlierStudy, maximum: int = 2) -> NewJob:
    plain = application("a").manifest
    assert plain is not None
    configured = ConfiguredApplication("a", ("pacs",), replace(plain, earlier=EarlierRule(maximum=maximum)))
    (job,) = routed("1.9", 1, [series("1.1")], [now], [configured], earlier=earlier).jobs
    return job


def application(name: str, sha256: str = "a") -> ConfiguredApplication:
    rule = InputRule("t1w", kind="T1w")
    return ConfiguredApplication(name, ("pacs",), Manifest("x", name, "1", "X", (rule,), Path("."), {}, sha256))


BROKEN = ConfiguredApplication("broken", ("pacs",), None, "model.ts: there is no such file")


def test_every_application_that_applies_gets_a_job() -> None:
    found = routed(
        "1.9", 2, [series("1.1")], [described("1.1", Kind.T1W)], [application("a"), application("b"), BROKEN]
    )
    assert [(j.application, j.revision, j.inputs) for j in found.jobs] == [
        ("a", 2, {"t1w": "1.1"}),
        ("b", 2, {"t1w": "1.1"}),
    ]
    assert found.reason == "applies: a, b; not run: broken: model.ts: there is no such file"
    assert found.warnings == ("not run: broken: model.ts: there is no such file",)
    assert [a.applies for a in found.decision.applications] == [True, True, False]


def test_nothing_applies_says_why_for_each_application() -> None:
    found = routed("1.9", 1, [series("1.1")], [described("1.1", Kind.T2W)], [application("a"), BROKEN])
    assert found.jobs == ()
    assert "a: no series fits (MR, T1w" in found.reason
    assert "broken: model.ts: there is no such file" in found.reason
    assert routed("1.9", 1, [], [], []).reason == "nothing applies: no application is configured"


def test_an_application_whose_routing_breaks_off_stops_no_other() -> None:
    rule = InputRule("t1w", kind="T1w")
    object.__setattr__(rule, "minimum_slices", "twenty")
    manifest = Manifest("x", "odd", "1", "X", (rule,), Path("."), {}, "a")
    odd = ConfiguredApplication("odd", ("pacs",), manifest)
    found = routed("1.9", 1, [series("1.1")], [described("1.1", Kind.T1W)], [odd, application("a")])
    assert [j.application for j in found.jobs] == ["a"]
    assert found.warnings == ("not run: odd: its routing failed (TypeError), see the log",)


def reported(
    kind: Kind = Kind.T2W,
    problem: str = "",
    own: tuple[str, ...] = (),
    applications: Sequence[ConfiguredApplication] = (),
) -> dict[str, str]:
    """The kind of reason of each application that reports a study of one series."""
    recognised = replace(described("1.1", kind), problem=problem, volumes=0 if problem else 1)
    always = [replace(application("a"), no_result="always")]
    found = routed("1.9", 1, [series("1.1")], [recognised], applications or always, 3, own)
    return {a.application: a.reported for a in found.decision.applications if a.reported is not None}


def contents(instances: int = 3, own: tuple[str, ...] = ()) -> str:
    return routed("1.9", 1, [series("1.1", instances)], [described("1.1", Kind.T2W)], [], own=own).decision.contents


def test_an_application_that_does_not_apply_reports_why() -> None:
    assert reported() == {"a": "input-missing"}
    assert reported(Kind.T1W) == {}
    assert reported(Kind.T1W, problem="one slice is missing") == {"a": "unusable-images"}
    assert contents() == contents(own=("1.1.7",)) != contents(4)


def test_nothing_is_reported_on_a_study_without_images_of_others() -> None:
    assert reported(own=("1.1.0", "1.1.1", "1.1.2")) == {}
    assert reported(Kind.NON_IMAGE) == {}


def test_each_application_says_what_it_reports() -> None:
    wanted = ("expected", "always", "failures", "never")
    apply = [replace(application(w), no_result=w) for w in wanted]
    assert reported(applications=apply) == {"always": "input-missing"}
    broken = [replace(BROKEN, name=w, no_result=w) for w in wanted]
    assert reported(applications=broken) == {"always": "failure", "failures": "failure"}


def fingerprint(instances: int = 3, sha256: str = "a", name: str = "a") -> str:
    found = routed("1.9", 1, [series("1.1", instances)], [described("1.1", Kind.T1W)], [application(name, sha256)])
    return found.jobs[0].fingerprint


def test_a_fingerprint_names_the_exact_instances_and_the_model() -> None:
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(instances=4), fingerprint(sha256="b"), fingerprint(name="c")}) == 4


@pytest.mark.parametrize(
    ("now", "earlier", "taken"),
    [
        ({"body_part": "THIGH"}, {"body_part": "THIGH"}, True),
        ({"body_part": "THIGH"}, {"body_part": "KNEE"}, False),
        ({"body_part": "THIGH"}, {"body_part": ""}, True),
        ({"body_part": "LEG"}, {"body_part": "KNEE"}, True),
        ({"laterality": "R"}, {"laterality": "R"}, True),
        ({"laterality": "R"}, {"laterality": "L"}, False),
        ({"laterality": "R"}, {"laterality": ""}, True),
    ],
)
def test_another_limb_is_no_time_point(now: dict[str, str], earlier: dict[str, str], taken: bool) -> None:
    here = replace(described("1.1", Kind.T1W), **now)  # type: ignore[arg-type]
    assert ("t1w@1" in course(here, before("1.8", **earlier)).inputs) is taken


def test_another_limb_takes_nobodys_place() -> None:
    here = replace(described("1.1", Kind.T1W), body_part="THIGH")
    job = course(here, before("1.6", body_part="THIGH"), before("1.7", body_part="KNEE"), before("1.8"))
    assert job.detail.earlier == ("1.6", "1.8")


def test_an_earlier_study_that_lacks_a_part_is_told_of_and_other_examinations_are_not() -> None:
    plain = application("a").manifest
    assert plain is not None
    rules = (InputRule("t1w", kind="T1w"), InputRule("t2w", kind="T2w"))
    configured = ConfiguredApplication("a", ("pacs",), replace(plain, inputs=rules, earlier=EarlierRule()))
    now = [described("1.1", Kind.T1W), described("1.2", Kind.T2W)]
    part = before("1.7")
    other = EarlierStudy("1.8", 20, (), (described("1.8.1", Kind.FLAIR),))
    held = [series("1.1"), series("1.2")]
    (job,) = routed("1.9", 1, held, now, [configured], earlier=(part, other)).jobs
    (told,) = job.detail.not_taken
    assert told.study_instance_uid == "1.7"
    assert told.reason.startswith("no series fits (MR, T2w")


def test_a_decision_comes_back_from_its_json() -> None:
    plain = application("a").manifest
    assert plain is not None
    configured = ConfiguredApplication("a", ("pacs",), replace(plain, earlier=EarlierRule(maximum=1)))
    described_now = [described("1.1", Kind.T1W)]
    doubtful = EarlierStudy("1.6", None, problem="is of the same patient")
    earlier = (before("1.7"), before("1.8"), doubtful)
    found = routed("1.9", 1, [series("1.1")], described_now, [configured, BROKEN], earlier=earlier)
    first, second = found.decision.applications
    assert [(point.study_instance_uid, point.time_point) for point in first.earlier] == [
        ("1.7", None),
        ("1.8", 1),
        ("1.6", None),
    ]
    assert second.meant is False
    assert RoutingDecision.from_json(json.loads(json.dumps(found.decision.to_json()))) == found.decision
    assert RoutingDecision.from_json({}) == RoutingDecision()  # of a study whose routing failed


def test_the_decision_keeps_the_scanners_names_and_the_inputs_that_lack() -> None:
    found = replace(described("1.1", Kind.T2W), number=3, description="T2 TSE tra")
    decision = routed("1.9", 1, [series("1.1")], [found], [application("a")]).decision
    assert [(s.number, s.description) for s in decision.series] == [(3, "T2 TSE tra")]
    assert [a.lacking for a in decision.applications] == [("t1w",)]
    assert RoutingDecision.from_json(decision.to_json()) == decision
