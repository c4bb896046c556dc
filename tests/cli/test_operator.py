"""The lists on a terminal of 80 columns: UIDs are whole, reasons readable, and nothing that waits goes unseen."""

import io
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.demo.explanation_tree import explanation_tree
from dicom_node.demo.study_page import study_page, summary_lines
from dicom_node.demo.tables import jobs_list, studies_list
from dicom_node.read.explanation import Explanation
from dicom_node.read.jobs import list_jobs, why_not_withdrawn
from dicom_node.read.study import read_study
from dicom_node.read.summary import summarise
from dicom_node.runtime.backoff import Backoff
from inference.contract.binding import bind
from inference.contract.inputs import InputRule
from inference.series.kinds import Kind
from inference.series.recogniser import Recognition
from storage.errors import WhyNoResult
from storage.records.jobs import NewJob, WithoutResult
from storage.tables.database.connection import Database
from tests.storage.node import UNDECIDED, Node, received
from tests.stores import stores_of

LONG = "1.2.826.0.1.3680043.9.5542.861358042928701844745288911259368"  # with what the tests append, 64 characters
NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A study with a long UID and a result that waits for the destination "pacs"."""
    database = Database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    database.upgrade()
    node = Node(database, tmp_path / "instances")
    node.store(received(study=LONG))
    return node


def explained(node: Node) -> Explanation:
    return Explanation(read_study(stores_of(node), node.study(LONG)), node.studies.routing(LONG))


def shown(view: RenderableType, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(view)
    return output.getvalue()


def test_uids_are_whole(node: Node) -> None:
    node.complete(LONG)
    reason = f"applies: liver; not run: brain: the model folder {'/models' * 20} does not exist"
    job = NewJob(LONG, 1, "liver", {"t1": f"{LONG}.1"}, "f")
    assert node.studies.route(LONG, 1, reason, [job], UNDECIDED, NOW)
    assert node.succeed(node.claim(), "pacs")
    explanation = explained(node)
    listed = list_jobs(node.jobs.list(), node.deliveries.list(), {"pacs"})
    for view in (
        studies_list(node.studies.list()),
        jobs_list(listed),
        study_page(explanation.detail, summarise(explanation), everything=True),
        explanation_tree(explanation),
    ):
        text = shown(view)
        assert LONG in text
        assert "…" not in text
    narrow = shown(studies_list(node.studies.list()), width=40)
    assert LONG in narrow.replace("\n", "").replace(" ", "")  # folded, not cut


def test_a_delivery_to_a_removed_destination_is_seen(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.route("liver", uid=LONG)
    assert node.succeed(node.claim(), "old_pacs")
    listed = list_jobs(node.jobs.list(), node.deliveries.list(), {"pacs"})
    assert [d.reason for d in listed[0].deliveries] == [
        "no destination 'old_pacs' is configured any more; add it again to have this sent"
    ] * 2
    known = list_jobs(node.jobs.list(), node.deliveries.list(), {"old_pacs"})
    assert [d.reason for d in known[0].deliveries] == ["", ""]
    stop = threading.Event()
    stop.set()
    with caplog.at_level(logging.ERROR):
        Dispatcher(node.deliveries, [], Backoff(1, 2, 3), "dispatch").run(stop)
    assert "2 deliveries wait for destination old_pacs, which is not configured any more" in caplog.text


def test_reports_of_no_result_and_withdrawals_are_told_from_results(node: Node) -> None:
    node.complete(LONG)
    jobs = [NewJob(LONG, 1, "liver", {}, "f")]
    assert node.studies.route(LONG, 1, "applies: liver", jobs, UNDECIDED, NOW)
    failed = node.claim()
    node.jobs.fail(failed.id, "worker", "one slice is missing", None, NOW, WhyNoResult.UNUSABLE_IMAGES)
    assert node.report(WithoutResult("liver", WhyNoResult.UNUSABLE_IMAGES, "one slice is missing"), uid=LONG)
    assert node.succeed(node.claim(), "pacs")
    assert node.results.withdraw(2, "wrong study", NOW)
    explanation = explained(node)
    listed = list_jobs(node.jobs.list(), node.deliveries.list(), {"pacs"})
    for text in (
        shown(jobs_list(listed), 200),
        shown(summary_lines(explanation.detail, summarise(explanation)), 200),
        shown(explanation_tree(explanation), 200),
    ):
        assert "no AI result (unusable-images): one slice is missing" in text
        assert "withdraws the results of job 2: wrong study" in text
    assert "no AI result, SR → pacs" in shown(study_page(explanation.detail, summarise(explanation)), 200)
    for job, told in zip(node.jobs.list(), ("is FAILED", "were withdrawn before", "a withdrawal itself"), strict=True):
        assert told in why_not_withdrawn(job)


def test_a_long_list_of_body_parts_is_shortened() -> None:
    head = Recognition(
        "1.1", "MR", Kind.T1W, "axial", "2D", 30, contrast=False, fat_suppressed=False, b_values=(), confidence=0.9,
        reasons=("spin echo",), body_part="HEAD", volumes=1,
    )  # fmt: skip
    parts = ("EXTREMITY", "LEG", "THIGH", "KNEE", "CALF", "ANKLE", "FOOT")
    assert (
        "shows HEAD, none of EXTREMITY, LEG, THIGH, KNEE and 3 more"
        in bind([InputRule("t1w", body_parts=parts)], [head]).reason
    )
