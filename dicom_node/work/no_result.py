"""The report of no result, for the destinations of an application that computed nothing."""

import logging

from pydicom.uid import ComprehensiveSRStorage

from dicom_node.objects.build import BuiltObject
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.sr import as_sop_class
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.work.applications import WarmApplications
from dicom_node.work.first_images import FirstImages
from dicom_node.work.output import JobResult, Outputs
from inference.contract.application import Application
from inference.contract.findings import NoResult
from storage.records.jobs import Job, NoResultDetail
from storage.records.results import ObjectKind

log = logging.getLogger(__name__)


class NoResultTask:
    """The work of jobs of kind NO_RESULT."""

    def __init__(self, applications: WarmApplications, outputs: Outputs, first_images: FirstImages) -> None:
        self._applications = applications
        self._outputs = outputs
        self._first_images = first_images

    def perform(self, job: Job, detail: NoResultDetail) -> JobResult:
        """Write the report for every destination of the application, whatever kinds of objects its profile names.

        The report needs no model, so it is written even if the model cannot be used.
        """
        result = self._no_result(job, detail)
        images, output = self._first_images.find(job), self._outputs.begin(job)
        objects = []
        for group in output.groups:  # each group may have got another report before, which this one supersedes
            context = output.context(group.names, group.profile.key)
            report = build_no_result(result, images, context)
            other = as_sop_class(
                report,
                ComprehensiveSRStorage,
                context.uid("no-result Comprehensive SR series"),
                context.uid("no-result Comprehensive SR"),
            )
            forms = (
                BuiltObject(ObjectKind.SR, report),
                BuiltObject(ObjectKind.SR_COMPREHENSIVE, other, stands_for=(ObjectKind.SR,)),
            )
            objects += [output.write(form, group.names) for form in forms]
        return JobResult(objects, {"why": detail.why})

    def _no_result(self, job: Job, detail: NoResultDetail) -> NoResult:
        configured = self._applications.configured(job.application)
        application: Application | None = None
        try:
            application = self._applications.load(job.application)
        except Exception as error:
            log.info(
                "The report of no result names no algorithm, because the application cannot be loaded: %s",
                unexpected(error),
                extra=fields("algorithm_omitted", job=job.id),
            )
        return NoResult(
            title=configured.manifest.title if configured.manifest is not None else configured.name,
            why=detail.why,
            explanation=detail.explanation,
            started_at=job.started_at or job.created_at,
            algorithm=None if application is None else application.algorithm,
            research=application is None or application.research,
        )
