"""An archive that takes objects by STOW-RS (PS3.18 10.5) and says by QIDO-RS (PS3.18 10.6) which ones it holds.

URLs hold no identifiers but UIDs. Texts from the other side, and texts of a library's errors, are never logged or kept,
because they may quote the patient or a secret.
"""

import os
import ssl
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydantic import AfterValidator, Field
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import MaxRetryError, NewConnectionError

from dicom_node.deliver.destinations.instance_files import not_read, read_instance
from dicom_node.deliver.destinations.interface import Asker
from dicom_node.deliver.destinations.settings import DestinationSettings
from dicom_node.deliver.destinations.stow_answer import DICOM_JSON, make_readable, read_answer
from dicom_node.dimse.results import EchoResult, InstanceReference, SendOutcome, SendResult
from dicom_node.errors import (
    AnswerLost,
    AnswerUnreadable,
    ObjectConflict,
    ObjectRefused,
    PeerRefused,
    PeerUnavailable,
)
from storage.blobs import Blob
from storage.errors import NodeError, Permanent, Retriable
from storage.log.files import IMPLEMENTATION_CLASS_UID
from storage.records.deliveries import StoredAs

SOP_INSTANCE_UID, SERIES_INSTANCE_UID, STUDY_INSTANCE_UID = "00080018", "0020000E", "0020000D"
_PERHAPS_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_OBJECT_REFUSED = frozenset({400, 413, 415})  # another object may be taken
MOST_MOVED = 10  # answers to a question that has at most one right answer
_OUTCOMES: Mapping[type[NodeError], SendOutcome] = {
    AnswerLost: SendOutcome.LOST,
    AnswerUnreadable: SendOutcome.UNCLEAR,
    Retriable: SendOutcome.AWAY,
    ObjectRefused: SendOutcome.REFUSED,
    Permanent: SendOutcome.DENIED,
}
_REMEDIES: Mapping[int, str] = {
    400: "it does not understand the request",
    401: "it does not know this node: check `username` and what is in `password_file`, or in `token_file`",
    403: "this node may not do that there: give its user, or its token, the right to store and to query",
    404: "there is no such service: check `url`",
    405: "there is no such service: check `url`",
    501: "there is no such service: check `url`",
    409: "it refuses the object, or has one of the same UID",
    413: "the object is larger than it allows: raise the limit there",
    415: "it does not take such objects",
}


@dataclass(frozen=True)
class BasicAuth(AuthBase):
    """A user and a password (RFC 7617). The file is read for each request, so that it can change at any time."""

    username: str
    password_file: Path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        password = read_secret("password_file", self.password_file)
        return HTTPBasicAuth(self.username.encode(), password.encode())(request)


@dataclass(frozen=True)
class BearerAuth(AuthBase):
    """A token (RFC 6750). The file is read for each request, because the token is renewed by writing the file again."""

    token_file: Path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {read_secret('token_file', self.token_file)}"
        return request


def read_secret(key: str, path: Path) -> str:
    """Return the one line of the file that `key` of the configuration names.

    Raises PeerUnavailable if the file cannot be used; the message does not quote it.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PeerUnavailable(f"{key} = '{path}': cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        secret = ""
    if not secret.isprintable() or not secret or (key == "token_file" and not secret.isascii()):
        raise PeerUnavailable(f"{key} = '{path}': must hold one line of text")
    return secret


@dataclass(frozen=True)
class DicomwebDestination:
    """A DICOMweb service. All objects of one call of `send` go in one request.

    `timeout` (seconds) limits connecting and each silence. `ca_file` names the authorities that may have signed the
    certificate of the service; None stands for those that this system trusts.
    """

    name: str
    url: str
    timeout: float = 30.0
    auth: AuthBase | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def send(self, blobs: Sequence[Blob]) -> list[SendResult]:
        results: dict[Blob, SendResult] = {}
        instances: dict[Blob, Dataset] = {}
        for blob in blobs:
            try:
                instances[blob] = read_instance(blob)
            except Permanent as error:
                results[blob] = SendResult("", SendOutcome.UNSENDABLE, str(error))
            except OSError as error:
                results[blob] = SendResult("", SendOutcome.UNREADABLE, not_read(blob, error))
        if instances:
            answered = self._store(list(instances.values()))
            results |= {blob: answered[str(ds.SOPInstanceUID)] for blob, ds in instances.items()}
        return [results[blob] for blob in blobs]

    def accepted(self, sop_class_uids: Collection[str]) -> frozenset[str] | None:
        """Return None, because no service says beforehand which SOP classes it takes."""
        return None

    def echo(self) -> EchoResult:
        """Test the connection by asking for a study that nobody has, so that no answer can hold patient data."""
        start = time.monotonic()
        reason = ""
        try:
            with self._client() as client:
                client.search_for_studies(limit=1, search_filters={"StudyInstanceUID": IMPLEMENTATION_CLASS_UID})
        except NodeError as error:
            reason = str(error)
        return EchoResult(ok=not reason, seconds=time.monotonic() - start, reason=reason)

    def commit(self, transaction_uid: str, references: Sequence[InstanceReference], asker: Asker) -> None:
        raise PeerRefused(f"{self.url} takes no requests for storage commitment")

    def stored(self, references: Collection[InstanceReference]) -> set[str]:
        """Return the SOP Instance UIDs of all `references` that the archive holds in the right study.

        Asks for one instance at a time: archives cut long answers off, and not all of them match lists of UIDs. Raises
        PeerUnavailable, or PeerRefused if the archive refuses to answer.
        """
        found: set[str] = set()
        with self._client() as client:
            for reference in references:
                answers = client.search_for_instances(
                    reference.study_instance_uid, search_filters={"SOPInstanceUID": reference.sop_instance_uid}
                )
                found.update(answer[SOP_INSTANCE_UID]["Value"][0] for answer in answers)
        return found.intersection(reference.sop_instance_uid for reference in references)

    def moved(self, references: Collection[InstanceReference]) -> dict[str, StoredAs]:
        """Return where the archive keeps `references` that it does not hold under their own UIDs.

        An instance is known by its SOP Instance UID in whatever study, or as the only one of its series.
        """
        found: dict[str, StoredAs] = {}
        with self._client() as client:
            for reference in references:
                uid, study = reference.sop_instance_uid, reference.study_instance_uid
                anywhere = client.search_for_instances(limit=MOST_MOVED, search_filters={"SOPInstanceUID": uid})
                same = [place for place in map(_place, anywhere) if place.sop_instance_uid == uid]
                if not same:
                    series = {"SeriesInstanceUID": reference.series_instance_uid}
                    within = client.search_for_instances(study, limit=MOST_MOVED, search_filters=series)
                    same = [p for p in map(_place, within) if p.series_instance_uid == reference.series_instance_uid]
                if len(same) == 1:
                    found[uid] = same[0]
        return found

    def _store(self, instances: Sequence[Dataset]) -> dict[str, SendResult]:
        sent = [
            InstanceReference(
                str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.get("SOPClassUID")), str(ds.SOPInstanceUID)
            )
            for ds in instances
        ]
        try:
            with self._client() as client:
                return read_answer(client.store_instances(instances), sent)
        except NodeError as error:
            outcome = next(outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind))
            conflict = isinstance(error, ObjectConflict)
            return {
                r.sop_instance_uid: SendResult(r.sop_instance_uid, outcome, str(error), may_exist=conflict)
                for r in sent
            }

    @contextmanager
    def _client(self) -> Iterator[DICOMwebClient]:
        """Open a client for as long as the block runs. Any failure in the block is raised as a NodeError."""
        try:
            with self._session() as session:
                client = DICOMwebClient(
                    self.url,
                    session,
                    callback=make_readable,
                    chunk_size=sys.maxsize,  # some services do not take chunked transfer encoding
                    permissive_uid=True,  # UIDs of studies come from scanners
                    timeout=self.timeout,
                )
                client.set_http_retry_params(retry=False)  # the dispatcher retries, with longer pauses
                yield client
        except NodeError:
            raise
        except requests.RequestException as error:
            raise self._failure(error) from None
        except OSError as error:
            raise PeerUnavailable(
                f"{self.url}: `ca_file`, `client_certificate` or `client_key` cannot be used ({type(error).__name__})"
            ) from None
        except Exception as error:  # parsers fail in many ways
            raise AnswerUnreadable(f"{self.url} gives an answer that cannot be read ({type(error).__name__})") from None

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # the environment may name a proxy, other CAs, and passwords in ~/.netrc
        session.max_redirects = 0  # images go only where the configuration says
        session.auth = self.auth
        session.headers["Accept"] = DICOM_JSON
        system = ssl.get_default_verify_paths()
        trusted = self.ca_file or system.cafile or system.capath
        session.verify = True if trusted is None else str(trusted)
        if self.client_certificate is not None:
            certificate, key = self.client_certificate, self.client_key or self.client_certificate
            session.cert = (str(certificate), str(key))
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter())
        return session

    def _failure(self, error: requests.RequestException) -> NodeError:
        """Return the meaning of a failed request. The request was sent, unless the connection could not be opened."""
        match error:
            case requests.HTTPError():
                return self._refusal(error)
            case requests.TooManyRedirects():
                return PeerRefused(f"{self.url} sends us to another address: set `url` to that one")
            case requests.exceptions.SSLError():
                return PeerUnavailable(f"{self.url}: {_tls_failure(error)}")
            case requests.ConnectTimeout():
                return PeerUnavailable(f"{self.url} cannot be reached within {self.timeout:g} s")
            case requests.Timeout():
                return AnswerLost(f"{self.url} did not answer within {self.timeout:g} s")
            case requests.ConnectionError(args=(MaxRetryError(reason=NewConnectionError()), *_)):
                return PeerUnavailable(f"{self.url} cannot be reached")
            case requests.ConnectionError() | requests.exceptions.ChunkedEncodingError():
                return AnswerLost(f"{self.url} broke off")
            case requests.exceptions.InvalidJSONError() | requests.exceptions.ContentDecodingError():
                return AnswerUnreadable(f"{self.url} gives an answer that cannot be read ({type(error).__name__})")
            case _:
                return PeerUnavailable(f"{self.url}: the request failed ({type(error).__name__})")

    def _refusal(self, error: requests.HTTPError) -> NodeError:
        assert error.response is not None
        status = error.response.status_code
        remedy = f": {_REMEDIES[status]}" if status in _REMEDIES else ""
        message = f"{self.url} answers HTTP {status}{remedy}"
        if (status >= 500 and status != HTTPStatus.NOT_IMPLEMENTED) or status in _PERHAPS_LATER:
            return AnswerLost(message)
        if status == HTTPStatus.CONFLICT:
            return ObjectConflict(message)
        return ObjectRefused(message) if status in _OBJECT_REFUSED else PeerRefused(message)


class _Adapter(HTTPAdapter):
    """An adapter that corrects two faults in the library's way of sending."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers.pop("Host", None)  # the library's own leaves out the port
        if isinstance(request.body, bytes):  # a stream is sent in pieces, and the time-out holds for each of them
            request.body = BytesIO(request.body)
        return super().send(request, *args, **kwargs)


def _place(answer: Mapping[str, Any]) -> StoredAs:
    """Return the UIDs of an instance in an answer to QIDO-RS; those that it leaves out are empty."""
    tags = (SOP_INSTANCE_UID, SERIES_INSTANCE_UID, STUDY_INSTANCE_UID)
    return StoredAs(*(str((answer.get(tag, {}).get("Value") or [""])[0]) for tag in tags))


def _tls_failure(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message}): check `url`, and the CA in `ca_file`"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"TLS fails ({cause.reason.replace('_', ' ').lower()})"
        cause = cause.__cause__ or cause.__context__
    return "TLS fails: check `ca_file`, `client_certificate` and `client_key`"


def valid_url(value: str) -> str:
    """Return the address of a web service without a slash at its end. Raise ValueError if it cannot be one.

    The address appears in logs and in reasons, so it must hold no secret.
    """
    text = value.strip()
    try:
        url = urlsplit(text)
        whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # the port or the IPv6 address is impossible
        whole = False
    if not whole or url.query or url.fragment or any(c.isspace() for c in text):
        raise ValueError("must be the address of a DICOMweb service, such as https://pacs.example/dicom-web")
    if "@" in url.netloc:
        raise ValueError("must not hold a user; give `username` with `password_file`, or `token_file`, in its place")
    return url.geturl().rstrip("/")


class DicomwebSettings(DestinationSettings):
    """A `[[destinations]]` entry of kind "dicomweb".

    Secrets are in files of their own, so that nothing that prints a configuration can reveal them.
    """

    kind: Literal["dicomweb"]
    url: Annotated[str, AfterValidator(valid_url)]
    username: str | None = Field(None, min_length=1)
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def address(self) -> str:
        return self.url

    def build(self, calling_ae_title: str, timeout: float) -> DicomwebDestination:
        return DicomwebDestination(
            name=self.name,
            url=self.url,
            timeout=timeout,
            auth=self._auth(),
            ca_file=self.ca_file,
            client_certificate=self.client_certificate,
            client_key=self.client_key,
        )

    def _auth(self) -> BasicAuth | BearerAuth | None:
        if self.username is not None and self.password_file is not None:
            return BasicAuth(self.username, self.password_file)
        return None if self.token_file is None else BearerAuth(self.token_file)

    def local_problems(self) -> list[str]:
        problems = []
        for key in ("ca_file", "client_certificate", "client_key"):
            file = getattr(self, key)
            if file is not None and not os.access(file, os.R_OK):
                problems.append(f"{key} = '{file}': cannot be read by this user")
        for key in ("password_file", "token_file"):
            file = getattr(self, key)
            try:
                if file is not None:
                    read_secret(key, file)
            except Retriable as error:
                problems.append(str(error))
        return problems

    @classmethod
    def contradictions(cls, key: str, entry: Mapping[str, Any]) -> Iterator[str]:
        if ("username" in entry) != ("password_file" in entry):
            given, lacking = ("username", "password_file") if "username" in entry else ("password_file", "username")
            yield f"{key}.{given}: needs `{lacking}` beside it"
        if "token_file" in entry and "username" in entry:
            yield f"{key}.token_file: excludes `username`; keep the one that the service asks for"
        if "client_key" in entry and "client_certificate" not in entry:
            yield f"{key}.client_key: needs `client_certificate`, the certificate that it belongs to"
        url = entry.get("url")
        if isinstance(url, str) and url.strip().lower().startswith("http:"):
            for name in ("ca_file", "client_certificate"):
                if name in entry:
                    yield f"{key}.{name}: needs a `url` that begins with https"
