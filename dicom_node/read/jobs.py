"""Jobs as the operator sees them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.read.deliveries import ListedDelivery, list_delivery
from dicom_node.read.serialise import serialise
from storage.records.commitments import Commitment, CommitmentState
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.jobs import AnalysisDetail, Job, JobKind, JobState, NoResultDetail, WithdrawalDetail


@dataclass(frozen=True)
class ListedJob:
    """A job with the deliveries of its result objects."""

    job: Job
    deliveries: tuple[ListedDelivery, ...]

    @property
    def is_failed(self) -> bool:
        """True where the job or one of its deliveries is a dead letter."""
        return self.job.state is JobState.FAILED or any(d.state is DeliveryState.FAILED for d in self.deliveries)

    def to_json(self) -> dict[str, Any]:
        return {**serialise(self.job), "deliveries": serialise(self.deliveries)}


def list_jobs(jobs: Sequence[Job], deliveries: Sequence[Delivery], destinations: Collection[str]) -> list[ListedJob]:
    """Return a row for each job. `destinations` are the configured ones."""
    by_job: dict[int, list[ListedDelivery]] = {}
    for delivery in deliveries:
        by_job.setdefault(delivery.object.job_id, []).append(list_delivery(delivery, destinations))
    return [ListedJob(job, tuple(by_job.get(job.id, ()))) for job in jobs]


def purpose(job: Job) -> str:
    """Return the purpose of a job in words; an empty text for an analysis."""
    match job.detail:
        case NoResultDetail(applications=()):
            return "withdraws the report of no AI result, because each application has a result"
        case NoResultDetail(applications=(one,)):
            return f"no AI result ({one.why}): {one.explanation}"
        case NoResultDetail(applications=several):
            return "; ".join(f"no AI result of {one.title} ({one.why}): {one.explanation}" for one in several)
        case WithdrawalDetail(job=withdrawn, reason=reason):
            return f"withdraws the results of job {withdrawn}" + (f": {reason}" if reason else "")
        case AnalysisDetail():
            return ""


def is_dead(record: Job | Delivery | Commitment) -> bool:
    """Return True for a dead letter: only the operator can queue it again."""
    return record.state in (JobState.FAILED, DeliveryState.FAILED, CommitmentState.FAILED)


def why_not_withdrawn(job: Job) -> str:
    """Return the reason why `Results.withdraw` did nothing for this job."""
    if job.kind is JobKind.WITHDRAWAL:
        return f"The job {job.id} is a withdrawal itself, which cannot be withdrawn"
    if job.state is not JobState.SUCCEEDED:
        return f"The job {job.id} is {job.state}; only results of a job that SUCCEEDED can be withdrawn"
    return f"The results of job {job.id} were withdrawn before"
