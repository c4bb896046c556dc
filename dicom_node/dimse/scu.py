"""The node as a storage SCU (PS3.4 annex B): it sends instances to another application entity, one answer for each.

pynetdicom's client runs a second thread that can take the response away from `send_c_store`. Here that thread is never
started: the thread that sends a request reads the response.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import dcmwrite
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role
from pynetdicom._globals import MODE_REQUESTOR
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AddressInformation

from dicom_node.dimse.pdu import MAXIMUM_PDU_BYTES
from dicom_node.dimse.pynetdicom_setup import silence_pynetdicom
from dicom_node.dimse.requested_association import DeadlineSocket, RequestedAssociation
from dicom_node.dimse.results import EchoResult, SendOutcome, SendResult
from dicom_node.dimse.status import LARGEST_MESSAGE_ID, DimseStatus, RejectResult
from dicom_node.errors import PeerRefused, PeerUnavailable
from inference.headers.reading import read_object
from storage.blobs import Blob
from storage.errors import NodeError, Permanent
from storage.log.headers.header import UnreadableDataset
from storage.log.headers.instance_reader import read_instance_header
from storage.records.deliveries import StoredAs

MAXIMUM_CONTEXTS = 128  # presentation context IDs are the odd numbers of one byte (PS3.8 9.3.2.2)
_CONVERTIBLE = frozenset({ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})  # words of pixel data stay unchanged

Context = tuple[str, str]  # SOP class and transfer syntax


@dataclass(frozen=True)
class Target:
    """An application entity to associate with."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True)
class OutgoingInstance:
    """An instance to send, which is read when its turn comes."""

    blob: Blob
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int = field(repr=False)  # of the dataset in the file

    @classmethod
    def from_blob(cls, blob: Blob) -> Self:
        """Read the UIDs. Raise Permanent when `blob` is not a DICOM file that can be sent, and OSError."""
        with blob.open() as file:
            try:
                read_preamble(file, force=False)
                transfer_syntax_uid = str(_read_file_meta_info(file)["TransferSyntaxUID"].value)
            except OSError:
                raise
            except Exception as error:
                raise Permanent(f"{blob} is not a DICOM file that can be sent ({type(error).__name__})") from None
            offset = file.tell()
            try:
                header = read_instance_header(file, transfer_syntax_uid)
            except UnreadableDataset as error:
                raise Permanent(f"{blob}: {error}") from None
        return cls(blob, header.sop_class_uid, header.sop_instance_uid, transfer_syntax_uid, offset)

    def contexts(self) -> list[Context]:
        """Return the contexts to propose: its own syntax, and the default one (PS3.5 10.1) if that is lossless."""
        own = (self.sop_class_uid, self.transfer_syntax_uid)
        if self.transfer_syntax_uid in _CONVERTIBLE:
            return [own, (self.sop_class_uid, str(ImplicitVRLittleEndian))]
        return [own]

    def encoded(self, transfer_syntax_uid: str) -> bytes:
        """Return the encoded dataset: the file's own bytes, or re-encoded if only the default syntax was accepted."""
        if transfer_syntax_uid == self.transfer_syntax_uid:
            with self.blob.open() as file:
                file.seek(self.offset)
                return file.read()
        ds = read_object(self.blob)
        buffer = BytesIO()
        syntax = UID(transfer_syntax_uid)
        dcmwrite(buffer, Dataset(ds), implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        return buffer.getvalue()


class Requestor:
    """An association that the node requests, as a context manager. Entering raises PeerUnavailable or PeerRefused.

    `scp_of` are the SOP classes for which the node proposes to be SCP (PS3.7 D.3.3.4).
    """

    def __init__(
        self,
        calling_ae_title: str,
        target: Target,
        contexts: Iterable[Context],
        timeout: float,
        scp_of: Iterable[str] = (),
    ) -> None:
        self._target = target
        self._scp_of = tuple(scp_of)
        self._timeout = timeout
        self._requested = list(dict.fromkeys(contexts))
        self._calling_ae_title = calling_ae_title
        self._accepted: dict[Context, int] = {}
        self._message_id = 0
        self._assoc: RequestedAssociation | None = None

    def __enter__(self) -> Self:
        silence_pynetdicom()
        assoc = self._assoc = self._create()
        assoc.request()
        self._accepted = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0])): c.context_id for c in assoc.accepted_contexts
        }
        if not assoc.is_established and not assoc.rejected_contexts:
            raise self._failure(assoc)
        assoc._is_paused = True  # there is no reactor to wait for
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assoc = self._assoc
        if assoc is None or not assoc.is_established:
            return
        if error is None:
            assoc.release()
        else:
            assoc.abort()

    def _create(self) -> RequestedAssociation:
        ae = AE(ae_title=self._calling_ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self._timeout
        try:
            remote = AddressInformation.from_addr_port(self._target.host, self._target.port)
        except OSError:
            raise PeerUnavailable(f"the host name {self._target.host} is unknown") from None
        local = AddressInformation("0.0.0.0" if remote.is_ipv4 else "::", 0)  # noqa: S104 - an outgoing connection
        assoc = RequestedAssociation(ae, MODE_REQUESTOR)
        assoc.set_socket(DeadlineSocket(assoc, self._timeout, address=local))
        assoc.acceptor.ae_title = self._target.ae_title
        assoc.acceptor.address_info = remote
        assoc.requestor.ae_title = ae.ae_title
        assoc.requestor.address_info = local
        assoc.requestor.maximum_length = MAXIMUM_PDU_BYTES
        assoc.requestor.implementation_class_uid = ae.implementation_class_uid
        assoc.requestor.implementation_version_name = ae.implementation_version_name
        contexts = [build_context(abstract, transfer) for abstract, transfer in self._requested]
        for number, context in enumerate(contexts):
            context.context_id = 2 * number + 1
        assoc.requestor.requested_contexts = contexts
        for sop_class_uid in self._scp_of:
            assoc.requestor.add_negotiation_item(build_role(sop_class_uid, scp_role=True))
        return assoc

    def _failure(self, assoc: RequestedAssociation) -> NodeError:
        if assoc.is_rejected:
            answer = assoc.acceptor.primitive
            message = f"{self._target} rejects the association: {answer.reason_str.lower()}"
            return PeerRefused(message) if answer.result == RejectResult.PERMANENT else PeerUnavailable(message)
        if assoc.dul.socket is None or not assoc.dul.socket.opening:
            return PeerUnavailable(f"{self._target} cannot be reached, or does not answer")
        return PeerUnavailable(f"{self._target} broke off the association")

    def _exchange(self, request: Any, context_id: int) -> Any:
        """Send a request and return its response (PS3.7 9.1, 10.1).

        Raise PeerUnavailable if no response with a status comes; the association is then over.
        """
        assoc = self._assoc
        assert assoc is not None
        self._message_id = self._message_id % LARGEST_MESSAGE_ID + 1
        request.MessageID = self._message_id
        assoc.dimse.send_msg(request, context_id)
        response = self._response()
        if not isinstance(response, type(request)) or response.MessageIDBeingRespondedTo != self._message_id:
            broken = response is None and not assoc.dul.is_alive()
            assoc.abort()
            raise PeerUnavailable(f"{self._target} {'broke off the association' if broken else 'did not answer'}")
        if response.Status is None:
            raise PeerUnavailable(f"{self._target} answered without a status")
        return response

    def _response(self) -> Any:
        """Read the next message; return None when none comes in time, or when the association is over."""
        assert self._assoc is not None
        _, message = self._assoc.dimse.get_msg(block=True)
        return message


class StorageSCU(Requestor):
    """An association for storage and verification (PS3.4 annexes B and A)."""

    def store(self, instance: OutgoingInstance) -> SendResult:
        """Send one instance. Raise PeerUnavailable when no answer comes; the association is over then."""
        uid = instance.sop_instance_uid
        context = next((c for c in instance.contexts() if c in self._accepted), None)
        if context is None:
            return SendResult(uid, SendOutcome.REFUSED, self._not_accepted(instance))
        try:
            dataset = instance.encoded(context[1])
        except OSError as error:
            return SendResult(uid, SendOutcome.UNREADABLE, f"{instance.blob} cannot be read: {error.strerror}")
        except Exception as error:
            return SendResult(uid, SendOutcome.UNSENDABLE, f"the file cannot be read ({type(error).__name__})")
        response = self._send(instance, self._accepted[context], dataset)
        named = str(response.AffectedSOPInstanceUID or uid)
        stored_as = None if named == uid else StoredAs(named)
        return SendResult.from_status(uid, int(response.Status), _keywords(response.OffendingElement), stored_as)

    def accepted(self) -> frozenset[str]:
        """Return the SOP classes that the peer accepted."""
        return frozenset(sop_class_uid for sop_class_uid, _ in self._accepted)

    def echo(self) -> int:
        """Send a C-ECHO and return its status."""
        assert self._assoc is not None
        if not self._accepted:
            raise PeerRefused(f"{self._target} does not accept the verification service")
        status = self._assoc.send_c_echo()
        if "Status" not in status:
            raise PeerUnavailable(f"{self._target} did not answer")
        return int(status.Status)

    def _not_accepted(self, instance: OutgoingInstance) -> str:
        name, syntax = UID(instance.sop_class_uid).name, UID(instance.transfer_syntax_uid).name
        assert self._assoc is not None
        results = {c.result for c in self._assoc.rejected_contexts if c.abstract_syntax == instance.sop_class_uid}
        if results == {0x04}:  # transfer syntaxes not supported (PS3.8 table 9-18)
            return f"{self._target.ae_title} does not accept {name} in {syntax}"
        return f"{self._target.ae_title} does not accept {name}"

    def _send(self, instance: OutgoingInstance, context_id: int, dataset: bytes) -> C_STORE:
        """Send a C-STORE request and return its response (PS3.7 9.3.1)."""
        request = C_STORE()
        request.Priority = 0x0002  # low
        request.AffectedSOPClassUID = instance.sop_class_uid
        request.AffectedSOPInstanceUID = instance.sop_instance_uid
        request.DataSet = BytesIO(dataset)
        return self._exchange(request, context_id)


def send_files(
    blobs: Sequence[Blob],
    calling_ae_title: str,
    target: Target,
    timeout: float = 30.0,
    progress: Callable[[SendResult], None] = lambda result: None,
) -> list[SendResult]:
    """Send instances over as few associations as possible; return one result for each, in order.

    Failures of peers and of files become results, not exceptions.
    """
    results: list[SendResult | None] = [None] * len(blobs)

    def note(index: int, result: SendResult) -> None:
        results[index] = result
        progress(result)

    outgoing: list[tuple[int, OutgoingInstance]] = []
    for index, blob in enumerate(blobs):
        try:
            outgoing.append((index, OutgoingInstance.from_blob(blob)))
        except Permanent as error:
            note(index, SendResult("", SendOutcome.UNSENDABLE, str(error)))
        except OSError as error:
            note(index, SendResult("", SendOutcome.UNREADABLE, f"{blob} cannot be read: {error.strerror}"))
    for batch in _batches(outgoing):
        pending = iter(batch)
        current: tuple[int, OutgoingInstance] | None = None
        try:
            with StorageSCU(calling_ae_title, target, _contexts(i for _, i in batch), timeout) as scu:
                for current in pending:
                    note(current[0], scu.store(current[1]))
                    current = None
        except (PeerUnavailable, PeerRefused) as error:
            if current is not None:  # the association broke off after it was sent, at least in part
                note(current[0], SendResult(current[1].sop_instance_uid, SendOutcome.LOST, str(error)))
            outcome = SendOutcome.AWAY if isinstance(error, PeerUnavailable) else SendOutcome.DENIED
            for index, instance in pending:
                note(index, SendResult(instance.sop_instance_uid, outcome, str(error)))
    return [result for result in results if result is not None]


def accepted_sop_classes(
    calling_ae_title: str, target: Target, sop_class_uids: Collection[str], timeout: float = 30.0
) -> frozenset[str] | None:
    """Return the SOP classes that the peer accepts with a transfer syntax in which every result can be sent.

    Returns None if there is no association, because that says nothing about SOP classes.
    """
    syntaxes = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
    contexts = [(sop_class_uid, syntax) for sop_class_uid in sorted(sop_class_uids) for syntax in syntaxes]
    try:
        with StorageSCU(calling_ae_title, target, contexts, timeout) as scu:
            return scu.accepted()
    except (PeerUnavailable, PeerRefused):
        return None


def send_echo(calling_ae_title: str, target: Target, timeout: float = 10.0) -> EchoResult:
    """Verify a connection (PS3.4 annex A)."""
    start = time.monotonic()
    reason = ""
    try:
        with StorageSCU(calling_ae_title, target, [(str(Verification), str(ImplicitVRLittleEndian))], timeout) as scu:
            status = scu.echo()
        if status != DimseStatus.SUCCESS:
            reason = f"{target} answered 0x{status:04X}"
    except (PeerUnavailable, PeerRefused) as error:
        reason = str(error)
    return EchoResult(ok=not reason, seconds=time.monotonic() - start, reason=reason)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files, and all files below the folders, in a stable order. Raise Permanent for a missing path."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise Permanent(f"{path} does not exist")
    return found


def _keywords(tags: Any) -> tuple[str, ...]:
    """Return the names of the attributes in Offending Element (0000,0901), which holds a tag or several."""
    several = [tags] if isinstance(tags, int) else tags or ()
    return tuple(keyword_for_tag(tag) or str(Tag(tag)) for tag in several)


def _contexts(instances: Iterable[OutgoingInstance]) -> list[Context]:
    return list(dict.fromkeys(context for instance in instances for context in instance.contexts()))


def _batches(instances: Sequence[tuple[int, OutgoingInstance]]) -> Iterator[list[tuple[int, OutgoingInstance]]]:
    """Split the instances into batches that need no more presentation contexts than one association can have."""
    batch: list[tuple[int, OutgoingInstance]] = []
    contexts: set[Context] = set()
    for item in instances:
        wanted = set(item[1].contexts())
        if batch and len(contexts | wanted) > MAXIMUM_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        batch.append(item)
        contexts |= wanted
    if batch:
        yield batch
