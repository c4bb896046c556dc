"""Jobs that report that there is no result, and jobs that take a result back."""

from collections.abc import Sequence

import pytest

from storage.errors import WhyNoResult
from storage.records.deliveries import DeliveryState
from storage.records.jobs import Job, JobKind, JobState, NewJob, NoResultDetail, WithdrawalDetail, WithoutResult
from storage.records.problems import ProblemKind
from storage.records.studies import StudyState
from storage.tables.problems import is_problem
from storage.tables.queueing import mark_for_report
from tests.storage.node import NOW, STUDY, UNDECIDED, Node, after, objects, received

ANALYSIS, NO_RESULT = JobKind.ANALYSIS, JobKind.NO_RESULT


def fail(node: Node, reason: str = "one slice is missing", why: WhyNoResult = WhyNoResult.UNUSABLE_IMAGES) -> Job:
    """The job that was claimed first fails for good."""
    job = node.claim()
    assert node.jobs.fail(job.id, "worker", reason, None, NOW, why) is JobState.FAILED
    return job


def missing(application: str = "liver") -> WithoutResult:
    return WithoutResult(application, WhyNoResult.INPUT_MISSING, "no series fits")


def write(node: Node, seconds: float = 0) -> Job:
    """A worker writes the report that is due, or takes the last one back."""
    job = node.claim(now=after(seconds))
    assert job.kind is NO_RESULT
    written = objects(job, "PACS")[1:] if isinstance(job.detail, NoResultDetail) and job.detail.applications else []
    assert node.jobs.succeed(job.id, "worker", written, {}, after(seconds))
    return job


def ignore(node: Node, revision: int = 1) -> None:
    """Complete and route the study to no application."""
    if node.study().state is StudyState.RECEIVING:
        node.complete()
    elif node.study().state is not StudyState.COMPLETE:
        assert node.studies.reroute(STUDY)
    assert node.studies.ignore(STUDY, revision, "nothing applies", UNDECIDED, NOW)


def kinds(node: Node) -> Sequence[tuple[JobKind, JobState]]:
    return [(job.kind, job.state) for job in node.jobs.list()]


# -- marks -------------------------------------------------------------------------------------------------------------


def test_what_ends_marks_the_study_and_a_try_that_is_due_does_not(node: Node) -> None:
    node.queue("liver")
    assert node.no_results.pending()
    (marked,) = node.no_results.pending()
    assert node.no_results.decide(marked, None, NOW) is None  # the analysis may still give a result
    assert node.no_results.pending() == []
    node.jobs.fail(node.claim().id, "worker", "busy", after(5), NOW)
    assert node.no_results.pending() == []
    failed = node.claim(now=after(5))
    assert node.jobs.fail(failed.id, "worker", "one slice is missing", None, NOW, WhyNoResult.UNUSABLE_IMAGES)
    assert len(node.no_results.pending()) == 1
    (kept,) = node.no_results.jobs(STUDY)
    assert (kept.state, kept.reason, kept.why) == (
        JobState.FAILED, "one slice is missing", WhyNoResult.UNUSABLE_IMAGES,
    )  # fmt: skip
    assert node.jobs.retry(failed.id)
    assert node.succeed(node.claim(), "PACS")
    (marked,) = node.no_results.pending()
    assert [(j.state, j.why) for j in node.no_results.jobs(STUDY)] == [(JobState.SUCCEEDED, None)]


def test_a_worker_that_is_silent_for_the_last_time_marks_the_study(node: Node) -> None:
    node.queue("liver")
    node.claim()
    node.jobs.release_silent(node.heartbeats_before(after(50)), 1, after(60))
    (failed,) = node.no_results.jobs(STUDY)
    assert (failed.reason, failed.why) == ("its worker fell silent, at the last of 1 attempts", WhyNoResult.FAILURE)
    assert len(node.no_results.pending()) == 1


def test_a_study_that_was_marked_again_is_decided_again(node: Node) -> None:
    node.queue("liver")
    (early,) = node.no_results.pending()
    fail(node)
    mark_again = node.no_results.pending()
    assert mark_again == [early]  # both at the same time of this test
    with node.database.session() as session:
        mark_for_report(session, STUDY, after(1))
    assert node.no_results.decide(early, NoResultDetail((missing(),)), NOW) is None
    assert kinds(node) == [(ANALYSIS, JobState.FAILED)]


def test_a_study_that_gets_new_images_waits_for_its_routing(node: Node) -> None:
    node.queue("liver")
    fail(node)
    (marked,) = node.no_results.pending()
    node.store(received(2))
    assert node.no_results.pending() == []
    assert node.no_results.decide(marked, NoResultDetail((missing(),)), NOW) is None


# -- one report stands -------------------------------------------------------------------------------------------------


def test_one_report_names_all_applications_and_the_next_one_replaces_it(node: Node) -> None:
    node.store(received())
    ignore(node)
    assert node.report(missing(), missing("brain")) == 1
    (first,) = node.jobs.list()
    assert (first.kind, first.application, first.revision, first.inputs) == (NO_RESULT, "liver, brain", 1, {})
    assert "to report that there is no AI result (liver: input-missing; brain: input-missing)" in node.texts()[-1]
    write(node)
    node.arrive()
    ignore(node)
    assert node.report(missing(), missing("brain")) is None  # nothing else is to be said
    node.store(received(2))
    ignore(node, 2)
    assert node.report(missing("brain"), contents="b") == 2
    (previous,) = node.results.previous_no_result(STUDY, 2, ["PACS"])
    assert previous.job_id == 1
    assert [o.job_id for o in node.results.previous_sr(STUDY, "liver", 9, ["PACS"])] == [1]
    write(node, 5)
    node.arrive()
    assert [o.job_id for o in node.results.previous_sr(STUDY, "liver", 9, ["PACS"])] == [1]
    assert [o.job_id for o in node.results.previous_sr(STUDY, "brain", 9, ["PACS"])] == [2]
    assert [o.job_id for o in node.results.held_no_result(STUDY, 9, "PACS")] == [1, 2]


def test_a_report_that_is_not_written_gives_way_to_new_images(node: Node) -> None:
    node.store(received())
    ignore(node)
    assert node.report(missing())
    node.store(received(2))
    assert node.jobs.claim("worker", after(9)) is None  # it waits until the study is routed again
    node.route("liver")
    assert kinds(node) == [(NO_RESULT, JobState.CANCELLED), (ANALYSIS, JobState.QUEUED)]


def test_a_report_that_is_not_sent_never_arrives_after_the_next(node: Node) -> None:
    node.store(received())
    ignore(node)
    assert node.report(missing())
    write(node)
    (delivery,) = node.deliveries.list()
    node.deliveries.conflict(delivery)
    ignore(node)
    assert node.report() is None  # nobody got it, so there is nothing to withdraw
    assert node.next() is None
    (delivery,) = node.deliveries.list()
    assert delivery.state is DeliveryState.REPLACED
    with node.database.reading() as session:
        assert not is_problem(session, ProblemKind.UNEXPECTED_DUPLICATE, str(delivery.id))


def test_a_report_that_may_have_arrived_is_withdrawn_though_it_was_replaced(node: Node) -> None:
    node.store(received())
    ignore(node)
    assert node.report(missing())
    write(node)
    sent = node.next()
    assert sent is not None
    node.deliveries.may_have_arrived(sent.id, "dispatch")
    node.deliveries.fail(sent.id, "dispatch", "no answer", after(5), NOW)
    ignore(node)
    job = node.report()
    assert job is not None
    assert node.deliveries.list()[0].state is DeliveryState.REPLACED
    assert [o.job_id for o in node.results.held_no_result(STUDY, job, "PACS")] == [1]
    assert [o.job_id for o in node.results.previous_no_result(STUDY, job, ["PACS"])] == [1]


def test_a_report_is_withdrawn_once_each_application_has_a_result(node: Node) -> None:
    node.queue("liver")
    failed = fail(node)
    told = WithoutResult("liver", WhyNoResult.UNUSABLE_IMAGES, "one slice is missing", failed.id)
    assert node.report(told)
    write(node)
    node.arrive()
    assert node.jobs.retry(failed.id)
    again = node.claim()
    (previous,) = node.results.previous_sr(STUDY, "liver", again.id, ["PACS"])
    assert previous.job_id == 2
    assert node.jobs.succeed(again.id, "worker", objects(again, "PACS"), {}, after(5))
    node.arrive()
    (previous,) = node.results.previous_sr(STUDY, "liver", 99, ["PACS"])
    assert previous.job_id == again.id  # it ended later, though its number is lower
    assert node.report() == 3
    assert node.jobs.list()[2].application == "liver"
    assert [o.job_id for o in node.results.held_no_result(STUDY, 3, "PACS")] == [2]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.FAILED])
def test_a_report_is_not_wanted_once_its_job_runs_again(node: Node, state: JobState) -> None:
    node.queue("liver")
    failed = fail(node)
    assert node.report(missing())
    if state is JobState.FAILED:
        fail(node)
    claimed = node.claim() if state is JobState.RUNNING else None
    assert node.jobs.retry(failed.id)
    if claimed is not None:
        assert not node.succeed(claimed, "PACS")
    assert not node.jobs.retry(2)
    assert kinds(node) == [(ANALYSIS, JobState.QUEUED), (NO_RESULT, JobState.CANCELLED)]


def test_a_report_that_fails_makes_no_further_one(node: Node) -> None:
    node.queue("liver")
    fail(node)
    assert node.report(missing())
    fail(node, "no space left")
    assert kinds(node) == [(ANALYSIS, JobState.FAILED), (NO_RESULT, JobState.FAILED)]
    assert node.no_results.pending() == []


# -- the last decision about an application stands ---------------------------------------------------------------------


def test_an_analysis_that_does_not_apply_any_more_is_superseded(node: Node) -> None:
    """One that waits is cancelled, and one that failed cannot be queued again: newer images say otherwise."""
    node.queue("liver", "brain")
    failed = fail(node)
    node.store(received(2))
    ignore(node, 2)
    assert [state for _, state in kinds(node)] == [JobState.FAILED, JobState.CANCELLED]
    assert not node.jobs.retry(failed.id)
    assert node.no_results.jobs(STUDY) == []


def test_a_result_after_which_none_was_reported_is_computed_again(node: Node) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    assert node.succeed(node.claim(), "PACS")
    ignore(node)
    assert node.report(missing())
    reported = write(node, 5)
    node.arrive()
    same = [NewJob(STUDY, 1, "liver", {}, "same")]
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", same, UNDECIDED, NOW)
    again = node.claim(now=after(9))
    (previous,) = node.results.previous_sr(STUDY, "liver", again.id, ["PACS"])
    assert previous.job_id == reported.id
    assert node.jobs.succeed(again.id, "worker", objects(again, "PACS"), {}, after(9))
    assert node.studies.reroute(STUDY)
    assert node.studies.route(STUDY, 1, "applies", same, UNDECIDED, NOW)
    assert len(node.jobs.list()) == 3


def test_a_result_stands_again_once_the_report_of_none_is_withdrawn(node: Node) -> None:
    node.store(received())
    node.route("liver", fingerprint="same")
    assert node.succeed(node.claim(), "PACS")
    ignore(node)
    assert node.report(missing())
    reported = write(node, 5)
    assert node.results.withdraw(reported.id, "", after(6))
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


def test_reports_and_results_count_apart(node: Node) -> None:
    """Each report of a study has another number and description, whichever applications it names."""
    node.queue("liver")
    failed = fail(node)
    node.report(missing())
    first = write(node)
    assert node.jobs.retry(failed.id)
    result = node.claim()
    assert node.succeed(result, "PACS")
    node.report(missing("knee"))
    second = write(node)
    assert [node.results.edition(job) for job in (first, result, second)] == [1, 1, 2]
