"""The way of the results of one study to one destination, and what became of them."""

import logging
import re
import threading
from datetime import timedelta
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)
from rich.console import Console

from dicom_node.deliver.confirmer import Confirmer
from dicom_node.deliver.destinations.dicomweb import DicomwebDestination
from dicom_node.deliver.dispatcher import Dispatcher
from dicom_node.demo.tables import jobs_list
from dicom_node.read.jobs import list_jobs
from dicom_node.runtime.backoff import Backoff
from storage.blobs import FileBlob
from storage.records.results import NewObject, ObjectKind
from storage.tables.confirmations import Confirmations
from storage.tables.database import schema
from tests.deliver.archive import (
    Archive,
    Kept,
)
from tests.instances import MakeFile
from tests.storage.node import NOW, Node

KINDS = {
    ObjectKind.SEG: (SegmentationStorage, ()),
    ObjectKind.RTSTRUCT: (RTStructureSetStorage, (ObjectKind.SEG,)),
    ObjectKind.SR: (Comprehensive3DSRStorage, ()),
    ObjectKind.SR_REGIONS: (Comprehensive3DSRStorage, (ObjectKind.SR,)),
}
NUMBERS = count(1)  # of studies and destinations


class Way:
    """The way of the results of one study to one archive."""

    def __init__(self, node: Node, make_file: MakeFile, number: int) -> None:
        self.node = node
        self.study = f"1.2.3.{number}"
        self.name = f"pacs-{number}"
        self._make_file = make_file
        self.uids: dict[str, str] = {}
        self.series: dict[str, str] = {}
        self.files: dict[str, Path] = {}

    def job(self) -> None:
        self.node.queue("liver", uid=self.study)
        objects = []
        for kind, (sop_class_uid, instead_of) in KINDS.items():
            path = self._make_file(StudyInstanceUID=self.study, SOPClassUID=sop_class_uid, ImageComments=str(kind))
            ds = dcmread(path)
            self.uids[kind], self.files[kind] = str(ds.SOPInstanceUID), path
            self.series[kind] = str(ds.SeriesInstanceUID)
            objects.append(
                NewObject(
                    ds.SOPInstanceUID, ds.SOPClassUID, ds.SeriesInstanceUID, self.study, kind, FileBlob(path),
                    (self.name,), instead_of,
                )
            )  # fmt: skip
        assert self.node.jobs.succeed(self.node.claim().id, "worker", objects, {}, NOW)

    def dispatcher(self, attempts: int = 3, give_up_after: timedelta = timedelta(days=14)) -> Dispatcher:
        return Dispatcher(self.node.deliveries, [], Backoff(0, 0, attempts), "dispatch", give_up_after=give_up_after)

    def send(self, destination: Any, tries: int = 6, attempts: int = 3) -> None:
        """Sends what is due, and comes back as often as the dispatcher does after a pause."""
        dispatcher = self.dispatcher(attempts)
        for _ in range(tries):
            while dispatcher.deliver_one(destination):
                pass

    def confirm(self, destination: Any, patience: float = 0.0) -> None:
        confirmer = Confirmer(
            Confirmations(self.node.database), [destination], timedelta(seconds=patience), Backoff(0, 0, 1)
        )
        while confirmer.confirm_next(destination, threading.Event()):
            pass

    def web(self, archive: Archive, timeout: float = 5.0) -> DicomwebDestination:
        return DicomwebDestination(self.name, archive.url, timeout)

    @property
    def states(self) -> dict[str, str]:
        return {d.object.kind: str(d.state) for d in self.node.deliveries.list(study=self.study)}

    @property
    def warnings(self) -> dict[str, str]:
        return {d.object.kind: d.warning for d in self.node.deliveries.list(study=self.study) if d.warning}

    def texts(self, kind: str) -> list[str]:
        head = f"{kind} → {self.name}: "
        return [t.partition(head)[2] for t in self.node.texts(self.study) if head in t]

    def listed(self) -> str:
        """Return what `dicom-node jobs` shows."""
        rows = list_jobs(
            self.node.jobs.list(study=self.study), self.node.deliveries.list(study=self.study), [self.name]
        )
        console = Console(width=200, record=True, file=StringIO())
        console.print(jobs_list(rows))
        return re.sub(r" +\n", "\n", console.export_text())

    def problems(self) -> dict[str, str]:
        """The problems that were opened for this archive or study."""
        with self.node.database.reading() as session:
            return {
                str(row.kind): row.text
                for row in session.query(schema.ProblemRow)
                if self.name in row.text or row.study_instance_uid == self.study
            }

    def kept(self, kind: str = "SEG") -> Kept:
        return Kept(self.study, self.series[kind], self.uids[kind], kind)


def errors(caplog: pytest.LogCaptureFixture, action: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and getattr(r, "action", "") == action]
