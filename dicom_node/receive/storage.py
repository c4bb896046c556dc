"""The node as a storage SCP (PS3.4 annex B): instances go into the receiver's journal, byte for byte.

Duplicates and conflicts are found later, by the indexer.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from dicom_node.dimse.pdu import ASSOCIATE_REQUEST, MAXIMUM_PDU_BYTES, StoreRequest
from dicom_node.dimse.service import Admission, Proposal, Rejection
from dicom_node.dimse.status import DimseResponse, DimseStatus
from dicom_node.receive.policy import Peer, ReceivePolicy, find_peer, reject_beyond_limit, resolve
from dicom_node.receive.presentation_contexts import SopClass, is_storage, supported_contexts
from dicom_node.runtime.logs import fields, printable, unexpected
from storage.errors import Permanent, Retriable
from storage.log.files import FileMeta
from storage.log.headers.header import InstanceHeader
from storage.log.headers.instance_reader import InstanceReader
from storage.log.journal import Journal
from storage.log.patient_key import PatientKey
from storage.log.segments.large import LargeFile
from storage.records.evidence import AssociationEnd
from storage.records.instances import UID, ReceivedInstance

log = logging.getLogger(__name__)

ASSOCIATION_NAME_LENGTH = 64


def describe_opening(opening: bytes) -> str:
    """Return the reason why no association followed, by the connection's first bytes (a PDU's type, PS3.8 9.3)."""
    if not opening:
        return "it sent nothing"
    if opening[0] != ASSOCIATE_REQUEST:
        return "what it sent is not DICOM"
    return "its association request was incomplete or unreadable"


@dataclass
class Session:
    """An admitted association. Its name in `association` is never used again.

    The association is written into the journal with its first instance (`noted`), so that echoes leave nothing there.
    """

    association: str
    calling: str
    called: str
    host: str
    peer: Peer
    noted: bool = False
    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by the reason

    def identifiers(self) -> dict[str, object]:
        return {"peer": self.calling, "host": self.host, "association": self.association if self.noted else None}


class InstanceMismatch(Permanent):
    """The command set and the dataset name different instances or SOP classes."""


class NotNegotiated(Permanent):
    """The SOP class is not stored, or differs from the one of the presentation context."""


def response_to(error: Exception) -> DimseResponse:
    """Return the response that tells the peer why an instance was not stored."""
    match error:
        case Retriable():
            return DimseResponse(DimseStatus.OUT_OF_RESOURCES, "Cannot be stored now, send again later")
        case NotNegotiated():
            return DimseResponse(DimseStatus.SOP_CLASS_NOT_SUPPORTED, str(error))
        case InstanceMismatch():
            return DimseResponse(DimseStatus.DATASET_MISMATCH, str(error))
        case Permanent():
            return DimseResponse(DimseStatus.CANNOT_UNDERSTAND, str(error))
        case _:
            return DimseResponse(DimseStatus.PROCESSING_FAILURE, "Unexpected failure, see the log of the node")


_file_meta = lru_cache(maxsize=256)(FileMeta)
_SUCCESS = DimseResponse(DimseStatus.SUCCESS)


class Ingest:
    """The step from a C-STORE to its response, which is Success only once the journal has made the bytes durable.

    Nothing here raises: every failure becomes a response for the peer and a line in the log.
    """

    def __init__(self, journal: Journal, key: PatientKey) -> None:
        self._journal = journal
        self._key = key

    def accept(self, session: Session, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        try:
            self._journal.ensure_space()
            reader = InstanceReader(request.transfer_syntax_uid, hashing=True)
            reader.update(dataset, final=True)
            instance = self._instance(session, request, reader)
            part10_header = self._part10_header(session, request)
            self._journal.store(instance, part10_header, dataset, kept=reader.kept_header())
        except Exception as error:
            return self.refuse(session, request, error)
        session.stored += 1
        return _SUCCESS

    def begin(self, session: Session, request: StoreRequest, beginning: memoryview) -> "LargeReception":
        return LargeReception(self, session, request, beginning)

    def open_large(self, session: Session, request: StoreRequest) -> LargeFile:
        """Open the file of a large instance and write its header."""
        self._journal.ensure_space()
        file = self._journal.large()
        try:
            file.write(self._part10_header(session, request))
        except BaseException:
            file.discard()
            raise
        return file

    def store_large(
        self, session: Session, request: StoreRequest, reader: InstanceReader, file: LargeFile
    ) -> DimseResponse:
        self._journal.store_large(self._instance(session, request, reader), file, reader.kept_header())
        session.stored += 1
        return _SUCCESS

    def refuse(self, session: Session, request: StoreRequest, error: Exception) -> DimseResponse:
        response = response_to(error)
        session.refused[f"0x{response.status:04X} {response.comment}"] += 1
        identifiers = {"sop_instance": printable(request.sop_instance_uid), **session.identifiers()}
        if response.status == DimseStatus.PROCESSING_FAILURE:
            log.error(
                "An instance could not be stored: %s", unexpected(error), extra=fields("instance_failed", **identifiers)
            )
        else:
            log.warning("An instance was not stored: %s", error, extra=fields("instance_refused", **identifiers))
        return response

    def _instance(self, session: Session, request: StoreRequest, reader: InstanceReader) -> ReceivedInstance:
        """Return what is known of an instance that was read to its end. The values of its patient are hashed here."""
        header = reader.header()
        ensure_acceptable(header, request)
        subject = self._key.subject(header.patient)
        if not session.noted:
            self._journal.opened(session.association, session.calling, session.called, session.host)
            session.noted = True
        return ReceivedInstance(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            series_instance_uid=header.series_instance_uid,
            study_instance_uid=header.study_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            modality=header.modality,
            source_ae_title=session.calling,
            association=session.association,
            received_at=datetime.now(UTC),
            facts=header.facts,
            subject=subject,
            hashes=reader.hashes(),
        )

    def _part10_header(self, session: Session, request: StoreRequest) -> bytes:
        meta = _file_meta(request.sop_class_uid, request.transfer_syntax_uid, session.calling)
        return meta.header(request.sop_instance_uid)


def ensure_acceptable(header: InstanceHeader, request: StoreRequest) -> None:
    """Raise Permanent for an instance that the indexer could not file, because it must not be acknowledged."""
    if request.sop_class_uid != request.abstract_syntax_uid or not is_storage(request.sop_class_uid):
        raise NotNegotiated("The presentation context is not for storing this SOP class")
    if header.sop_instance_uid != request.sop_instance_uid:
        raise InstanceMismatch("SOP Instance UID of dataset and request differ")
    if header.sop_class_uid != request.sop_class_uid:
        raise InstanceMismatch("SOP Class UID of dataset and request differ")
    if not (
        UID.fullmatch(header.sop_class_uid)
        and UID.fullmatch(header.sop_instance_uid)
        and UID.fullmatch(header.series_instance_uid)
        and UID.fullmatch(header.study_instance_uid)
    ):
        raise Permanent("A UID has other characters than digits and dots")


class LargeReception:
    """A large instance while it arrives. Its UIDs may stand behind its beginning, even at its end.

    After a failure the rest of the instance is dropped. The peer gets the response at the end of the instance, and the
    association goes on.
    """

    def __init__(self, ingest: Ingest, session: Session, request: StoreRequest, beginning: memoryview) -> None:
        self._ingest = ingest
        self._session = session
        self._request = request
        self._error: Exception | None = None
        self._file: LargeFile | None = None
        self._reader = InstanceReader(request.transfer_syntax_uid, hashing=True)
        try:
            self._reader.update(beginning)
            if self._reader.is_identified:
                ensure_acceptable(self._reader.header(), request)
            self._file = ingest.open_large(session, request)
            self._file.write(beginning)
        except Exception as error:
            self._error = error
            self.discard()

    def write(self, part: memoryview) -> None:
        if self._file is not None:
            try:
                self._reader.update(part)
                self._file.write(part)
            except Exception as error:
                self._error = error
                self.discard()

    def finish(self) -> DimseResponse:
        try:
            if self._error is not None:
                raise self._error
            assert self._file is not None
            self._reader.update(b"", final=True)
            return self._ingest.store_large(self._session, self._request, self._reader, self._file)
        except Exception as error:
            self.discard()
            return self._ingest.refuse(self._session, self._request, error)

    def discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.discard()
            except OSError as error:
                log.error("A partial instance could not be removed: %s", error.strerror, extra=fields("removal_failed"))


class StorageService:
    """The service behind all associations of a receiver: it applies the policy and hands instances to `Ingest`."""

    def __init__(
        self,
        policy: ReceivePolicy,
        journal: Journal,
        key: PatientKey,
        receiver: str,
        further: Sequence[SopClass] = (),
        addresses: Callable[[str], Iterable[str]] = resolve,
    ) -> None:
        self._policy = policy
        self._journal = journal
        self._further = further
        self._addresses = addresses
        self._ingest = Ingest(journal, key)
        life = f"-{time.time_ns():x}-"
        self._name = receiver[-(ASSOCIATION_NAME_LENGTH - len(life) - 10) :] + life
        self._numbers = itertools.count(1)
        self._established: Counter[Peer] = Counter()
        self._lock = threading.Lock()

    @property
    def established(self) -> int:
        """The number of associations that are admitted and have not ended."""
        with self._lock:
            return self._established.total()

    def admit(self, proposal: Proposal) -> Admission | Rejection:
        calling, called = printable(proposal.calling_ae_title), printable(proposal.called_ae_title)
        peer = find_peer(self._policy, calling, called, proposal.host, self._addresses)
        if isinstance(peer, Peer):
            with self._lock:
                established = self._established
                refusal = reject_beyond_limit(self._policy, peer, established.total(), established[peer])
                if refusal is None:
                    established[peer] += 1
            peer = refusal or peer
        if isinstance(peer, Rejection):
            extra = fields("association_rejected", peer=calling, host=proposal.host)
            log.warning("Rejected an association: %s", peer.explanation, extra=extra)
            return peer
        session = Session(f"{self._name}{next(self._numbers)}", calling, called, proposal.host, peer)
        log.debug("Admitted an association", extra=fields("association_admitted", **session.identifiers()))
        return Admission(
            session=session,
            contexts=supported_contexts(proposal.contexts, peer, self._further),
            maximum_pdu_bytes=peer.maximum_pdu_bytes or MAXIMUM_PDU_BYTES,
        )

    def store(self, session: Any, request: StoreRequest, dataset: memoryview) -> DimseResponse:
        return self._ingest.accept(session, request, dataset)

    def begin_large(self, session: Any, request: StoreRequest, beginning: memoryview) -> LargeReception:
        return self._ingest.begin(session, request, beginning)

    def echoed(self, session: Session) -> int:
        """Answer a C-ECHO."""
        log.info("Answered an echo", extra=fields("echo_answered", **session.identifiers()))
        return DimseStatus.SUCCESS

    def failed(self, host: str, opening: bytes) -> None:
        reason = describe_opening(opening)
        extra = fields("connection_failed", host=host)
        log.warning("A connection ended without an association, because %s", reason, extra=extra)

    def ended(self, session: Any, end: AssociationEnd, reason: str) -> None:
        with self._lock:
            self._established[session.peer] -= 1
            self._established += Counter()  # drops peers without associations
        if session.noted or session.refused:
            self._note_end(session, end)
        counts = f"{session.stored} stored, {session.refused.total()} refused"
        if end is AssociationEnd.ABORTED:
            extra = fields("association_aborted", **session.identifiers())
            log.warning("An association was aborted: %s; %s", counts, reason, extra=extra)
        elif session.noted:
            extra = fields("association_released", **session.identifiers())
            log.info("An association was released: %s", counts, extra=extra)

    def _note_end(self, session: Session, end: AssociationEnd) -> None:
        """Write the end of an association into the journal. A lost end counts as an abort after the next start."""
        extra = fields("association_end_lost", **session.identifiers())
        try:
            if session.noted:
                self._journal.ended(session.association, end)
            if session.refused:
                self._journal.refused(session.calling, session.host, session.refused)
        except Retriable as error:
            log.warning(
                "The end of an association could not be noted and will count as an abort: %s", error, extra=extra
            )
        except Exception as error:
            message = "The end of an association could not be noted and will count as an abort: %s"
            log.error(message, unexpected(error), extra=extra)
