"""The explanation of a study that waits and of one that is complete, as text and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group, RenderableType

from dicom_node.complete.decision import decide_completion
from dicom_node.complete.inventory import take_inventory
from dicom_node.complete.rule import CompletionRule
from dicom_node.demo.explanation_tree import explanation_tree
from dicom_node.demo.study_page import study_page, summary_lines
from dicom_node.demo.tables import jobs_list
from dicom_node.read.explanation import Explanation
from dicom_node.read.jobs import list_jobs
from dicom_node.read.serialise import serialise
from dicom_node.read.study import read_study
from dicom_node.read.summary import summarise
from storage.records.completion import Completion, Waiting
from storage.records.deliveries import Undelivered
from storage.records.evidence import SourceAnswer
from storage.records.instances import Facts
from storage.records.jobs import NewJob
from storage.tables.confirmations import Confirmations
from storage.tables.database.connection import Database, default_url
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, early_start, objects, received
from tests.stores import stores_of

RULE = CompletionRule(quiet=30, released=10, settled=2, maximum_age=600, source="archive")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    database = Database(default_url(tmp_path))
    database.upgrade()
    yield Node(database, tmp_path / "instances")
    database.close()


def bring(node: Node, number: int) -> None:
    sent = received(number)
    facts = Facts(images_in_acquisition=3, priority="STAT")
    node.store(replace(sent, instance=replace(sent.instance, facts=facts)))


def decision(node: Node, seconds: float) -> Completion | Waiting:
    (evidence,) = node.studies.evidence(STUDY)
    now = evidence.last_received_at + timedelta(seconds=seconds)
    return decide_completion(evidence, take_inventory(node.studies.contents(STUDY)), RULE, now, now)


def explained(node: Node, waiting: Waiting | None = None) -> tuple[str, dict[str, Any]]:
    """Return what `explain --all` and `explain --json` print."""
    detail = read_study(stores_of(node), node.study())
    explanation = Explanation(detail, node.studies.routing(STUDY), waiting)
    shown = Group(summary_lines(detail, summarise(explanation)), explanation_tree(explanation))
    return text_of(shown, 400), json.loads(json.dumps(serialise(explanation)))


def text_of(shown: RenderableType, width: int = 200) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(shown)
    return console.export_text()


def test_a_study_that_waits(node: Node) -> None:
    bring(node, 1)
    bring(node, 2)
    last = node.studies.evidence(STUDY)[0].last_received_at
    node.studies.answered(STUDY, 1, SourceAnswer(last + timedelta(seconds=3), "archive", None, 0, "cannot be reached"))
    waiting = decision(node, 5)
    assert isinstance(waiting, Waiting)
    text, told = explained(node, waiting)
    assert "Waits: 2 instances so far; 2 of 3 declared images in series 1.2.3.1; complete once" in text
    assert "then by quiet period" in text
    assert "archive: cannot be reached" in text
    assert "Priority: study 2" in text
    assert told["waiting"]["until"] == waiting.until.isoformat()
    assert told["waiting"]["numbers"]["series"][0]["evidence"] == "incomplete"
    assert told["asked"][0]["data"]["problem"] == "cannot be reached"
    assert told["completion"] == []


def test_a_study_that_waits_for_the_index(node: Node) -> None:
    for number in (1, 2, 3):
        bring(node, number)
    (evidence,) = node.studies.evidence(STUDY)
    last = evidence.last_received_at
    inventory = take_inventory(node.studies.contents(STUDY))
    waiting = decide_completion(evidence, inventory, RULE, last + timedelta(seconds=60), last + timedelta(seconds=1))
    assert isinstance(waiting, Waiting)
    text, told = explained(node, waiting)
    behind = f"the index is behind since {last + timedelta(seconds=1):%H:%M:%S} UTC"
    assert behind in text
    assert behind in told["waiting"]["reason"]


def test_a_study_that_is_complete(node: Node) -> None:
    for number in (1, 2, 3):
        bring(node, number)
    job = NewJob(STUDY, 1, "liver", {"t1": f"{STUDY}.1"}, "f", 2)
    assert node.studies.start_early(job, early_start(job, "t1 is series 1.2.3.1"), node.study().last_received_at)
    complete = decision(node, 10)
    assert isinstance(complete, Completion)
    (evidence,) = node.studies.evidence(STUDY)
    assert node.studies.complete(evidence, complete, node.study().last_received_at)
    text, told = explained(node)
    assert "Early: liver: starts before the study is complete" in text
    assert "Complete: 3 instances; 3 of 3 declared images; all associations released and quiet for 10 s" in text
    assert "evidence: declared counts, after 10 s, revision 1" in text
    assert "series 1.2.3.1: 3 of 3 declared images (declared count)" in text
    assert "Priority: study 2, job 1 2" in text
    assert told["waiting"] is None
    assert [(j["id"], j["application"], j["state"], j["priority"]) for j in told["jobs"]] == [(1, "liver", "QUEUED", 2)]
    assert "priority 2" in text_of(jobs_list(list_jobs(node.jobs.list(), [], ())))


def test_what_a_destination_did_not_take(node: Node) -> None:
    """Both views name what was sent instead; objects that stand for others are told of only where they are needed."""
    node.store(received())
    node.complete()
    new = NewJob(STUDY, 1, "liver", {}, "f")
    assert node.studies.route(STUDY, 1, "applies", [new], UNDECIDED, NOW)
    job = node.claim()
    made = objects(job, "PACS", stand_ins={"RTSTRUCT": "SEG", "SR-COMPREHENSIVE": "SR"})
    assert node.jobs.succeed(job.id, "worker", made, {}, NOW)
    seg = node.next()
    assert seg is not None
    ids = {target.kind: target.id for target, _ in node.deliveries.offered(job.id, "PACS")}
    why = {ids["SEG"]: Undelivered("no SEG there; sent instead: RTSTRUCT", replaced=True)}
    assert node.deliveries.choose_again(seg.id, "dispatch", [ids["RTSTRUCT"], ids["SR"]], why, NOW)
    text, told = explained(node)
    assert "SEG of job 1 → PACS: REPLACED  no SEG there; sent instead: RTSTRUCT" in text
    assert [d["kind"] for d in told["not_delivered"]] == ["SEG"]
    detail = read_study(stores_of(node), node.study())
    assert [o.kind for o in detail.objects] == ["SEG", "SR", "RTSTRUCT"]
    assert "SEG → PACS  REPLACED" in text_of(study_page(detail, summarise(Explanation(detail))))


def test_what_a_destination_did_not_confirm(node: Node) -> None:
    node.store(received())
    node.complete()
    new = NewJob(STUDY, 1, "liver", {}, "f")
    assert node.studies.route(STUDY, 1, "applies", [new], UNDECIDED, NOW)
    assert node.succeed(node.claim(), "PACS")
    for _ in range(2):
        delivery = node.next()
        assert delivery is not None
        node.deliveries.sent(delivery.id, "dispatch", NOW)
    assert explained(node)[1]["not_confirmed"] == []
    confirmations = Confirmations(node.database)
    asked = confirmations.begin("PACS", "1.9.1", NOW, NOW, NOW)
    assert asked is not None
    confirmations.postpone(asked.id, NOW, "not confirmed yet: PACS does not answer")
    assert "SR of job 1 → PACS: SENT  not confirmed yet: PACS does not answer" in explained(node)[0]
    sr = asked.items[1][1]
    confirmations.settle(asked.id, {asked.items[0][1]}, {sr: "it is not there"}, "storage committed", NOW)
    text, told = explained(node)
    assert "SR of job 1 → PACS: QUEUED  sent again: it was accepted and not committed" in text
    assert [d["kind"] for d in told["not_confirmed"]] == ["SR"]
    listed = text_of(jobs_list(list_jobs(node.jobs.list(), node.deliveries.list(), ["PACS"])))
    assert "accepted but not committed (it is not there)" in listed
