"""Orthanc as a storage commitment SCU, through its REST interface."""

import json
import time
import urllib.request
from typing import Any

from dicom_node.demo.pacs.base import Pacs

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies are for other machines than this one


def request_commitment(pacs: Pacs, *items: tuple[str, str], modality: str = "node") -> str:
    """Sends an N-ACTION for (SOP class, SOP instance); the transaction UID."""
    answer = call(pacs, f"/modalities/{modality}/storage-commitment", {"DicomInstances": [list(i) for i in items]})
    return str(answer["ID"])


def report(pacs: Pacs, transaction: str, seconds: float = 30) -> dict[str, Any]:
    """What Orthanc has been told: {"Status": "Success" or "Failure", "Success": [...], "Failures": [...]}."""
    deadline = time.monotonic() + seconds
    while True:
        answer: dict[str, Any] = call(pacs, f"/storage-commitment/{transaction}")
        if answer["Status"] != "Pending":
            return answer
        assert time.monotonic() < deadline, "no report came"
        time.sleep(0.2)


def call(pacs: Pacs, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with _opener.open(f"{pacs.http_url}{path}", data, timeout=30) as response:
        return json.loads(response.read())
