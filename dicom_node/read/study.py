"""A study with everything that the node knows of it, as the operator sees it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from dicom_node.read.deliveries import ListedDelivery, list_delivery
from dicom_node.read.serialise import serialise
from dicom_node.read.stores import Stores
from storage.records.instances import Instance
from storage.records.jobs import Job
from storage.records.procedure_steps import ProcedureStep
from storage.records.results import ResultObject
from storage.records.studies import Event, Study


@dataclass(frozen=True)
class ListedSeries:
    """A series of a study. `instances` is the number of its instances."""

    series_instance_uid: str
    modality: str
    instances: int


@dataclass(frozen=True)
class StudyDetail:
    """A study with its instances, series, jobs, objects, deliveries, procedure steps and its timeline.

    Stand-ins are left out if no destination needed them.
    """

    study: Study
    instances: tuple[Instance, ...]
    series: tuple[ListedSeries, ...]
    jobs: tuple[Job, ...]
    objects: tuple[ResultObject, ...]
    deliveries: tuple[ListedDelivery, ...]
    procedure_steps: tuple[ProcedureStep, ...]
    timeline: tuple[Event, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **serialise(self.study),
            "instances": [_instance(instance) for instance in self.instances],
            "series": serialise(self.series),
            "jobs": serialise(self.jobs),
            "objects": [_object(o) for o in self.objects],
            "deliveries": serialise(self.deliveries),
            "procedure_steps": [_stored(step) for step in self.procedure_steps],
            "timeline": serialise(self.timeline),
        }


def _instance(instance: Instance) -> dict[str, Any]:
    return {
        **_stored(instance),
        "size": instance.blob.size,
        "sha256": instance.blob.checksum,
        "facts": serialise(vars(instance.facts)),  # with those that the header does not tell
    }


def _object(result: ResultObject) -> dict[str, Any]:
    return {**_stored(result), "stands_for": " ".join(result.stands_for)}  # a text, as programs have always read it


def _stored(record: Instance | ResultObject | ProcedureStep) -> dict[str, Any]:
    """Return the fields of a record. Its `path` says where its file lies."""
    plain = {key: value for key, value in vars(record).items() if key != "blob"}
    return {**serialise(plain), "path": str(record.blob)}


def read_study(stores: Stores, study: Study, destinations: Collection[str] | None = None) -> StudyDetail:
    """Read everything known of a study. `destinations` are the configured ones, None if they are unknown."""
    uid = study.study_instance_uid
    series = stores.instances.series(uid)
    jobs = stores.jobs.list(study=uid)  # before its deliveries: those of a job that has succeeded are there then
    deliveries = stores.deliveries.list(study=uid)
    in_use = {delivery.object.id for delivery in deliveries}
    return StudyDetail(
        study=study,
        instances=tuple(instance for s in series for instance in s.instances),
        series=tuple(ListedSeries(s.series_instance_uid, s.modality, len(s.instances)) for s in series),
        jobs=tuple(jobs),
        objects=tuple(o for o in stores.results.objects(uid) if not o.stands_for or o.id in in_use),
        deliveries=tuple(list_delivery(d, destinations) for d in deliveries),
        procedure_steps=tuple(stores.procedure_steps.of_study(uid)),
        timeline=tuple(stores.studies.events(uid)),
    )
