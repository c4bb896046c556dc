"""The kinds of jobs, each with the class that performs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicom_node.objects.profiles import ObjectProfile
from dicom_node.work.analysis import Analyses
from dicom_node.work.applications import WarmApplications
from dicom_node.work.first_images import FirstImages
from dicom_node.work.no_result import NoResultReports
from dicom_node.work.output import JobResult, Outputs
from dicom_node.work.withdrawal import Withdrawals
from inference.engine.models import TorchEngine
from storage.log.instances import InstanceStore
from storage.records.jobs import AnalysisDetail, Job, NoResultDetail, WithdrawalDetail
from storage.tables.results import Results


@dataclass(frozen=True)
class Tasks:
    """One collaborator for each kind of job."""

    analyses: Analyses
    no_result_reports: NoResultReports
    withdrawals: Withdrawals

    def perform(self, job: Job) -> JobResult:
        """Do the job. Raises whatever keeps it from being done; nothing of a failed attempt is sent."""
        match job.detail:
            case AnalysisDetail() as detail:
                return self.analyses.perform(job, detail)
            case NoResultDetail() as detail:
                return self.no_result_reports.perform(job, detail)
            case WithdrawalDetail() as detail:
                return self.withdrawals.perform(job, detail)


def build_tasks(
    engine: TorchEngine,
    applications: WarmApplications,
    profiles: Mapping[str, ObjectProfile],
    instances: InstanceStore,
    results: Results,
    objects_dir: Path,
    ae_title: str,
) -> Tasks:
    """Wire the collaborators of one worker. `profiles` has the profile of every destination."""
    outputs = Outputs(results, applications, profiles, objects_dir, ae_title)
    first_images = FirstImages(instances, results)
    withdrawals = Withdrawals(results, outputs, first_images)
    return Tasks(
        analyses=Analyses(engine, applications, instances, outputs, withdrawals),
        no_result_reports=NoResultReports(applications, outputs, first_images),
        withdrawals=withdrawals,
    )
