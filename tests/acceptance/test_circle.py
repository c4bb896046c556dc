"""A PACS that routes everything it receives back to the node starts no circle."""

import time
from collections.abc import Callable
from pathlib import Path

from dicom_node.demo.pacs.base import Pacs
from tests.acceptance.conftest import Push
from tests.acceptance.node import Node, delivered
from tests.acceptance.studies import write_ball_study


def test_results_that_come_back_start_nothing(
    make_node: Callable[..., tuple[Node, Pacs]], push: Push, tmp_path: Path
) -> None:
    node, pacs = make_node(route_back=True)
    study = write_ball_study(tmp_path)
    uid = study.study_instance_uid
    push(node, tmp_path)
    node.wait(uid, delivered())
    images = len(study.paths)
    detail = node.wait(uid, lambda d: len(d["instances"]) == images + 2)  # both results came back
    time.sleep(6)  # four quiet periods: time enough for a new revision to show
    detail = node.study(uid) or detail
    assert (detail["revision"], detail["state"], len(detail["jobs"])) == (1, "ROUTED", 1)
    assert sorted(i.modality for i in pacs.instances(uid) if i.modality != "MR") == ["SEG", "SR"]
