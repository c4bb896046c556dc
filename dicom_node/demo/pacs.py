"""A PACS on this machine for the demo and the tests: Orthanc, or a plain storage SCP where there is no Orthanc.

It listens for peers on this machine only, keeps everything below one folder, and ends with the process that started it.
"""

import ctypes
import io
import json
import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from dicom_node.dimse.pynetdicom_setup import silence_pynetdicom
from dicom_node.dimse.scu import Target, send_files
from dicom_node.dimse.status import DimseStatus
from dicom_node.runtime.logs import fields
from storage.errors import NodeError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
IMAGE = "docker.io/orthancteam/orthanc"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
INSTALL_SECONDS = 300.0
PULL_SECONDS = 600.0
_PR_SET_PDEATHSIG = 1
_POLICY = Path("/usr/sbin/policy-rc.d")
_TAGS = ["SOPInstanceUID", "SOPClassUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID"]

Say = Callable[[str], None]

# Without the test on the origin, Orthanc would also route what a script of its own made.
_ROUTE_BACK = """\
function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin["RequestOrigin"] ~= "Lua" then
      SendToModality(instanceId, "node")
   end
end
"""


class Kind(StrEnum):
    ORTHANC = "orthanc"  # the program on this machine, as Debian packages it
    CONTAINER = "container"  # Orthanc in a container, through docker or podman
    PLAIN = "plain"  # a storage SCP in this process: stores, and answers no query


class PacsUnavailable(NodeError):
    """The PACS could not be started."""


@dataclass(frozen=True)
class StoredInstance:
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    series_instance_uid: str


class Pacs(ABC):
    """A running PACS. `stop` and `start` keep the ports and everything that is stored."""

    kind: Kind
    description: str
    http_url: str | None = None

    def __init__(self, folder: Path, ae_title: str, port: int) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.host = LOOPBACK
        self.port = port

    @property
    def target(self) -> Target:
        return Target(self.ae_title, self.host, self.port)

    @abstractmethod
    def start(self) -> None:
        """Returns when the PACS answers. Raises PacsUnavailable."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        """What it holds of the study, in no particular order."""

    @abstractmethod
    def dataset(self, sop_instance_uid: str) -> Dataset:
        """One instance, read back whole. Raises LookupError when it is not there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start_pacs(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    node: Target | None = None,
    callers: Sequence[str] = (),
    route_back: bool = False,
    dicom_port: int | None = None,
    http_port: int | None = None,
    kind: Kind | None = None,
    dicomweb: bool = False,
    say: Say = lambda line: None,
) -> Pacs:
    """Starts the best PACS there is, or the `kind` that is wanted, with everything it writes below `folder`.

    Only `node` and the AE titles in `callers` may associate with it, and only from this machine. With `route_back` it
    sends everything it stores to `node`. With `dicomweb` it answers below `http_url`/dicom-web, by Debian's plugin.
    Without `kind`, Orthanc is installed where that is possible without asking.
    The calling thread must live as long as the PACS: Linux ends children with the thread that started them.
    Raises PacsUnavailable.
    """
    if route_back and node is None:
        raise ValueError("route_back needs a node")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # it will hold what patients' images say
    port = dicom_port or free_port()
    pacs: Pacs
    command, kind = _choose(kind, folder, say)
    if command is None:
        pacs = _PlainPacs(folder, ae_title, port, node, callers, route_back)
    else:
        http_port = http_port or free_port()
        pacs = _Orthanc(folder, ae_title, port, http_port, node, callers, route_back, dicomweb, kind, command)
    pacs.start()
    return pacs


def find_orthanc() -> str | None:
    """The Orthanc program, also where only root's PATH has it, as on Debian."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def install_orthanc(say: Say = lambda line: None) -> bool:
    """Installs Debian's package when that needs no password. The service it brings is not started, nor at boot."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say("Orthanc is not installed: installing the package `orthanc` with apt")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", "orthanc"]
    update = ["apt-get", "update", "--quiet=2"]
    with _no_services_start():
        for command in (install, update, install):  # package lists may be missing or name versions that are gone
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, check=False, timeout=INSTALL_SECONDS
                )
            except subprocess.TimeoutExpired:
                break
            if command is install and done.returncode == 0:
                break
        for command in (["update-rc.d", "orthanc", "disable"], ["deb-systemd-helper", "disable", "orthanc.service"]):
            with suppress(OSError):  # Debian has both, whether or not systemd runs
                subprocess.run(command, capture_output=True, check=False)
    if not find_orthanc():
        say("apt could not install Orthanc")
        return False
    return True


@contextmanager
def _no_services_start() -> Iterator[None]:
    """While policy-rc.d says 101, packages start no services. A policy that is already there is obeyed."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _choose(wanted: Kind | None, folder: Path, say: Say) -> tuple[list[str] | None, Kind]:
    """The command that starts Orthanc, less its configuration file; None for the plain SCP."""
    if wanted in (None, Kind.ORTHANC):
        program = find_orthanc()
        if program is None and wanted is None and install_orthanc(say):
            program = find_orthanc()
        if program is not None:
            return [program], Kind.ORTHANC
        if wanted is not None:
            raise PacsUnavailable("Orthanc is not installed (Debian, Ubuntu: apt install orthanc)")
    if wanted in (None, Kind.CONTAINER):
        command = _container(folder, say)
        if command is not None:
            return command, Kind.CONTAINER
        if wanted is not None:
            raise PacsUnavailable(f"neither docker nor podman can run {IMAGE} here")
    if wanted is None:
        say("There is no Orthanc here (Debian, Ubuntu: apt install orthanc): a plain storage SCP takes its place")
    return None, Kind.PLAIN


def _container(folder: Path, say: Say) -> list[str] | None:
    for engine in ("docker", "podman"):
        program = shutil.which(engine)
        if program is None:
            continue
        say(f"Orthanc is not installed: fetching {IMAGE} with {engine}")
        with suppress(subprocess.TimeoutExpired, OSError):
            pull = subprocess.run([program, "pull", IMAGE], capture_output=True, check=False, timeout=PULL_SECONDS)
            if pull.returncode == 0:
                # The host's network, so that "only this machine" means the same as without a container; the user's
                # own id, so that the files in the folder are the user's.
                user = [] if engine == "podman" else ["--user", f"{os.getuid()}:{os.getgid()}"]
                mount = ["--volume", f"{folder}:{folder}", "--network", "host", "--entrypoint", "Orthanc"]
                return [program, "run", "--rm", "--init", *user, *mount, IMAGE]
        say(f"{engine} cannot fetch {IMAGE}")
    return None


class _Orthanc(Pacs):
    def __init__(
        self,
        folder: Path,
        ae_title: str,
        port: int,
        http_port: int,
        node: Target | None,
        callers: Sequence[str],
        route_back: bool,
        dicomweb: bool,
        kind: Kind,
        command: list[str],
    ) -> None:
        super().__init__(folder, ae_title, port)
        self.kind = kind
        self.http_url = f"http://{LOOPBACK}:{http_port}"
        where = "from Debian's package" if kind is Kind.ORTHANC else "in a container"
        self.description = f"Orthanc {where}: {ae_title} on port {port}, {self.http_url}"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        # Proxies that the environment names are for other machines than this one.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        modalities = {f"caller-{i}": _modality(Target(aet, LOOPBACK, 104)) for i, aet in enumerate(callers)}
        if node is not None:
            modalities["node"] = _modality(node)
        scripts = []
        if route_back:
            script = folder / "route-back.lua"
            script.write_text(_ROUTE_BACK)
            scripts.append(str(script))
        configuration = {
            "Name": "demo",
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "Plugins": [str(DICOMWEB_PLUGIN)] if dicomweb else [],
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": ae_title,
            "DicomPort": port,
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
        (folder / "orthanc").mkdir(exist_ok=True)
        self._configuration = folder / "orthanc.json"
        self._configuration.write_text(json.dumps(configuration, indent=2))

    def start(self) -> None:
        if self._process is not None:
            return
        with (self.folder / "orthanc.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, str(self._configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us: we stop it in our own order
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
            log.warning("Orthanc does not stop; it is killed", extra=fields("demo_pacs"))
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
        """GET, or POST where there is a body. What names a patient's study goes into the body, never into the URL."""
        with self._opener.open(f"{self.http_url}{path}", body, timeout=30) as response:
            content: bytes = response.read()
            return content

    def _answers(self) -> bool:
        with suppress(OSError):  # urllib's errors are such
            self._request("/system")
            socket.create_connection((self.host, self.port), timeout=2).close()
            return True
        return False


class _PlainPacs(Pacs):
    kind = Kind.PLAIN

    def __init__(
        self, folder: Path, ae_title: str, port: int, node: Target | None, callers: Sequence[str], route_back: bool
    ) -> None:
        super().__init__(folder, ae_title, port)
        self.description = f"a plain storage SCP: {ae_title} on port {port}, files in {folder / 'instances'}"
        self._instances = folder / "instances"
        self._instances.mkdir(exist_ok=True)
        self._callers = [*callers, *([node.ae_title] if node is not None else [])]
        self._route_to = node if route_back else None
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
        if not uid.is_valid:  # it becomes a file's name
            raise LookupError("not a UID")
        return self._instances / f"{uid}.dcm"

    def _store(self, event: evt.Event) -> int:
        """Answers Success when the file is complete under its name; what is there already stays, as in Orthanc."""
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
            for result in send_files([path], self.ae_title, node):
                if not result.ok:
                    log.warning("Not routed back: %s", result.reason, extra=fields("demo_pacs"))


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
    """Runs in the child before Orthanc does, hence the library is loaded beforehand."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A port that was free a moment ago. It is kept when the PACS stops and starts again."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
