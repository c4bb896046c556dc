"""Studies that show both sides of the body, through a node and Orthanc."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_node.demo.overlay import masks_of
from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.simulator.phantom_study import PhantomStudy
from dicom_node.dimse.scu import send_files
from dicom_node.objects.reading.report import read_report
from inference.volumes.measurements import volume_ml
from inference.volumes.reading import read_volume
from storage.blobs import file_blobs
from tests.acceptance.conftest import Push
from tests.acceptance.node import SCANNER, Node, delivered
from tests.acceptance.studies import write_ball_sides
from tests.acceptance.tiny_model import write_bundle
from tests.validators import dciodvfy_errors

RADII = {"R": 17.0, "L": 23.0}  # mm
SERIES = {"R": "t1w", "L": "t1w_1"}
VOLUME = "118565006"


def true_ml(radius: float) -> float:
    return float(4 / 3 * np.pi * radius**3 / 1000)


@pytest.fixture(scope="module")
def place(make_node: Callable[..., tuple[Node, Pacs]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Node, Pacs]:
    return make_node(write_bundle(tmp_path_factory.mktemp("each"), each_side=True))


def texts(report: Dataset, name: str) -> list[str]:
    return [
        str(item.TextValue)
        for item in report.ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == name
    ]


def objects_of(pacs: Pacs, detail: dict, revision: int) -> dict[str, dict[str, Dataset]]:  # type: ignore[type-arg]
    """The objects of a revision in the PACS, by the side of their job and their kind."""
    side = {j["id"]: j["side"] for j in detail["jobs"] if j["revision"] == revision}
    found: dict[str, dict[str, Dataset]] = {}
    for delivery in detail["deliveries"]:
        if delivery["job_id"] in side:
            objects = found.setdefault(side[delivery["job_id"]], {})
            objects[delivery["kind"]] = pacs.dataset(delivery["sop_instance_uid"])
    return found


def check_side(study: PhantomStudy, side: str, objects: dict[str, Dataset], tmp_path: Path) -> None:
    """SEG and SR show the ball of this side, on the images of this side."""
    source = study.series[SERIES[side]]
    (mask,) = masks_of(objects["SEG"], volume := read_volume(file_blobs(source.paths))).values()
    assert volume_ml(mask, volume.geometry) == pytest.approx(true_ml(RADII[side]), rel=0.10)
    assert objects["SEG"].ReferencedSeriesSequence[0].SeriesInstanceUID == source.series_instance_uid
    told = [m.value for g in read_report(objects["SR"]).groups for m in g.measurements if m.name.value == VOLUME]
    assert told == [pytest.approx(volume_ml(mask, volume.geometry), rel=1e-3)]
    name = {"R": "right", "L": "left"}[side]
    number = {"R": 1, "L": 2}[side]
    assert texts(objects["SR"], "Input series") == [f"T1w: series {number} 'T1 TSE {side}' ({name} side)"]
    assert not [text for text in texts(objects["SR"], "Comment") if "Not used" in text or "Only the" in text]
    laterality = {"R": "24028007", "L": "7771000"}
    for ds in objects.values():
        codes = {str(element.value) for element in ds.iterall() if element.keyword == "CodeValue"}
        assert codes & set(laterality.values()) == {laterality[side]}
        ds.save_as(tmp_path / "object.dcm")
        assert dciodvfy_errors(tmp_path / "object.dcm") == []


def predecessors(report: Dataset) -> list[str]:
    return [
        str(sop.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    ]


def test_each_side_gets_its_own_result_and_supersedes_itself(
    place: tuple[Node, Pacs], push: Push, tmp_path: Path
) -> None:
    node, pacs = place
    study = write_ball_sides(tmp_path / "study", RADII)
    uid = study.study_instance_uid
    last = study.series["t1w_1"].paths[-1]
    late = last.rename(tmp_path / last.name)
    push(node, tmp_path / "study")
    both = lambda d: delivered()(d) and len(d["deliveries"]) == 4  # noqa: E731
    first = objects_of(pacs, node.wait(uid, both), 1)
    assert sorted(first) == ["L", "R"]
    check_side(study, "R", first["R"], tmp_path)

    late = late.rename(last)
    (sent,) = send_files(file_blobs([late]), SCANNER, node.target)
    assert sent.ok
    detail = node.wait(uid, delivered(2))
    second = objects_of(pacs, detail, 2)
    assert list(second) == ["L"]  # the images of the right side are the same as before: its result stands
    check_side(study, "L", second["L"], tmp_path)
    assert predecessors(second["L"]["SR"]) == [str(first["L"]["SR"].SOPInstanceUID)]
    uids = [str(ds.SOPInstanceUID) for one in (first["R"], first["L"], second["L"]) for ds in one.values()]
    assert len(set(uids)) == 6
    assert any("model (right): the same instances as before" in e["text"] for e in detail["timeline"])
    listed = node.run("jobs", "--study", uid).stdout
    assert "model (right)" in listed
    assert "model (left)" in listed
    assert "model (left) applies" in node.run("explain", uid).stdout
    assert "SEG (left)" in node.run("study", uid).stdout
    assert "T1 TSE" not in node.log.read_text()  # a description is free text


def test_of_two_series_of_which_one_names_no_side_one_is_analysed(
    place: tuple[Node, Pacs], push: Push, tmp_path: Path
) -> None:
    node, pacs = place
    study = write_ball_sides(tmp_path / "study", {"R": RADII["R"], "": 20.0})
    push(node, tmp_path / "study")
    detail = node.wait(study.study_instance_uid, delivered())
    assert len(detail["jobs"]) == 1
    (objects,) = objects_of(pacs, detail, 1).values()
    (used,) = texts(objects["SR"], "Input series")
    names = {"T1w: series 1 'T1 TSE R' (right side)", "T1w: series 2 'T1 TSE tra'"}
    (other,) = names - {used}
    as_well, not_used = used.removeprefix("T1w: "), other.removeprefix("T1w: ")
    assert f"Not used, although it fits as well as {as_well}: {not_used}." in texts(objects["SR"], "Comment")
