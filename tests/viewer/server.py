"""OHIF and a PACS's DICOMweb behind one origin on this machine."""

import http.client
import json
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

DICOMWEB = "/dicom-web"
CONFIGURATION = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "studyPrefetcher": {"enabled": False},
    "defaultDataSourceName": "pacs",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "pacs",
            "configuration": {
                "friendlyName": "PACS",
                "name": "pacs",
                "qidoRoot": DICOMWEB,
                "wadoRoot": DICOMWEB,
                "qidoSupportsIncludeField": False,
                "supportsReject": False,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
# Cross-origin isolation, as OHIF's own nginx recipe has it: the page may use SharedArrayBuffer.
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@contextmanager
def serve(ohif: Path, pacs_url: str) -> Iterator[str]:
    """The URL at which OHIF shows what the PACS at `pacs_url` holds."""
    upstream = urlsplit(pacs_url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(DICOMWEB):
                self._pass_on()
            elif path == "/app-config.js":
                self._answer(200, {"Content-Type": "text/javascript"}, f"window.config = {json.dumps(CONFIGURATION)}")
            else:
                self._file(ohif / path.lstrip("/"))

        def do_POST(self) -> None:
            self._pass_on()

        def _file(self, file: Path) -> None:
            inside = file.resolve().is_relative_to(ohif.resolve()) and file.is_file()
            file = file if inside else ohif / "index.html"  # the application's own routes
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._answer(200, {"Content-Type": kind}, file.read_bytes())

        def _pass_on(self) -> None:
            """The caller's Host goes along, so that the URLs that the PACS writes lead back here."""
            connection = http.client.HTTPConnection(upstream, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            headers["Forwarded"] = f"host={self.headers['Host']};proto=http"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            self._answer(answer.status, kept, answer.read())
            connection.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes | str) -> None:
            content = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in {**headers, **ISOLATION, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="viewer", daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
