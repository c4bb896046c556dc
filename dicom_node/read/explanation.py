"""The decisions about a study: why it is complete or waits, and which series feed which application."""

from dataclasses import dataclass
from typing import Any

from dicom_node.read.deliveries import ListedDelivery
from dicom_node.read.jobs import purpose
from dicom_node.read.serialise import serialise
from dicom_node.read.study import StudyDetail
from storage.records.completion import Waiting
from storage.records.deliveries import DeliveryState
from storage.records.jobs import Job
from storage.records.routing import RoutingDecision
from storage.records.studies import Event, Stage


@dataclass(frozen=True)
class Explanation:
    """The decisions about a study.

    `routing` is None before the study is routed; `waiting` describes the evidence for which a study in RECEIVING waits.
    `trial` is the decision that another configuration would take on the images that are here; None if none is tried.
    """

    detail: StudyDetail
    routing: RoutingDecision | None = None
    waiting: Waiting | None = None
    trial: RoutingDecision | None = None

    @property
    def completion(self) -> tuple[Event, ...]:
        """The decisions that the study is complete, one for each revision or more."""
        return self._events(Stage.COMPLETE)

    @property
    def asked(self) -> tuple[Event, ...]:
        """The answers of the source PACS."""
        return self._events(Stage.ASKED)

    @property
    def early(self) -> tuple[Event, ...]:
        """The jobs that started before the study was complete."""
        return self._events(Stage.EARLY)

    @property
    def not_delivered(self) -> tuple[ListedDelivery, ...]:
        return tuple(d for d in self.detail.deliveries if d.state in (DeliveryState.REPLACED, DeliveryState.FAILED))

    @property
    def not_confirmed(self) -> tuple[ListedDelivery, ...]:
        """The deliveries that a destination took but has not confirmed, also if they are sent again therefore."""
        ended = (DeliveryState.COMMITTED, DeliveryState.FAILED)
        return tuple(
            d
            for d in self.detail.deliveries
            if (d.state is DeliveryState.SENT and d.reason) or (d.resends and d.state not in ended)
        )

    def _events(self, stage: Stage) -> tuple[Event, ...]:
        return tuple(event for event in self.detail.timeline if event.stage is stage)

    def to_json(self) -> dict[str, Any]:
        study = self.detail.study
        return {
            "study_instance_uid": study.study_instance_uid,
            "state": study.state,
            "revision": study.revision,
            "reason": study.reason,
            "priority": study.priority,
            "waiting": serialise(self.waiting),
            "completion": serialise(self.completion),
            "asked": serialise(self.asked),
            "early": serialise(self.early),
            "routing": serialise(self.routing),
            "trial": serialise(self.trial),
            "jobs": [_job(job) for job in self.detail.jobs],
            "not_delivered": [_delivery(d) for d in self.not_delivered],
            "not_confirmed": [_delivery(d) for d in self.not_confirmed],
        }


def _job(job: Job) -> dict[str, Any]:
    keys = ("id", "application", "side", "kind", "revision", "state", "priority")
    return {**{key: getattr(job, key) for key in keys}, "purpose": purpose(job)}


def _delivery(delivery: ListedDelivery) -> dict[str, Any]:
    keys = ("id", "job_id", "kind", "destination", "state", "reason", "resends")
    return {key: getattr(delivery, key) for key in keys}
