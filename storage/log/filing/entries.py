"""The entry of an instance in the index: where it is filed, where its bytes lie, and what is known of its content."""

from dataclasses import dataclass, field
from datetime import datetime

from storage.errors import Unfileable
from storage.records.instances import UID, Address, ContentHashes, Facts, InstancePlace, ReceivedInstance
from storage.records.patients import Subject

INSTANCE_SUFFIX = ".dcm"


@dataclass(frozen=True)
class IndexEntry:
    """An instance as the index lists it.

    Its bytes lie at `address`. An instance that release 0.1 filed has none: it is the file `file`, relative to the
    folder of instances, or the usual one if that is None. Such an instance may have no hashes; its `sha256` is then
    that of its dataset, and otherwise the checksum of its hashes.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    size: int
    sha256: str
    received_at: datetime
    facts: Facts
    hashes: ContentHashes | None = None
    address: Address | None = None
    file: str | None = None
    kept: bytes = field(default=b"", repr=False)  # the kept header of an instance that arrives
    subject: Subject | None = field(default=None, repr=False)  # of an instance that arrives
    subject_id: int | None = None  # of an instance that has a row

    @property
    def place(self) -> InstancePlace:
        return InstancePlace(self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid)


def usual_file(study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> str:
    """Return the file in which release 0.1 filed the first version of an instance."""
    return f"{study_instance_uid}/{series_instance_uid}/{sop_instance_uid}{INSTANCE_SUFFIX}"


def index_entry(
    received: ReceivedInstance, kept: bytes, size: int, address: Address | None = None, file: str | None = None
) -> IndexEntry:
    """Return the entry of an instance that arrives, whose hashes must be known.

    Raises Unfileable for a UID that no peer could ask for.
    """
    uids = (
        received.study_instance_uid,
        received.series_instance_uid,
        received.sop_instance_uid,
        received.sop_class_uid,
        received.transfer_syntax_uid,
    )
    if not all(map(UID.fullmatch, uids)):
        raise Unfileable("A UID has other characters than digits and dots, or more than 64")
    assert received.hashes is not None
    return IndexEntry(
        sop_instance_uid=received.sop_instance_uid,
        sop_class_uid=received.sop_class_uid,
        series_instance_uid=received.series_instance_uid,
        study_instance_uid=received.study_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        modality=_code_string(received.modality),
        size=size,
        sha256=received.hashes.checksum,
        received_at=received.received_at,
        facts=received.facts,
        hashes=received.hashes,
        address=address,
        file=file,
        kept=kept,
        subject=received.subject,
    )


def _code_string(modality: str) -> str:
    """Return the code string (PS3.5 6.2: CS) of a peer, made fit for every database."""
    return "".join(c for c in modality if c.isprintable())[:16]
