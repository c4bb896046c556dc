"""The analysis: an application runs over the series of a study, and its findings become result objects."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from dicom_node.objects.build import build_objects
from dicom_node.read.visits import SAMPLES, read_acquisition_date
from dicom_node.runtime.logs import fields
from dicom_node.work.applications import WarmApplications
from dicom_node.work.one_patient import ensure_images_of_one_patient
from dicom_node.work.output import JobResult, Outputs
from dicom_node.work.withdrawal import WithdrawalTask
from inference.contract.application import Progress
from inference.contract.inputs import split_key
from inference.contract.series_input import SeriesInput
from inference.engine.models import TorchEngine
from storage.log.instances import InstanceStore
from storage.records.jobs import AnalysisDetail, Job

log = logging.getLogger(__name__)


class AnalysisTask:
    """The work of jobs of kind ANALYSIS."""

    def __init__(
        self,
        engine: TorchEngine,
        applications: WarmApplications,
        instances: InstanceStore,
        outputs: Outputs,
        withdrawal: WithdrawalTask,
    ) -> None:
        self._engine = engine
        self._applications = applications
        self._instances = instances
        self._outputs = outputs
        self._withdrawal = withdrawal

    def perform(self, job: Job, detail: AnalysisDetail) -> JobResult:
        """Run the application, and write the objects of its findings for each group of destinations.

        Rejection notes for superseded results come last.
        """
        application = self._applications.load(job.application)
        inputs = self._inputs(job, detail)
        ensure_images_of_one_patient(blob for series in inputs.values() for blob in series.blobs)
        started = time.monotonic()
        findings = application.run(inputs, self._engine, _log_progress(job))
        findings = replace(
            findings,
            notes=(*findings.notes, *detail.left_out, *self._not_compared(detail)),
            input_series=detail.used,
        )
        computed = time.monotonic()
        output = self._outputs.begin(job)
        objects = [
            output.write(built, group.names)
            for group in output.groups
            for built in build_objects(findings, output.context(group.names), group.profile)
        ]
        objects += self._withdrawal.superseded(output)
        return JobResult(
            objects,
            {
                "structures": [segment.label for segment in findings.segments],
                "device": str(self._engine.device),
                "inference_seconds": round(computed - started, 2),
                "encoding_seconds": round(time.monotonic() - computed, 2),
            },
        )

    def _inputs(self, job: Job, detail: AnalysisDetail) -> dict[str, SeriesInput]:
        """Return the series that the job names, by input. Time points from 1 are earlier studies."""
        studies = [job.study_instance_uid, *detail.earlier]
        series = [{s.series_instance_uid: s for s in self._instances.series(uid)} for uid in studies]
        inputs = {}
        for key, uid in job.inputs.items():
            name, time_point = split_key(key)
            blobs = tuple(instance.blob for instance in series[time_point][uid].instances)
            inputs[key] = SeriesInput(name, uid, blobs, time_point, read_acquisition_date(blobs))
        return inputs

    def _not_compared(self, detail: AnalysisDetail) -> Iterator[str]:
        """Yield a sentence for each earlier study of the patient that routing did not take.

        The application does not know these studies, and the reader of the report must not think that there are none.
        """
        for study in detail.not_taken:
            sample = self._instances.sample(study.study_instance_uid, SAMPLES)
            day = read_acquisition_date([instance.blob for instance in sample])
            which = "other" if study.days is None else "earlier"  # its date is unknown, so it may be a later one
            when = "" if day is None else f" of {day.isoformat()}"
            yield f"The {which} study{when} was not compared: {study.reason}."


def _log_progress(job: Job) -> Progress:
    def progress(what: str, fraction: float) -> None:
        log.info("%s (%.0f %%)", what, 100 * fraction, extra=fields("job_progressed", job=job.id))

    return progress
