"""A plain storage SCP as the PACS, where there is no Orthanc."""

import logging
import queue
import threading
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from dicom_node.demo.pacs.base import Pacs, PacsConfig, PacsKind, PacsUnavailable, StoredInstance
from dicom_node.dimse.pynetdicom_setup import silence_pynetdicom
from dicom_node.dimse.scu import Target, send_files
from dicom_node.dimse.status import DimseStatus
from dicom_node.runtime.logs import fields
from storage.blobs import FileBlob

log = logging.getLogger(__name__)

_TAGS = ["SOPInstanceUID", "SOPClassUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID"]


class StorageScp(Pacs):
    """A storage SCP in this process, which answers no queries."""

    kind = PacsKind.PLAIN

    def __init__(self, config: PacsConfig) -> None:
        super().__init__(config)
        self.description = (
            f"a plain storage SCP: {self.ae_title} on port {self.port}, files in {self.folder / 'instances'}"
        )
        self._instances = self.folder / "instances"
        self._instances.mkdir(exist_ok=True)
        self._callers = [*config.callers, *([] if config.node is None else [config.node.ae_title])]
        self._route_to = config.node if config.route_back else None
        self._to_route: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._router: threading.Thread | None = None
        self._server: Any = None

    def start(self) -> None:
        if self._server is not None:
            return
        silence_pynetdicom()
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = self._callers
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(Verification)
        try:
            self._server = ae.start_server(
                (self.host, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
            )
        except OSError as error:
            raise PacsUnavailable(f"port {self.port} cannot be listened on: {error.strerror}") from None
        if self._route_to is not None:
            self._router = threading.Thread(target=self._route, args=(self._route_to,), name="route-back", daemon=True)
            self._router.start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        if self._router is not None:
            self._to_route.put(None)
            self._router.join()
            self._router = None

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        headers = (
            dcmread(path, stop_before_pixels=True, specific_tags=_TAGS) for path in self._instances.glob("*.dcm")
        )
        return [
            StoredInstance(
                sop_instance_uid=str(ds.SOPInstanceUID),
                sop_class_uid=str(ds.SOPClassUID),
                modality=str(ds.get("Modality", "")),
                series_instance_uid=str(ds.get("SeriesInstanceUID", "")),
            )
            for ds in headers
            if ds.get("StudyInstanceUID") == study_instance_uid
        ]

    def dataset(self, sop_instance_uid: str) -> Dataset:
        path = self._path(sop_instance_uid)
        if not path.is_file():
            raise LookupError("the PACS does not hold this instance")
        return dcmread(path)

    def _path(self, sop_instance_uid: str) -> Path:
        uid = UID(sop_instance_uid)
        if not uid.is_valid:  # the UID becomes the name of a file
            raise LookupError("not a UID")
        return self._instances / f"{uid}.dcm"

    def _store(self, event: evt.Event) -> int:
        """Answer Success when the file is complete under its name. An existing file stays, as in Orthanc."""
        try:
            path = self._path(str(event.request.AffectedSOPInstanceUID))
            if path.exists():
                return DimseStatus.SUCCESS
            partial = path.with_suffix(f".{threading.get_ident()}")
            partial.write_bytes(event.encoded_dataset())
            partial.replace(path)
        except LookupError:
            return DimseStatus.DATASET_MISMATCH
        except OSError:
            return DimseStatus.OUT_OF_RESOURCES
        if self._route_to is not None:
            self._to_route.put(path)
        return DimseStatus.SUCCESS

    def _route(self, node: Target) -> None:
        while (path := self._to_route.get()) is not None:
            for result in send_files([FileBlob(path)], self.ae_title, node):
                if not result.ok:
                    log.warning(
                        "An instance cannot be sent back to the node: %s",
                        result.reason,
                        extra=fields("demo_route_back_failed"),
                    )
