"""The queue of jobs: claimed once, held by a heartbeat, ended once."""

import multiprocessing
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from storage.blobs import FileBlob
from storage.errors import Permanent, WhyNoResult
from storage.records.deliveries import DeliveryState
from storage.records.jobs import (
    AnalysisDetail,
    JobDetail,
    JobState,
    NewJob,
    NoResultDetail,
    NotCompared,
    WithdrawalDetail,
    WithoutResult,
)
from storage.records.results import NewObject
from storage.tables.database import schema
from storage.tables.database.connection import Database
from storage.tables.jobs import Jobs
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, after, objects, received


def test_a_job_is_claimed_once(node: Node) -> None:
    node.queue("liver")
    job = node.claim("a", after(1))
    assert (job.state, job.attempts, job.worker, job.started_at) == (JobState.RUNNING, 1, "a", after(1))
    assert (job.application, job.inputs, job.revision) == ("liver", {"t1": f"{STUDY}.1"}, 1)
    assert node.jobs.claim("b", after(2)) is None
    assert node.jobs.get(job.id) == job
    assert node.jobs.get(99) is None


@pytest.mark.parametrize(
    ("detail", "stored"),
    [
        (AnalysisDetail(), {}),
        (AnalysisDetail(("1.8",)), {"earlier": ["1.8"]}),
        (
            AnalysisDetail(not_taken=(NotCompared("1.7", None, "no T1w"),)),
            {"not_taken": [{"study_instance_uid": "1.7", "days": None, "reason": "no T1w"}]},
        ),
        (NoResultDetail(), {"applications": [], "contents": ""}),
        (
            NoResultDetail((WithoutResult("liver", WhyNoResult.FAILURE, "broken", 7),), "c"),
            {
                "why": "failure",
                "explanation": "broken",
                "job": 7,
                "applications": [{"application": "liver", "why": "failure", "explanation": "broken", "job": 7}],
                "contents": "c",
            },
        ),
        (WithdrawalDetail(7, {"PACS": (1, 2)}, ""), {"job": 7, "reason": "", "objects": {"PACS": [1, 2]}}),
    ],
)
def test_what_a_job_needs_to_know_is_kept_as_json(node: Node, detail: JobDetail, stored: dict[str, Any]) -> None:
    node.store(received())
    study = node.complete()
    job = NewJob(STUDY, study.revision, "liver", {}, "f", detail=detail)
    assert node.studies.route(STUDY, study.revision, "applies", [job], UNDECIDED, NOW)
    with node.database.reading() as session:
        assert session.scalars(select(schema.JobRow.detail)).all() == [stored]
    (kept,) = node.jobs.list()
    assert (kept.kind, kept.detail) == (detail.kind, detail)


def test_the_oldest_comes_first(node: Node) -> None:
    node.queue("one", "two")
    node.queue("three", uid="1.9")
    assert [node.claim(w).application for w in "abc"] == ["one", "two", "three"]


def _claim_all(url: str, name: str, claimed: "multiprocessing.Queue[tuple[str, int]]", start: object) -> None:
    jobs = Jobs(Database(url))
    start.wait()  # type: ignore[attr-defined]

    def work(worker: str) -> None:
        while (job := jobs.claim(worker, NOW)) is not None:
            claimed.put((worker, job.id))
        claimed.put((worker, 0))

    threads = [threading.Thread(target=work, args=(f"{name}-{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_processes_and_threads_claim_each_job_once(node: Node, url: str) -> None:
    node.queue(*(f"application {n}" for n in range(40)))
    spawn = multiprocessing.get_context("spawn")
    claimed, start = spawn.Queue(), spawn.Barrier(2)
    processes = [spawn.Process(target=_claim_all, args=(url, name, claimed, start)) for name in ("a", "b")]
    for process in processes:
        process.start()
    seen = [claimed.get(timeout=60) for _ in range(44)]
    for process in processes:
        process.join()
    assert Counter(job for _, job in seen if job) == {job.id: 1 for job in node.jobs.list()}
    assert all(job.worker for job in node.jobs.list(states=[JobState.RUNNING]))
    assert len(node.jobs.list(states=[JobState.RUNNING])) == 40


def test_a_failed_attempt_waits_for_its_time(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    assert node.jobs.fail(job.id, "worker", "out of memory", after(10), after(1)) is JobState.RETRYING
    assert node.jobs.claim("worker", after(9)) is None
    again = node.claim(now=after(10))
    assert (again.id, again.attempts, again.reason) == (job.id, 2, "out of memory")
    assert "warning: liver: job 1 will run again: out of memory" in node.texts()


def test_a_dead_letter_is_queued_again_by_hand(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    assert not node.jobs.retry(job.id)
    assert node.jobs.fail(job.id, "worker", "no model", None, after(1)) is JobState.FAILED
    (dead,) = node.jobs.list(states=[JobState.FAILED])
    assert (dead.reason, dead.finished_at) == ("no model", after(1))
    assert node.jobs.retry(job.id)
    assert not node.jobs.retry(job.id)
    again = node.claim()
    assert (again.attempts, again.reason, again.finished_at) == (1, "", None)
    assert not node.jobs.retry(99)


def test_a_dead_letter_that_was_replaced_stays(node: Node) -> None:
    """Its result would follow that of the newer revision."""
    node.queue("liver")
    job = node.claim()
    node.jobs.fail(job.id, "worker", "no model", None, NOW)
    node.store(received(2))
    node.route("liver")
    assert not node.jobs.retry(job.id)


def test_success_ends_the_job_and_enqueues_its_objects(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    assert node.jobs.succeed(job.id, "worker", objects(job, "PACS", "ARCHIVE"), {"device": "cpu"}, after(5))
    ended = node.jobs.get(job.id)
    assert ended is not None
    assert (ended.state, ended.finished_at, ended.reason) == (JobState.SUCCEEDED, after(5), "")
    seg, sr = node.results.objects(STUDY)
    assert (seg.kind, seg.sequence, sr.kind, sr.sequence) == ("SEG", 0, "SR", 1)
    assert seg.blob == FileBlob(Path("/objects/1/SEG.dcm"))
    assert [(d.destination, d.object.kind, d.state) for d in node.deliveries.list()] == [
        ("ARCHIVE", "SEG", DeliveryState.QUEUED),
        ("ARCHIVE", "SR", DeliveryState.QUEUED),
        ("PACS", "SEG", DeliveryState.QUEUED),
        ("PACS", "SR", DeliveryState.QUEUED),
    ]
    event = node.studies.events(STUDY)[-1]
    assert (event.stage, event.text, event.job_id) == ("encoded", "liver: SEG, SR, for PACS, ARCHIVE", job.id)
    assert event.data == {"device": "cpu"}


def test_a_job_ends_once(node: Node) -> None:
    job = node.deliver("PACS")
    assert not node.succeed(job, "PACS")
    assert node.jobs.fail(job.id, "worker", "late", None, NOW) is JobState.SUCCEEDED
    assert not node.jobs.heartbeat(job.id, "worker", NOW)
    assert len(node.deliveries.list()) == 2
    with pytest.raises(Permanent, match="no job 99"):
        node.jobs.fail(99, "worker", "?", None, NOW)


def test_an_attempt_that_was_released_counts_for_nothing(node: Node) -> None:
    """The first worker was only slow; the second one has the job now, and the objects have the same UIDs."""
    node.queue("liver")
    job = node.claim("slow")
    node.jobs.release_silent(node.heartbeats_before(after(30)), 3, after(31))
    again = node.claim("quick", after(31))
    assert again.id == job.id
    assert not node.jobs.heartbeat(job.id, "slow", after(32))
    assert not node.succeed(job, "PACS", worker="slow")
    assert node.jobs.fail(job.id, "slow", "late", None, after(32)) is JobState.RUNNING
    assert node.succeed(again, "PACS", worker="quick")
    assert not node.succeed(job, "PACS", worker="slow")
    assert len(node.results.objects(STUDY)) == len(node.deliveries.list()) == 2


def test_the_uid_of_another_jobs_object_is_refused(node: Node) -> None:
    node.queue("liver", "knee")
    first, second = node.claim(), node.claim()
    assert node.succeed(first, "PACS")
    with pytest.raises(Permanent, match="belongs to job"):
        node.jobs.succeed(second.id, "worker", objects(first, "PACS"), {}, NOW)
    left = node.jobs.get(second.id)
    assert left is not None
    assert left.state is JobState.RUNNING  # nothing of the transaction remains


# -- workers that are gone ---------------------------------------------------------------------------------------------


def test_a_heartbeat_keeps_the_job(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    assert node.jobs.release_silent(node.heartbeats_before(NOW), 3, after(1)) == []
    assert node.jobs.heartbeat(job.id, "worker", after(20))
    assert node.jobs.release_silent(node.heartbeats_before(after(15)), 3, after(30)) == []
    (released,) = node.jobs.release_silent(node.heartbeats_before(after(21)), 3, after(50))
    assert (released.id, released.state, released.attempts) == (job.id, JobState.RETRYING, 1)
    assert not node.jobs.heartbeat(job.id, "worker", after(51))


def test_the_last_attempt_that_stalls_is_a_dead_letter(node: Node) -> None:
    node.queue("liver")
    for second in (0, 100):
        node.claim(now=after(second))
        (released,) = node.jobs.release_silent(node.heartbeats_before(after(second + 50)), 2, after(second + 60))
    assert released.state is JobState.FAILED
    assert "at the last of 2 attempts" in released.reason


def test_a_restarted_worker_gives_back_what_it_held(node: Node) -> None:
    node.queue("liver", "knee")
    mine, others = node.claim("mine"), node.claim("other")
    (released,) = node.jobs.release_worker("mine", "its worker was restarted", 3)
    assert (released.id, released.state, released.attempts) == (mine.id, JobState.RETRYING, 1)
    assert node.jobs.release_worker("mine", "its worker was restarted", 3) == []
    assert [job.id for job in node.jobs.list(states=[JobState.RUNNING])] == [others.id]
    assert node.jobs.release_worker("other", "its worker was restarted", 1)[0].state is JobState.FAILED


def test_stopping_the_node_is_not_an_attempt(node: Node) -> None:
    node.queue("liver")
    node.claim()
    for _ in range(3):
        (released,) = node.jobs.release_worker("worker", "the node was stopped", 1, counts=False)
        assert (released.state, released.attempts) == (JobState.RETRYING, 0)
        assert node.claim(now=released.run_after).attempts == 1


# -- results of earlier revisions --------------------------------------------------------------------------------------


def test_the_report_of_the_latest_earlier_revision_is_found(node: Node) -> None:
    assert node.results.previous_sr(STUDY, "liver", 99, ["PACS"]) == []
    node.queue("liver", "knee")
    for _ in range(2):
        node.succeed(node.claim(), "PACS")
    assert node.results.previous_sr(STUDY, "liver", 99, ["PACS"]) == []  # nobody has them yet
    for revision in (2, 3):
        node.arrive()
        node.store(received(revision))
        node.route("liver")
        job = node.claim()
        (previous,) = node.results.previous_sr(STUDY, "liver", job.id, ["PACS"])
        assert previous.kind == "SR"
        assert previous.job_id == (1 if revision == 2 else 3)
        assert node.succeed(job, "PACS")


def test_the_report_of_other_weights_is_found_in_the_same_revision(node: Node) -> None:
    node.deliver("PACS")
    node.arrive()
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", [NewJob(STUDY, 1, "liver", {}, "other weights")], UNDECIDED, NOW)
    job = node.claim()
    assert (job.id, job.revision) == (2, 1)
    (previous,) = node.results.previous_sr(STUDY, "liver", job.id, ["PACS"])
    assert (previous.kind, previous.job_id) == ("SR", 1)


def test_a_revision_without_report_is_passed_over(node: Node) -> None:
    node.deliver("PACS")
    node.arrive()
    node.store(received(2))
    node.route("liver")
    job = node.claim()
    only_seg: list[NewObject] = objects(job, "PACS")[:1]
    assert node.jobs.succeed(job.id, "worker", only_seg, {}, NOW)
    (previous,) = node.results.previous_sr(STUDY, "liver", job.id + 1, ["PACS"])
    assert previous.job_id == 1


def test_jobs_are_listed_by_state_and_study(node: Node) -> None:
    node.queue("liver")
    node.queue("knee", uid="1.9")
    node.claim()
    assert [j.application for j in node.jobs.list()] == ["liver", "knee"]
    assert [j.application for j in node.jobs.list(study="1.9")] == ["knee"]
    assert [j.application for j in node.jobs.list(states=[JobState.RUNNING])] == ["liver"]
    assert node.jobs.list(states=[JobState.RUNNING], study="1.9") == []


def test_a_later_result_ends_later_even_if_the_clock_was_set_back(node: Node) -> None:
    node.queue("liver")
    first = node.claim()
    assert node.jobs.succeed(first.id, "worker", objects(first, "PACS"), {}, after(3600))
    node.store(received(2))
    node.route("liver")
    second = node.claim()
    assert node.jobs.succeed(second.id, "worker", objects(second, "PACS"), {}, after(0))
    ended = [job.finished_at for job in node.jobs.list()]
    assert ended == [after(3600), after(3600) + timedelta(microseconds=1)]
