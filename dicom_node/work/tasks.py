"""The work of a job, chosen by its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicom_node.objects.profiles import ObjectProfile
from dicom_node.work.analysis import AnalysisTask
from dicom_node.work.applications import WarmApplications
from dicom_node.work.first_images import FirstImages
from dicom_node.work.no_result import NoResultTask
from dicom_node.work.one_patient import ensure_studies_of_one_patient
from dicom_node.work.output import JobResult, NodeOrigin, Outputs
from dicom_node.work.withdrawal import WithdrawalTask
from inference.engine.models import TorchEngine
from storage.log.instances import InstanceStore
from storage.records.jobs import AnalysisDetail, Job, NoResultDetail, WithdrawalDetail
from storage.tables.results import Results


@dataclass(frozen=True)
class Tasks:
    """The work of all kinds of jobs."""

    analysis: AnalysisTask
    no_result: NoResultTask
    withdrawal: WithdrawalTask
    instances: InstanceStore

    def perform(self, job: Job) -> JobResult:
        """Do the job, and return its result. Any failure is raised, and nothing of a failed attempt is sent."""
        match job.detail:
            case AnalysisDetail() as detail:
                ensure_studies_of_one_patient(self.instances, (job.study_instance_uid, *detail.earlier))
                return self.analysis.perform(job, detail)
            case NoResultDetail() as detail:
                ensure_studies_of_one_patient(self.instances, [job.study_instance_uid])
                return self.no_result.perform(job, detail)
            case WithdrawalDetail() as detail:
                return self.withdrawal.perform(job, detail)


def build_tasks(
    engine: TorchEngine,
    applications: WarmApplications,
    profiles: Mapping[str, ObjectProfile],
    instances: InstanceStore,
    results: Results,
    objects_dir: Path,
    node: NodeOrigin,
) -> Tasks:
    """Wire the collaborators of one worker. `profiles` has the profile of every destination."""
    outputs = Outputs(results, applications, profiles, objects_dir, node)
    first_images = FirstImages(instances, results)
    withdrawal = WithdrawalTask(results, outputs, first_images)
    return Tasks(
        analysis=AnalysisTask(engine, applications, instances, outputs, withdrawal),
        no_result=NoResultTask(applications, outputs, first_images, withdrawal),
        withdrawal=withdrawal,
        instances=instances,
    )
