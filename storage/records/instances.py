"""Records of instances: received, stored, grouped into series."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from storage.blobs import Blob
from storage.records.patients import NOBODY, PatientIdentity, Subject

UID = re.compile(r"[0-9][0-9.]{0,63}")  # wider than PS3.5 9.1, but safe as a file name


class Stored(StrEnum):
    """The outcome for one received instance."""

    NEW = "NEW"  # filed and indexed
    DUPLICATE = "DUPLICATE"  # the same SOP Instance UID with the same content is already here; nothing stored twice
    VERSION = "VERSION"  # the same pixels under changed attributes of patient or study: both kept, the newer used
    COPY = "COPY"  # the same pixels under another Study or Series Instance UID: filed there too
    CONFLICT = "CONFLICT"  # the same SOP Instance UID with other pixels: kept beside, in quarantine, never instead


@dataclass(frozen=True)
class ContentHashes:
    """The SHA-256 of the value of the pixel data element, empty if there is none, and that of all other bytes.

    Pixel data are the elements Pixel Data, Float and Double Float Pixel Data at the top level. Tag, VR and length of
    the element belong to the other bytes; the items and the delimiter of encapsulated pixel data belong to its value.
    A 65th such element of one dataset, and all after it, belong to the other bytes.
    """

    pixels: str
    rest: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of both, which tells contents apart."""
        return hashlib.sha256(f"{self.pixels} {self.rest}".encode()).hexdigest()


@dataclass(frozen=True)
class Address:
    """The place of an instance in the log: its frame in a segment of a receiver's journal, and its Part 10 file.

    The Part 10 file are the `length` bytes from `body_offset` of the segment on. That of a large instance is the file
    named `file` beside the segment, and then `body_offset` is 0.
    """

    receiver: str
    segment: int
    frame_offset: int
    body_offset: int
    length: int
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.receiver}/{self.segment:08}:{self.frame_offset}"


@dataclass(frozen=True)
class Facts:
    """The statements of an instance's header about its acquisition; each is None if the header has none.

    `position` and `orientation` are in LPS mm (PS3.3 C.7.6.2), `spacing` is Spacing Between Slices in mm.
    """

    instance_number: int | None = None
    acquisition_number: int | None = None
    images_in_acquisition: int | None = None
    temporal_position: int | None = None  # Temporal Position Identifier, from 1
    temporal_positions: int | None = None  # Number of Temporal Positions
    echo_number: int | None = None
    frames: int | None = None  # Number of Frames
    position: tuple[float, float, float] | None = None
    orientation: tuple[float, float, float, float, float, float] | None = None
    spacing: float | None = None
    priority: str | None = None  # Requested Procedure Priority: STAT, HIGH, ROUTINE, MEDIUM, LOW

    def to_json(self) -> dict[str, Any]:
        """Return the facts that are not None."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Facts":
        """Return the facts from what `to_json` returned. Keys of another version are ignored."""
        known = {key: value for key, value in plain.items() if key in cls.__dataclass_fields__}
        for key in ("position", "orientation"):
            if key in known:
                known[key] = tuple(known[key])
        return cls(**known)


class InstancePlace(NamedTuple):
    """The place where an instance is filed, in the order of the key of its row. A SOP instance may have several."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class Instance:
    """A stored composite instance. The dataset's bytes in `blob` are as received."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    blob: Blob
    received_at: datetime
    revision: int  # the revision of the study that this instance arrived in
    facts: Facts = Facts()

    @property
    def place(self) -> InstancePlace:
        return InstancePlace(self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid)


@dataclass(frozen=True)
class ReceivedInstance:
    """An instance as a C-STORE request delivers it, when its bytes go into the journal.

    `association` is the receiver's own name for the association, which is never used twice. `subject` and `hashes` are
    None in journals of release 0.1, which have the `patient` in clear instead.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    source_ae_title: str
    association: str
    received_at: datetime
    facts: Facts = Facts()
    subject: Subject | None = field(default=None, repr=False)
    hashes: ContentHashes | None = None
    patient: PatientIdentity = field(default=NOBODY, repr=False)

    @property
    def place(self) -> InstancePlace:
        return InstancePlace(self.sop_instance_uid, self.series_instance_uid, self.study_instance_uid)


@dataclass(frozen=True)
class LoggedInstance:
    """An instance that has a row, and where its frame begins in a segment."""

    frame_offset: int
    sop_instance_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class Series:
    """The instances of a study that have the same Series Instance UID."""

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]
