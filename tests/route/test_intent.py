"""For which studies an application is meant, runs, and reports that it gives no result."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.route.routing import RoutableStudy, route
from inference.contract.inputs import InputRule
from inference.contract.study_rule import StudyRule, StudyValues
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition
from storage.records.routing import ApplicationDecision
from tests.route.test_routing import BROKEN, application, described, series

LIMB = ("THIGH", "SHOULDER")
ANYWHERE = application("limb")
assert ANYWHERE.manifest is not None
RULE = InputRule("t1w", kind="T1w", body_parts=LIMB)
FOR_LIMBS = replace(ANYWHERE, manifest=replace(ANYWHERE.manifest, inputs=(RULE,)))


def decided(
    configured: ConfiguredApplication,
    kind: Kind = Kind.T2W,
    modality: str = "MR",
    body_part: Sequence[str] = (),
    analysed: Sequence[str] = (),
) -> ApplicationDecision:
    recognised: Recognition = replace(described("1.1", kind), number=5, description="TSE TRA", modality=modality)
    stated = StudyValues(modality=frozenset({modality}), body_part=frozenset(body_part))
    before = frozenset(analysed)
    study = RoutableStudy(
        "1.9", 1, [series("1.1")], [recognised], stated=[stated], callers=frozenset({"MR1"}), analysed=before
    )
    (found,) = route(study, [configured]).decision.applications
    return found


@pytest.mark.parametrize(
    ("configured", "kind", "parts", "outcome"),
    [
        (FOR_LIMBS, Kind.T2W, ["SHOULDER"], (False, True, "input-missing")),  # meant by its body part
        (FOR_LIMBS, Kind.T2W, [], (False, False, None)),  # a limb that no image names
        (FOR_LIMBS, Kind.T2W, ["HEAD"], (False, False, None)),
        (FOR_LIMBS, Kind.T1W, [], (True, True, None)),  # bound
        (ANYWHERE, Kind.T2W, ["SHOULDER"], (False, False, None)),  # it names no body part
        (replace(FOR_LIMBS, when=StudyRule(modality=("MR",))), Kind.T2W, [], (False, True, "input-missing")),
        (replace(FOR_LIMBS, when=StudyRule(sending_ae_title=("mr1",))), Kind.T1W, [], (True, True, None)),
        (replace(FOR_LIMBS, when=StudyRule(sending_ae_title=("MR2",))), Kind.T1W, ["THIGH"], (False, False, None)),
        (replace(FOR_LIMBS, when=StudyRule(modality=("CT",)), no_result="always"), Kind.T1W, [], (False, False, None)),
        (replace(FOR_LIMBS, no_result="never"), Kind.T2W, ["THIGH"], (False, True, None)),
        (replace(BROKEN, when=StudyRule(modality=("MR",))), Kind.T1W, [], (False, True, "failure")),
    ],
)
def test_what_applies_is_meant_and_reports(
    configured: ConfiguredApplication,
    kind: Kind,
    parts: list[str],
    outcome: tuple[bool, bool, str | None],
) -> None:
    found = decided(configured, kind, body_part=parts)
    assert (found.applies, found.meant, found.reported) == outcome
    assert found.meant_because


def test_the_reasons_name_the_series_and_no_value() -> None:
    assert decided(FOR_LIMBS, body_part=["THIGH"]).meant_because == (
        "series 5 'TSE TRA' names a body part that it is for"
    )
    reported = decided(FOR_LIMBS, body_part=["THIGH"]).reason
    assert "series 5 'TSE TRA'" in reported
    assert "t1w" not in reported
    assert "1.1" not in reported
    excluded = decided(replace(FOR_LIMBS, when=StudyRule(age=(18, 120))), Kind.T1W)
    assert excluded.reason == "its `when` excludes the study: the age is not stated"


def test_a_body_part_of_another_modality_says_nothing() -> None:
    assert decided(FOR_LIMBS, Kind.CT, "CT", ["THIGH"]).meant is False


def test_what_was_bound_before_is_meant() -> None:
    found = decided(ANYWHERE, analysed=["limb"])
    assert (found.meant, found.reported) == (True, "input-missing")
