"""The output of a job: its folder, the destinations it is for, and the objects that are written for them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from importlib.metadata import version
from pathlib import Path

from dicom_node.objects.base.context import ObjectContext, ResultReference
from dicom_node.objects.build import BuiltObject
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.work.applications import SeriesNaming, WarmApplications
from storage.log.files import write_durable
from storage.records.jobs import Job, NoResultDetail
from storage.records.results import NewObject, ResultObject
from storage.tables.results import Results


@dataclass(frozen=True)
class JobResult:
    """The durable objects of a job, in the order of delivery, and the facts that its timeline keeps as JSON."""

    objects: Sequence[NewObject]
    facts: Mapping[str, object]


@dataclass(frozen=True)
class DestinationGroup:
    """Destinations with the same profile, which get the same objects."""

    profile: ObjectProfile
    names: tuple[str, ...]


@dataclass(frozen=True)
class NodeOrigin:
    """The node as the origin of results: its AE title, the identity of its installation, and the time zone of scanners.

    `time_zone` is for images that name none themselves; it is None if it is not configured.
    """

    ae_title: str
    installation: str
    time_zone: tzinfo | None = None


class Outputs:
    """The part of the output that is the same for all jobs. `profiles` has the profile of every destination."""

    def __init__(
        self,
        results: Results,
        applications: WarmApplications,
        profiles: Mapping[str, ObjectProfile],
        objects_dir: Path,
        node: NodeOrigin,
    ) -> None:
        self._results = results
        self._applications = applications
        self._profiles = profiles
        self._objects_dir = objects_dir
        self._node = node

    def begin(self, job: Job) -> "JobOutput":
        """Return the output of a job, in a folder without the files of an attempt that was killed."""
        folder = self._objects_dir / job.study_instance_uid / str(job.id)
        shutil.rmtree(folder, ignore_errors=True)
        return JobOutput(job, folder, self)

    def groups(self, job: Job) -> list[DestinationGroup]:
        """Group the destinations of the job's application by profile.

        An application without any destination has one group without names, because its results are kept as well.
        """
        by_profile: dict[ObjectProfile, list[str]] = {}
        for name in self._applications.configured(job.application).destinations:
            by_profile.setdefault(self._profiles[name], []).append(name)
        groups = [DestinationGroup(profile, tuple(names)) for profile, names in by_profile.items()]
        return groups or [DestinationGroup(ObjectProfile(), ())]

    def profile(self, destination: str) -> ObjectProfile:
        return self._profiles[destination]

    def context(self, job: Job, destinations: Sequence[str], seed: str) -> ObjectContext:
        predecessors = self._predecessors(job, destinations)
        naming, edition = self._applications.naming(job.application), self._results.edition(job)
        return ObjectContext(
            device_name=self._node.ae_title,
            uid_seed=self._uid_seed(job, predecessors, naming, edition) + seed,
            installation=self._node.installation,
            revision=job.revision,
            predecessors=tuple(
                ResultReference(p.sop_class_uid, p.sop_instance_uid, p.series_instance_uid) for p in predecessors
            ),
            side=job.side,
            label=naming.label,
            first_series=naming.first_series,
            edition=edition,
            time_zone=self._node.time_zone,
        )

    def _predecessors(self, job: Job, destinations: Sequence[str]) -> Sequence[ResultObject]:
        """Return the earlier reports that this job supersedes at the destinations, each once."""
        uid, results = job.study_instance_uid, self._results
        if not isinstance(job.detail, NoResultDetail):
            return results.previous_sr(uid, job.application, job.id, destinations, job.beside)
        found = list(results.previous_no_result(uid, job.id, destinations))
        for one in job.detail.applications:
            other = {"L": "R", "R": "L"}.get(one.side, "")
            found += results.previous_sr(uid, one.application, job.id, destinations, other)
        return list({report.id: report for report in found}.values())

    def _uid_seed(self, job: Job, predecessors: Sequence[ResultObject], naming: SeriesNaming, edition: int) -> str:
        """Return the text that the UIDs of a result derive from.

        It holds no number of a row, so that the same result has the same UIDs after the loss of the database, and all
        that makes the content another one, so that no other content ever has them.
        """
        said = (
            self._node.installation,
            job.study_instance_uid,
            job.application,
            job.side,
            job.kind,
            job.revision,
            job.fingerprint,
            self._results.repetition(job),
            version("dicom-node"),
            [p.sop_instance_uid for p in predecessors],
            [naming.label, naming.first_series, edition, str(self._node.time_zone)],
        )
        return json.dumps(said)


@dataclass(frozen=True)
class JobOutput:
    """The output of one job."""

    job: Job
    folder: Path
    outputs: Outputs

    @property
    def groups(self) -> list[DestinationGroup]:
        return self.outputs.groups(self.job)

    def context(self, destinations: Sequence[str], seed: str = "") -> ObjectContext:
        """Return the context in which objects for `destinations` are built. Another `seed` makes other UIDs.

        The predecessors in the context are the earlier reports that these destinations got.
        """
        return self.outputs.context(self.job, destinations, seed)

    def write(self, built: BuiltObject, destinations: tuple[str, ...]) -> NewObject:
        """Write an object durably, and return its record."""
        ds = built.dataset
        return NewObject(
            sop_instance_uid=str(ds.SOPInstanceUID),
            sop_class_uid=str(ds.SOPClassUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            study_instance_uid=str(ds.StudyInstanceUID),
            kind=built.kind,
            blob=write_durable(self.folder / f"{built.kind.lower()}_{ds.SOPInstanceUID}.dcm", ds),
            destinations=destinations,
            stands_for=built.stands_for,
        )
