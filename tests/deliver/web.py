"""DICOMweb services to send to: Orthanc, one that answers by script, and TLS in front of either."""

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_SECONDS = 30.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies are for other machines than this one

_FILTER = 'function ReceivedInstanceFilter(dicom, origin, info) return dicom["Modality"] ~= "KO" end'


# -- Orthanc -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrthancWeb:
    """Orthanc with its DICOMweb plugin, which asks for a user. It drops Key Object Selections."""

    port: int
    username: str
    password: str
    url: str

    def held(self, sop_instance_uid: str) -> Dataset | None:
        """An instance, read back through Orthanc's own interface."""
        found = json.loads(self._request("/tools/lookup", sop_instance_uid.encode()))
        return dcmread(BytesIO(self._request(f"/instances/{found[0]['ID']}/file"))) if found else None

    def answers(self) -> bool:
        with suppress(OSError):
            return bool(self._request("/system"))
        return False

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        basic = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
        with _opener.open(request, timeout=10) as response:
            content: bytes = response.read()
            return content


@contextmanager
def orthanc_web(folder: Path) -> Iterator[OrthancWeb]:
    program = find_orthanc()
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc or its DICOMweb plugin is not installed: run tests/install-peers.sh")
    port = free_port()
    orthanc = OrthancWeb(port, "node", "pässword: one", f"http://127.0.0.1:{port}/dicom-web")
    (folder / "storage").mkdir(parents=True)
    script = folder / "filter.lua"
    script.write_text(_FILTER)
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "Plugins": [str(PLUGIN)],
                "LuaScripts": [str(script)],
                "DicomServerEnabled": False,
                "HttpPort": port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {orthanc.username: orthanc.password},
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
            }
        )
    )
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, configuration], stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not orthanc.answers():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield orthanc
        finally:
            process.terminate()


# -- a service by script -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    media_type: str = "application/dicom+json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # the connection breaks off after half of the body


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Scripted:
    """Answers as `answer` says, and keeps what it was asked."""

    def __init__(self, answer: Callable[[Asked], Answer | None]) -> None:
        self.asked: list[Asked] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                request = Asked(
                    self.command,
                    self.path,
                    {k.lower(): v for k, v in self.headers.items()},
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )
                asked.append(request)
                reply = answer(request)
                self.close_connection = True
                if reply is None:  # no answer at all
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Type": reply.media_type, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/web"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


# -- TLS ---------------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, and what it has signed: files in PEM in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self._folder, self._name = folder, name
        self.certificate, self._key = self._make(name)

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key, for 127.0.0.1."""
        more = ("-addext", "subjectAltName=IP:127.0.0.1", "-CA", str(self.certificate), "-CAkey", str(self._key))
        return self._make(f"{self._name}-{name}", *more)

    def _make(self, name: str, *more: str) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        names = ("-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate))
        subprocess.run([*make, *names, *more], check=True, capture_output=True)
        return certificate, key


@contextmanager
def tls_in_front_of(port: int, authority: Authority, clients: Authority | None = None) -> Iterator[int]:
    """A port that speaks TLS and passes everything on. With `clients`, a certificate of theirs is needed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("server"))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.certificate)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with suppress(OSError):
                connection.settimeout(10)
                inside, outside = (
                    context.wrap_socket(connection, server_side=True),
                    socket.create_connection(("127.0.0.1", port), timeout=10),
                )
                for a, b in ((inside, outside), (outside, inside)):
                    threading.Thread(target=_pass_on, args=(a, b), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65536):
            target.sendall(some)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
