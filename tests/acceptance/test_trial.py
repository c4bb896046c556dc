"""A trial's patient from the simulated scanner to Orthanc: two time points, and every number beside the truth."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.dimse.scu import Target
from dicom_node.objects.reading.report import MeasurementReport, read_report
from inference.contract.concepts import BONE_DISTANCE, BUNDLE_DISTANCE, LONG_AXIS, RESPONSE, VOLUME
from inference.contract.findings import Code
from inference.quantities.panel_quantities import ADC, T1, T2
from inference.quantities.statistics import MEAN
from tests.acceptance.node import Node
from tests.validators import dciodvfy_errors

SEED = 2  # of limbs that the network was not trained on
EXTREMITY = "extremity_sts_sbrt"
CATEGORIES = {"PR": "112042", "SD": "112044", "PD": "112043"}  # DCM


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Pacs]]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    folder, port = tmp_path_factory.mktemp("node"), free_port()
    pacs = start_pacs(folder / "pacs", node=Target("DICOM_NODE", "127.0.0.1", port), kind=PacsKind.ORTHANC)
    objects = 'objects = ["SEG", "PM", "RTSTRUCT", "SR"]'
    node = Node(folder, port, pacs, applications=[EXTREMITY], destination=objects)
    node.start()
    yield node, pacs
    node.stop()
    pacs.stop()


def compared(detail: dict[str, Any]) -> bool:
    """The application has had its say on both time points, and the PACS has it."""
    done = [job for job in detail["jobs"] if job["state"] == "SUCCEEDED" and "t1w@1" in job["inputs"]]
    deliveries = [d for d in detail["deliveries"] if done and d["job_id"] == done[-1]["id"]]
    return bool(deliveries) and all(d["state"] in ("SENT", "COMMITTED") for d in deliveries)


@pytest.mark.slow
@pytest.mark.parametrize("patients", [1, 3])
@pytest.mark.timeout(900)
def test_two_time_points_of_each_patient(place: tuple[Node, Pacs], tmp_path: Path, patients: int) -> None:
    node, pacs = place
    done = node.run("simulate", "--patients", str(patients), "--timepoints", "2", "--seed", str(SEED + 10 * patients),
                    "--truth", str(tmp_path / "truth.json"), "--calling", "SCANNER1",
                    "--to", f"{node.target.ae_title}@{node.target.host}:{node.target.port}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    truths = json.loads((tmp_path / "truth.json").read_text())
    followed = {uid: truth for uid, truth in truths.items() if truth["time_point"] == 1}
    assert len(followed) == patients
    for uid, truth in followed.items():
        detail = node.wait(uid, compared, 400)
        made = [d for d in detail["deliveries"] if d["job_id"] == max(j["id"] for j in detail["jobs"])]
        assert sorted({d["kind"] for d in made}) == ["PM", "RTSTRUCT", "SEG", "SR"]
        for delivery in made:
            pacs.dataset(delivery["sop_instance_uid"]).save_as(tmp_path / "object.dcm")
            assert dciodvfy_errors(tmp_path / "object.dcm") == [], delivery["kind"]
        (sr,) = [d["sop_instance_uid"] for d in made if d["kind"] == "SR"]
        assert mistakes(read_report(pacs.dataset(sr)), truth) == []


def mistakes(report: MeasurementReport, truth: dict[str, Any]) -> list[str]:
    """The numbers of a report that differ from the truth by more than their error."""
    told = [m for g in report.groups if g.tracking_id == "GTV" for m in g.measurements]

    def check(name: Code, expected: float, error: float, derivation: Code | None = None) -> list[str]:
        (found,) = [m for m in told if (m.name.value, m.derivation) == (name.value, derivation)]
        near = found.value is not None and abs(found.value - expected) <= error
        return [] if near else [f"{name.meaning} is {found.value}, not {expected:.1f}"]

    found = [
        *check(LONG_AXIS, truth["long_axis"], 4.0),
        *check(VOLUME, truth["volume_ml"], 0.2 * truth["volume_ml"]),
        *check(BUNDLE_DISTANCE, truth["bundle_distance"], 4.0),
        *check(BONE_DISTANCE, truth["bone_distance"], 4.0),
    ]
    for quantity, name in ((ADC, "adc"), (T1, "t1"), (T2, "t2")):
        found += check(quantity.code, truth[name], 0.05 * truth[name], MEAN)
    categories = [e.value.value for g in report.groups for e in g.evaluations if e.name.value == RESPONSE.value]
    return found + ([] if categories == [CATEGORIES[truth["response"]]] else [f"response {categories}"])
