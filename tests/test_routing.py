"""Which applications apply, what their jobs are called, and why nothing applies."""

from datetime import UTC, datetime
from pathlib import Path

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.routing import route
from inference.inputs import InputRule
from inference.manifest import Manifest
from inference.series import Kind, SeriesDescription
from storage.records import Instance, Series


def series(uid: str, instances: int = 3) -> Series:
    made = tuple(
        Instance(
            f"{uid}.{n}", "1.2.840.10008.5.1.4.1.1.4", uid, "1.9", "1.2.840.10008.1.2.1", "MR", Path("x"), 1, "",
            datetime(2026, 1, 1, tzinfo=UTC), 1,
        )
        for n in range(instances)
    )  # fmt: skip
    return Series(uid, "1.9", "MR", made)


def described(uid: str, kind: Kind) -> SeriesDescription:
    return SeriesDescription(
        uid, "MR", kind, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), volumes=1,
    )  # fmt: skip


def application(name: str, sha256: str = "a") -> ConfiguredApplication:
    rule = InputRule("t1w", kind="T1w")
    return ConfiguredApplication(name, ("pacs",), Manifest("x", name, "1", "X", (rule,), Path("."), {}, sha256))


BROKEN = ConfiguredApplication("broken", ("pacs",), None, "model.ts: there is no such file")


def test_every_application_that_applies_gets_a_job() -> None:
    found = route("1.9", 2, [series("1.1")], [described("1.1", Kind.T1W)], [application("a"), application("b"), BROKEN])
    assert [(j.application, j.revision, j.inputs) for j in found.jobs] == [
        ("a", 2, {"t1w": "1.1"}),
        ("b", 2, {"t1w": "1.1"}),
    ]
    assert found.reason == "applies: a, b; not run: broken: model.ts: there is no such file"
    assert found.warnings == ("not run: broken: model.ts: there is no such file",)
    assert [a["applies"] for a in found.decisions["applications"]] == [True, True, False]


def test_nothing_applies_says_why_for_each_application() -> None:
    found = route("1.9", 1, [series("1.1")], [described("1.1", Kind.T2W)], [application("a"), BROKEN])
    assert found.jobs == ()
    assert "a: no series fits input 't1w'" in found.reason
    assert "broken: model.ts: there is no such file" in found.reason
    assert route("1.9", 1, [], [], []).reason == "nothing applies: no application is configured"


def test_an_application_whose_routing_breaks_off_stops_no_other() -> None:
    rule = InputRule("t1w", kind="T1w")
    object.__setattr__(rule, "minimum_slices", "twenty")
    manifest = Manifest("x", "odd", "1", "X", (rule,), Path("."), {}, "a")
    odd = ConfiguredApplication("odd", ("pacs",), manifest)
    found = route("1.9", 1, [series("1.1")], [described("1.1", Kind.T1W)], [odd, application("a")])
    assert [j.application for j in found.jobs] == ["a"]
    assert found.warnings == ("not run: odd: its routing failed (TypeError), see the log",)


def fingerprint(instances: int = 3, sha256: str = "a", name: str = "a") -> str:
    found = route("1.9", 1, [series("1.1", instances)], [described("1.1", Kind.T1W)], [application(name, sha256)])
    return found.jobs[0].fingerprint


def test_a_fingerprint_names_the_exact_instances_and_the_model() -> None:
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(instances=4), fingerprint(sha256="b"), fingerprint(name="c")}) == 4
