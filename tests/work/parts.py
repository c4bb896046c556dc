"""A worker that is wired as in a node, around an application that a test gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dicom_node.catalogue import ConfiguredApplication
from dicom_node.objects.profiles import ObjectProfile
from dicom_node.runtime.backoff import Backoff
from dicom_node.work.applications import WarmApplications
from dicom_node.work.output import NodeOrigin
from dicom_node.work.tasks import build_tasks
from dicom_node.work.worker import Worker
from storage.log.instances import InstanceStore
from storage.tables.database.connection import Database
from storage.tables.jobs import Jobs
from storage.tables.results import Results


class GivenApplication(WarmApplications):
    """An application that is warm already; None: the one that is configured, which cannot be used."""

    def __init__(self, configured: Sequence[ConfiguredApplication], application: Any) -> None:
        super().__init__(configured)
        self.application = application

    def load(self, name: str) -> Any:
        return super().load(name) if self.application is None else self.application


def open_stores(database: Database, folder: Path) -> SimpleNamespace:
    instances = InstanceStore(database, folder.parent / "journal", folder, lambda sop, modality: True)
    return SimpleNamespace(jobs=Jobs(database), results=Results(database), instances=instances)


def build_worker(  # noqa: PLR0913 - a test names the few that it changes
    stores: Any,
    configured: ConfiguredApplication | Sequence[ConfiguredApplication],
    application: Any,
    profiles: Mapping[str, ObjectProfile],
    objects_dir: Path,
    backoff: Backoff = Backoff(5, 40, 3),  # noqa: B008 - frozen
    heartbeat_seconds: float = 60,
    job_timeout_seconds: float = 60,
    installation: str = "an installation",
) -> Worker:
    tasks = build_tasks(
        SimpleNamespace(device="cpu"),  # type: ignore[arg-type]
        GivenApplication([configured] if isinstance(configured, ConfiguredApplication) else configured, application),
        profiles,
        stores.instances,
        stores.results,
        objects_dir,
        NodeOrigin("NODE", installation),
    )
    return Worker("w", stores.jobs, tasks.perform, backoff, heartbeat_seconds, job_timeout_seconds)
