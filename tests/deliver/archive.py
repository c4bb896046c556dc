"""An archive by script that stores what it is sent, says by QIDO-RS what it holds, and answers as it is told."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.parser import BytesParser
from email.policy import HTTP
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.deliver.web import Answer, Asked, Scripted

TAGS = {"SOPInstanceUID": "00080018", "SeriesInstanceUID": "0020000E", "StudyInstanceUID": "0020000D"}


@dataclass(frozen=True)
class Kept:
    """An instance that the archive keeps, and the kind that the test has written into it."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    kind: str = ""


Step = Callable[["Archive", Kept], Answer | None]
"""The answer to one STOW-RS request. None is no answer at all."""


class Archive:
    """Keeps instances and answers each STOW-RS request by the next of `steps`, or by the rule of the standard."""

    def __init__(self, *steps: Step, queries: bool = True, blind_until: int = 0) -> None:
        self.kept: list[Kept] = []
        self.steps = list(steps)
        self.stored = 0  # requests
        self.down = False
        self._queries = queries
        self._blind_until = blind_until  # so many requests: its index takes its time
        self._web = Scripted(self._answer)
        self.url = self._web.url
        self.close = self._web.close

    @property
    def kinds(self) -> list[str]:
        return [kept.kind for kept in self.kept]

    def keep(self, kept: Kept, **changes: str) -> Kept:
        self.kept.append(replace(kept, **changes))
        return self.kept[-1]

    def _answer(self, asked: Asked) -> Answer | None:
        if self.down:
            return Answer(503)
        if asked.method == "POST":
            self.stored += 1
            kept = _sent(asked)
            step = self.steps.pop(0) if self.steps else store
            return step(self, kept)
        if not self._queries:
            return Answer(501)
        return self._query(asked) if self.stored >= self._blind_until else Answer(204)

    def _query(self, asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        wanted = {key: values[0] for key, values in parse_qs(url.query).items() if key in TAGS}
        if found := re.search(r"/studies/([\d.]+)/instances", url.path):
            wanted["StudyInstanceUID"] = found[1]
        there = [kept for kept in self.kept if all(getattr(kept, key) == value for key, value in wanted.items())]
        answers = [{tag: {"vr": "UI", "Value": [getattr(k, key)]} for key, tag in TAGS.items()} for k in there]
        return Answer(200, json.dumps(answers).encode()) if answers else Answer(204)


def _sent(asked: Asked) -> Kept:
    head = b"Content-Type: " + asked.headers["content-type"].encode() + b"\r\n\r\n"
    (part,) = BytesParser(policy=HTTP).parsebytes(head + asked.body).iter_parts()
    ds = dcmread(BytesIO(part.get_payload(decode=True)))
    return Kept(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, str(ds.get("ImageComments", "")))


# -- answers -----------------------------------------------------------------------------------------------------------


def told(kept: Kept, warning: int = 0, **more: Any) -> dict[str, Any]:
    """A Store Instances Response that names the instance as stored."""
    item = Dataset()
    item.ReferencedSOPInstanceUID = kept.SOPInstanceUID
    item.RetrieveURL = (
        f"http://x/studies/{kept.StudyInstanceUID}/series/{kept.SeriesInstanceUID}/instances/{kept.SOPInstanceUID}"
    )
    if warning:
        item.WarningReason = warning
    for keyword, value in more.items():
        setattr(item, keyword, value)
    ds = Dataset()
    ds.ReferencedSOPSequence = [item]
    return json.loads(ds.to_json())


def failed(kept: Kept, reason: int, status: int = 409) -> Answer:
    item = Dataset()
    item.ReferencedSOPInstanceUID = kept.SOPInstanceUID
    item.FailureReason = reason
    ds = Dataset()
    ds.FailedSOPSequence = [item]
    return Answer(status, ds.to_json().encode())


def store(archive: Archive, kept: Kept) -> Answer:
    """A service as the standard says; an instance that is there already is stored once."""
    if kept not in archive.kept:
        archive.keep(kept)
    return Answer(200, json.dumps(told(kept)).encode())


def store_and(answer: Answer | None) -> Step:
    """Stores the instance and gives this answer, whatever it says."""

    def step(archive: Archive, kept: Kept) -> Answer | None:
        archive.keep(kept)
        return answer

    return step


def store_and_tell(form: Callable[[Mapping[str, Any]], Answer], warning: int = 0, **more: Any) -> Step:
    def step(archive: Archive, kept: Kept) -> Answer:
        return form(told(archive.keep(kept), warning, **more))

    return step


def refuse(reason: int, status: int = 409) -> Step:
    return lambda archive, kept: failed(kept, reason, status)


def answer(reply: Answer | None) -> Step:
    """Stores nothing."""
    return lambda archive, kept: reply
