"""The report of no result: one for all applications of a study that computed nothing, for each destination."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import ComprehensiveSRStorage

from dicom_node.objects.build import BuiltObject
from dicom_node.objects.no_result import build_no_result
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.objects.sr import as_sop_class
from dicom_node.runtime.logs import fields, unexpected
from dicom_node.work.applications import WarmApplications
from dicom_node.work.first_images import FirstImages
from dicom_node.work.one_patient import ensure_images_of_one_patient
from dicom_node.work.output import JobOutput, JobResult, Outputs
from dicom_node.work.withdrawal import WithdrawalTask
from inference.contract.application import Application
from inference.contract.findings import NoResult, NotComputed
from storage.errors import ModelRefused
from storage.records.jobs import Job, NoResultDetail, WithoutResult, of_side
from storage.records.results import NewObject, ObjectKind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Addressees:
    """Destinations that get the same report: with the same profile, about the same applications."""

    profile: ObjectProfile
    applications: tuple[WithoutResult, ...]
    names: tuple[str, ...]

    @property
    def seed(self) -> str:
        return "/".join([self.profile.key, *(one.title for one in self.applications)])


class NoResultTask:
    """The work of jobs of kind NO_RESULT."""

    def __init__(
        self, applications: WarmApplications, outputs: Outputs, first_images: FirstImages, withdrawal: WithdrawalTask
    ) -> None:
        self._applications = applications
        self._outputs = outputs
        self._first_images = first_images
        self._withdrawal = withdrawal

    def perform(self, job: Job, detail: NoResultDetail) -> JobResult:
        """Write the report for every destination of these applications, whatever kinds of objects its profile names.

        A destination that holds an earlier report, and for which no application is without a result any more, gets a
        rejection note instead. The report needs no model, so it is written even if a model cannot be used.
        """
        output = self._outputs.begin(job)
        addressees = self._addressees(detail)
        objects = [written for group in addressees for written in self._report(output, group)]
        told = {name for group in addressees for name in group.names}
        objects += self._withdrawal.outdated_no_results(output, self._applications.destinations - told)
        return JobResult(objects, {"why": {one.application: str(one.why) for one in detail.applications}})

    def _report(self, output: JobOutput, group: _Addressees) -> Sequence[NewObject]:
        """Write the report, and its other form for a destination that refuses the first."""
        context = output.context(group.names, group.seed)
        images = self._first_images.find(output.job)
        ensure_images_of_one_patient(images)
        report = build_no_result(self._no_result(output.job, group.applications), images, context)
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
        return [output.write(form, group.names) for form in forms]

    def _addressees(self, detail: NoResultDetail) -> list[_Addressees]:
        """Group the destinations by profile and by the applications that deliver there.

        Raises ModelRefused if none of the applications is configured any more.
        """
        known = [one for one in detail.applications if self._applications.knows(one.application)]
        if detail.applications and not known:
            raise ModelRefused("none of the applications is configured any more; add them again")
        told: dict[str, tuple[WithoutResult, ...]] = {}
        for one in known:
            for name in self._applications.configured(one.application).destinations:
                told[name] = (*told.get(name, ()), one)
        return self._grouped(told) if told or not known else [_Addressees(ObjectProfile(), tuple(known), ())]

    def _grouped(self, told: Mapping[str, tuple[WithoutResult, ...]]) -> list[_Addressees]:
        groups: dict[tuple[ObjectProfile, tuple[WithoutResult, ...]], list[str]] = {}
        for name, applications in told.items():
            groups.setdefault((self._outputs.profile(name), applications), []).append(name)
        return [_Addressees(profile, which, tuple(names)) for (profile, which), names in groups.items()]

    def _no_result(self, job: Job, applications: Sequence[WithoutResult]) -> NoResult:
        loaded = {one.application: self._load(job, one.application) for one in applications}
        return NoResult(
            applications=tuple(self._not_computed(one, loaded[one.application]) for one in applications),
            started_at=job.started_at or job.created_at,
            research=any(application is None or application.research for application in loaded.values()),
        )

    def _not_computed(self, one: WithoutResult, application: Application | None) -> NotComputed:
        configured = self._applications.configured(one.application)
        return NotComputed(
            title=of_side(configured.manifest.title if configured.manifest is not None else configured.name, one.side),
            why=one.why,
            explanation=one.explanation,
            algorithm=None if application is None else application.algorithm,
        )

    def _load(self, job: Job, name: str) -> Application | None:
        try:
            return self._applications.load(name)
        except Exception as error:
            log.info(
                "The report of no result names no algorithm of %s, because it cannot be loaded: %s",
                name,
                unexpected(error),
                extra=fields("algorithm_omitted", job=job.id),
            )
            return None
