"""Jobs that report that there is no result, and jobs that take a result back."""

from collections.abc import Sequence

import pytest

from storage.errors import WhyNoResult
from storage.records.deliveries import DeliveryState
from storage.records.jobs import Job, JobKind, JobState, NewJob, NoResultDetail, WithdrawalDetail
from storage.records.studies import StudyState
from storage.tables.database.connection import Database
from storage.tables.jobs import Jobs
from storage.tables.queueing import no_result_fingerprint
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, after, objects, received

ANALYSIS, NO_RESULT = JobKind.ANALYSIS, JobKind.NO_RESULT


def fail(node: Node, reason: str = "one slice is missing", why: WhyNoResult = WhyNoResult.UNUSABLE_IMAGES) -> Job:
    """The job that was claimed first fails for good."""
    job = node.claim()
    assert node.jobs.fail(job.id, "worker", reason, None, NOW, why) is JobState.FAILED
    return job


def report(node: Node) -> None:
    """A worker writes the report that is due."""
    job = node.claim()
    assert job.kind is NO_RESULT
    assert node.jobs.succeed(job.id, "worker", objects(job, "PACS")[1:], {}, NOW)


def kinds(node: Node) -> Sequence[tuple[JobKind, JobState]]:
    return [(job.kind, job.state) for job in node.jobs.list()]


def no_input(node: Node, revision: int = 1, instances: str = "a") -> NewJob:
    fingerprint = no_result_fingerprint(instances, WhyNoResult.INPUT_MISSING, "no series fits")
    detail = NoResultDetail(WhyNoResult.INPUT_MISSING, "no series fits")
    return NewJob(STUDY, revision, "liver", {}, fingerprint, detail=detail)


# -- an analysis that fails --------------------------------------------------------------------------------------------


def test_an_analysis_that_fails_for_good_is_reported(node: Node) -> None:
    node.queue("liver")
    failed = fail(node)
    made = node.claim()
    assert (made.kind, made.application, made.revision, made.inputs) == (NO_RESULT, "liver", 1, failed.inputs)
    assert made.detail == NoResultDetail(WhyNoResult.UNUSABLE_IMAGES, "one slice is missing", failed.id)
    assert "to report that there is no AI result (unusable-images): one slice is missing" in node.texts()[-2]


def test_a_report_that_fails_makes_no_further_one(node: Node) -> None:
    node.queue("liver")
    fail(node)
    fail(node, "no space left")
    assert kinds(node) == [(ANALYSIS, JobState.FAILED), (NO_RESULT, JobState.FAILED)]


def test_an_attempt_that_is_repeated_is_not_reported(node: Node) -> None:
    node.queue("liver")
    node.jobs.fail(node.claim().id, "worker", "busy", after(5), NOW)
    node.claim(now=after(5))
    node.jobs.release_worker("worker", "stopped", 3, counts=False)
    assert kinds(node) == [(ANALYSIS, JobState.RETRYING)]


def test_a_worker_that_is_silent_for_the_last_time_is_reported(node: Node) -> None:
    node.queue("liver")
    node.claim()
    node.jobs.release_silent(node.heartbeats_before(after(50)), 1, after(60))
    made = node.claim()
    told = "its worker fell silent, at the last of 1 attempts"
    assert (made.kind, made.detail) == (NO_RESULT, NoResultDetail(WhyNoResult.FAILURE, told, 1))


def test_a_silent_application_is_not_reported(node: Node, database: Database) -> None:
    node.queue("liver")
    node.jobs = Jobs(database, silent={"liver"})
    fail(node)
    assert kinds(node) == [(ANALYSIS, JobState.FAILED)]


def test_what_is_routed_again_anyway_is_not_reported(node: Node) -> None:
    """A late image: the study is RECEIVING when the job of its first revision fails."""
    node.queue("liver")
    node.store(received(2))
    fail(node)
    assert kinds(node) == [(ANALYSIS, JobState.FAILED)]
    node.route("liver", fingerprint="liver/1")  # the image feeds something else: the same instances, once more
    fail(node)
    assert kinds(node)[2:] == [(NO_RESULT, JobState.QUEUED)]


def test_the_same_failure_is_reported_once(node: Node) -> None:
    node.queue("liver")
    failed = fail(node)
    report(node)
    assert node.jobs.retry(failed.id)
    fail(node)
    assert kinds(node) == [(ANALYSIS, JobState.FAILED), (NO_RESULT, JobState.SUCCEEDED)]
    assert node.jobs.retry(failed.id)
    fail(node, "no memory", WhyNoResult.FAILURE)
    assert kinds(node)[2:] == [(NO_RESULT, JobState.QUEUED)]


def test_a_result_supersedes_the_report_that_there_was_none(node: Node) -> None:
    node.queue("liver")
    failed = fail(node)
    report(node)
    node.arrive()
    assert node.jobs.retry(failed.id)
    again = node.claim()
    (previous,) = node.results.previous_sr(STUDY, "liver", again.id, ["PACS"])
    assert previous.job_id == 2
    assert node.jobs.succeed(again.id, "worker", objects(again, "PACS"), {}, after(5))
    node.arrive()
    (previous,) = node.results.previous_sr(STUDY, "liver", 99, ["PACS"])
    assert previous.job_id == again.id  # it ended later, though its number is lower


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.FAILED])
def test_a_report_is_not_wanted_once_its_job_runs_again(node: Node, state: JobState) -> None:
    node.queue("liver")
    failed = fail(node)
    if state is JobState.FAILED:
        fail(node)
    claimed = node.claim() if state is JobState.RUNNING else None
    assert node.jobs.retry(failed.id)
    if claimed is not None:
        assert not node.succeed(claimed, "PACS")
    assert not node.jobs.retry(2)
    assert kinds(node) == [(ANALYSIS, JobState.QUEUED), (NO_RESULT, JobState.CANCELLED)]


# -- a study without a usable input ------------------------------------------------------------------------------------


def test_an_ignored_study_is_reported_once(node: Node) -> None:
    node.store(received())
    node.complete()
    assert node.studies.ignore(STUDY, 1, "nothing applies", UNDECIDED, NOW, reports=[no_input(node)])
    assert node.study().state is StudyState.IGNORED
    report(node)
    assert node.studies.reroute(STUDY)
    assert node.studies.ignore(STUDY, 1, "nothing applies", UNDECIDED, NOW, reports=[no_input(node)])
    assert kinds(node) == [(NO_RESULT, JobState.SUCCEEDED)]
    node.store(received(2))
    node.complete()
    assert node.studies.ignore(
        STUDY, 2, "nothing applies", UNDECIDED, NOW, reports=[no_input(node, 2, "other instances")]
    )
    assert kinds(node)[1:] == [(NO_RESULT, JobState.QUEUED)]


def test_the_last_decision_on_an_application_stands(node: Node) -> None:
    """Its waiting analysis is superseded by a report that it does not apply, and the other way round."""
    node.queue("liver")
    node.store(received(2))
    node.complete()
    assert node.studies.ignore(STUDY, 2, "nothing applies", UNDECIDED, NOW, reports=[no_input(node, 2)])
    node.store(received(3))
    node.route("liver")
    assert kinds(node) == [
        (ANALYSIS, JobState.CANCELLED),
        (NO_RESULT, JobState.CANCELLED),
        (ANALYSIS, JobState.QUEUED),
    ]


def test_a_result_after_which_none_was_reported_is_computed_again(node: Node) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    assert node.succeed(node.claim(), "PACS")
    assert node.studies.reroute(STUDY)
    assert node.studies.ignore(STUDY, 1, "the model folder is gone", UNDECIDED, NOW, reports=[no_input(node)])
    job = node.claim(now=after(5))
    assert node.jobs.succeed(job.id, "worker", objects(job, "PACS")[1:], {}, after(5))
    node.arrive()
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", [NewJob(STUDY, 1, "liver", {}, "same")], UNDECIDED, NOW)
    again = node.claim(now=after(9))
    (previous,) = node.results.previous_sr(STUDY, "liver", again.id, ["PACS"])
    assert previous.job_id == job.id
    assert node.jobs.succeed(again.id, "worker", objects(again, "PACS"), {}, after(9))
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", [NewJob(STUDY, 1, "liver", {}, "same")], UNDECIDED, NOW)
    assert len(node.jobs.list()) == 3


def test_a_result_stands_again_once_the_report_of_none_is_withdrawn(node: Node) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    assert node.succeed(node.claim(), "PACS")
    assert node.studies.reroute(STUDY)
    assert node.studies.ignore(STUDY, 1, "the model folder is gone", UNDECIDED, NOW, reports=[no_input(node)])
    job = node.claim(now=after(5))
    assert node.jobs.succeed(job.id, "worker", objects(job, "PACS")[1:], {}, after(5))
    assert node.results.withdraw(job.id, "", after(6))
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", [NewJob(STUDY, 1, "liver", {}, "same")], UNDECIDED, NOW)
    assert [kind for kind, _ in kinds(node)] == [ANALYSIS, NO_RESULT, JobKind.WITHDRAWAL]


# -- withdrawal --------------------------------------------------------------------------------------------------------


def test_a_withdrawal_names_what_went_out_and_stops_the_rest(node: Node) -> None:
    node.queue("liver")
    job = node.claim()
    assert node.succeed(job, "PACS", "ARCHIVE", "DOWN")
    seg = node.next("PACS")
    assert seg is not None
    assert node.deliveries.sent(seg.id, "dispatch", NOW)
    flying = node.next("ARCHIVE")
    assert flying is not None

    withdrawal = node.results.withdraw(job.id, "wrong side", after(5))
    assert withdrawal is not None
    assert (withdrawal.kind, withdrawal.state, withdrawal.application) == (
        JobKind.WITHDRAWAL, JobState.QUEUED, "liver",
    )  # fmt: skip
    held = {"PACS": (seg.object.id,), "ARCHIVE": (seg.object.id,)}
    assert withdrawal.detail == WithdrawalDetail(job.id, held, "wrong side")
    states = {(d.destination, d.object.kind): (d.state, d.reason) for d in node.deliveries.list()}
    assert states.pop(("PACS", "SEG")) == (DeliveryState.SENT, "")
    assert set(states.values()) == {(DeliveryState.REPLACED, "withdrawn")}
    assert not node.deliveries.sent(flying.id, "dispatch", NOW)
    assert node.next("PACS") is node.next("ARCHIVE") is node.next("DOWN") is None
    told = "withdrawn: liver: the results of job 1 are withdrawn: wrong side; 5 not sent yet will not be"
    assert told in node.texts()
    assert node.results.withdraw(job.id, "", NOW) is None


def test_only_results_can_be_withdrawn(node: Node) -> None:
    node.queue("liver")
    assert node.results.withdraw(1, "", NOW) is None
    assert node.succeed(node.claim(), "PACS")
    withdrawal = node.results.withdraw(1, "", NOW)
    assert withdrawal is not None
    claimed = node.claim()
    assert claimed.id == withdrawal.id
    assert node.succeed(claimed, "PACS")
    assert node.results.withdraw(withdrawal.id, "", NOW) is None
    assert node.results.withdraw(99, "", NOW) is None


def test_a_withdrawn_result_is_no_predecessor(node: Node) -> None:
    node.deliver("PACS")
    node.arrive()
    node.store(received(2))
    node.route("liver")
    second = node.claim()
    assert node.succeed(second, "PACS")
    node.arrive()
    assert [o.job_id for o in node.results.previous_sr(STUDY, "liver", 99, ["PACS"])] == [second.id]
    assert [o.job_id for o in node.results.superseded(STUDY, "liver", 99, "PACS")] == [1, 1, second.id, second.id]
    assert node.results.withdraw(second.id, "", NOW)
    assert [o.job_id for o in node.results.previous_sr(STUDY, "liver", 99, ["PACS"])] == [1]
    assert [o.job_id for o in node.results.superseded(STUDY, "liver", 99, "PACS")] == [1, 1]
    assert node.results.withdraw(1, "", NOW)
    assert node.results.superseded(STUDY, "liver", 99, "PACS") == []


def test_a_result_without_report_is_superseded_too(node: Node) -> None:
    """Its destination may not take reports."""
    node.queue("liver")
    job = node.claim()
    assert node.jobs.succeed(job.id, "worker", objects(job, "PACS")[:1], {}, NOW)
    node.arrive()
    assert [o.kind for o in node.results.superseded(STUDY, "liver", 99, "PACS")] == ["SEG"]
    assert node.results.superseded(STUDY, "liver", 99, "ARCHIVE") == []


def test_newer_images_do_not_supersede_a_withdrawal(node: Node) -> None:
    node.deliver("PACS")
    withdrawal = node.results.withdraw(1, "", NOW)
    assert withdrawal is not None
    node.store(received(2))
    node.route("liver")
    assert node.claim().id == withdrawal.id
    assert node.jobs.fail(withdrawal.id, "worker", "broke", None, NOW) is JobState.FAILED
    assert node.jobs.retry(withdrawal.id)
    assert len(node.jobs.list()) == 3  # its failure was not reported
