"""The withdrawal of results: rejection notes (IHE RAD IOCM) for the destinations that hold them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dicom_node.objects.base.context import ResultReference
from dicom_node.objects.build import BuiltObject
from dicom_node.objects.ko import build_rejection
from dicom_node.work.first_images import FirstImages
from dicom_node.work.output import JobOutput, JobResult, Outputs
from storage.blobs import Blob
from storage.records.jobs import Job, WithdrawalDetail
from storage.records.results import NewObject, ObjectKind, ResultObject
from storage.tables.results import Results


@dataclass(frozen=True)
class Withdrawn:
    """Objects that are withdrawn together, and the destinations for which exactly these objects are withdrawn."""

    objects: tuple[ResultReference, ...]
    destinations: tuple[str, ...]


class WithdrawalTask:
    """The work of jobs of kind WITHDRAWAL, and the withdrawal of results that an analysis supersedes."""

    def __init__(self, results: Results, outputs: Outputs, first_images: FirstImages) -> None:
        self._results = results
        self._outputs = outputs
        self._first_images = first_images

    def perform(self, job: Job, detail: WithdrawalDetail) -> JobResult:
        """Write rejection notes for the withdrawn objects that each destination got, or may have got."""
        known = {result.id: result for result in self._results.objects(job.study_instance_uid)}
        held = {name: [known[number] for number in numbers] for name, numbers in detail.objects.items()}
        return JobResult(self._rejections(self._outputs.begin(job), held), {"withdrawn_job": detail.job})

    def superseded(self, output: JobOutput) -> Sequence[NewObject]:
        """Write rejection notes for what each destination got of the results that this job's result supersedes.

        Destinations whose profile does not ask for rejection notes get none.
        """
        job = output.job
        asking = [name for group in output.groups if group.profile.withdraws_superseded for name in group.names]
        held = {
            name: self._results.superseded(job.study_instance_uid, job.application, job.id, name, job.beside)
            for name in asking
        }
        return self._rejections(output, held)

    def outdated_no_results(self, output: JobOutput, destinations: Collection[str]) -> Sequence[NewObject]:
        """Write rejection notes for the reports of no result that these destinations still hold."""
        job = output.job
        held = {
            name: self._results.held_no_result(job.study_instance_uid, job.id, name) for name in sorted(destinations)
        }
        return self._rejections(output, held)

    def _rejections(self, output: JobOutput, held: Mapping[str, Sequence[ResultObject]]) -> Sequence[NewObject]:
        withdrawn = group_by_objects(held)
        if not withdrawn:
            return []
        source = self._source(output.job, [result for results in held.values() for result in results])
        notes = []
        for number, group in enumerate(withdrawn, 1):
            context = output.context(group.destinations, f"/rejection {number}")
            note = BuiltObject(ObjectKind.REJECTION, build_rejection(source, group.objects, context))
            notes.append(output.write(note, group.destinations))
        return notes

    def _source(self, job: Job, withdrawn: Sequence[ResultObject]) -> Blob:
        """Return the instance whose patient and study the note takes over: an image of the study.

        If the study states different patients, it is a withdrawn object, because the note must be of its patient.
        """
        if self._first_images.state_one_patient(job):
            return self._first_images.find(job)[0]
        return withdrawn[0].blob


def group_by_objects(held: Mapping[str, Sequence[ResultObject]]) -> list[Withdrawn]:
    """Group destinations by the set of objects that they hold, without destinations that hold none."""
    groups: dict[tuple[ResultReference, ...], list[str]] = {}
    for name, objects in held.items():
        references = tuple(ResultReference(o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid) for o in objects)
        if references:
            groups.setdefault(references, []).append(name)
    return [Withdrawn(references, tuple(names)) for references, names in groups.items()]
