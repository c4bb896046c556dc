"""Orthanc as the PACS, in a process of its own."""

import ctypes
import io
import json
import logging
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.pacs.base import LOOPBACK, Pacs, PacsConfig, PacsKind, PacsUnavailable, StoredInstance
from dicom_node.demo.pacs.ports import free_port
from dicom_node.dimse.scu import Target
from dicom_node.runtime.logs import fields

log = logging.getLogger(__name__)

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1

# Only what a peer sent is routed back: without the test, Orthanc would also route what a script of its own made.
_ROUTE_BACK = """\
function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin["RequestOrigin"] ~= "Lua" then
      SendToModality(instanceId, "node")
   end
end
"""


class Orthanc(Pacs):
    """Orthanc as a process, started by `command` with the configuration file as a further argument."""

    def __init__(self, config: PacsConfig, kind: PacsKind, command: Sequence[str]) -> None:
        super().__init__(config)
        http_port = free_port()
        self.kind = kind
        self.http_url = f"http://{LOOPBACK}:{http_port}"
        where = "from Debian's package" if kind is PacsKind.ORTHANC else "in a container"
        self.description = f"Orthanc {where}: {self.ae_title} on port {self.port}, {self.http_url}"
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        # The proxies that the environment names are for other machines, so they are not used for this one.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._configuration = _write_configuration(config, http_port)

    def start(self) -> None:
        if self._process is not None:
            return
        with (self.folder / "orthanc.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which stops everything in order
                preexec_fn=_end_with_parent if sys.platform.startswith("linux") else None,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PacsUnavailable(f"Orthanc does not start; its log is {self.folder / 'orthanc.log'}")
            time.sleep(0.1)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("Orthanc does not stop and is killed", extra=fields("demo_pacs_killed"))
            process.kill()
            process.wait()

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        query = {"StudyInstanceUID": study_instance_uid}
        series = {s["ID"]: s["MainDicomTags"] for s in self._find("Series", query)}
        return [
            StoredInstance(
                sop_instance_uid=instance["MainDicomTags"]["SOPInstanceUID"],
                sop_class_uid=self._request(f"/instances/{instance['ID']}/metadata/SopClassUid").decode().strip(),
                modality=series[instance["ParentSeries"]].get("Modality", ""),
                series_instance_uid=series[instance["ParentSeries"]]["SeriesInstanceUID"],
            )
            for instance in self._find("Instance", query)
            if instance["ParentSeries"] in series
        ]

    def dataset(self, sop_instance_uid: str) -> Dataset:
        found = json.loads(self._request("/tools/lookup", sop_instance_uid.encode()))
        identifiers = [match["ID"] for match in found if match["Type"] == "Instance"]
        if not identifiers:
            raise LookupError("the PACS does not hold this instance")
        return dcmread(io.BytesIO(self._request(f"/instances/{identifiers[0]}/file")))

    def _find(self, level: str, query: dict[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self._request("/tools/find", json.dumps({"Level": level, "Query": query, "Expand": True}).encode())
        )
        return found

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        """Send a GET, or a POST if there is a body. UIDs of a patient's study go into the body, never into the URL."""
        with self._opener.open(f"{self.http_url}{path}", body, timeout=30) as response:
            content: bytes = response.read()
            return content

    def _answers(self) -> bool:
        with suppress(OSError):  # the errors of urllib are OSErrors too
            self._request("/system")
            socket.create_connection((self.host, self.port), timeout=2).close()
            return True
        return False


def _write_configuration(config: PacsConfig, http_port: int) -> Path:
    modalities = {f"caller-{i}": _modality(Target(aet, LOOPBACK, 104)) for i, aet in enumerate(config.callers)}
    if config.node is not None:
        modalities["node"] = _modality(config.node)
    scripts = []
    if config.route_back:
        script = config.folder / "route-back.lua"
        script.write_text(_ROUTE_BACK)
        scripts.append(str(script))
    configuration = {
        "Name": "demo",
        "StorageDirectory": str(config.folder / "orthanc"),
        "IndexDirectory": str(config.folder / "orthanc"),
        "Plugins": [str(DICOMWEB_PLUGIN)] if config.dicomweb else [],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": config.ae_title,
        "DicomPort": config.port,
        "DicomCheckCalledAet": True,
        # Orthanc cannot listen on one address alone. Checking the callers' addresses keeps other machines out,
        # and works only while nothing is allowed to everybody, not even an echo.
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": modalities,
        "UnknownSopClassAccepted": True,  # newer classes than this Orthanc knows, such as Label Map Segmentation
        "OverwriteInstances": False,
        "StableAge": 2,
        "DefaultEncoding": "Utf8",
        "LuaScripts": scripts,
    }
    (config.folder / "orthanc").mkdir(exist_ok=True)
    path = config.folder / "orthanc.json"
    path.write_text(json.dumps(configuration, indent=2))
    return path


def _modality(target: Target) -> dict[str, Any]:
    return {
        "AET": target.ae_title,
        "Host": target.host,
        "Port": target.port,
        "AllowEcho": True,
        "AllowStore": True,
        "AllowFind": True,
        "AllowMove": True,
        "AllowGet": True,
        "AllowStorageCommitment": True,
    }


_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def _end_with_parent() -> None:
    """Ask Linux to end this child with its parent. This runs in the child, so the library is loaded beforehand."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
