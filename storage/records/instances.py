"""Records of instances: received, stored, grouped into series."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

UID = re.compile(r"[0-9][0-9.]{0,63}")  # wider than PS3.5 9.1, but safe as the name of a file


class Stored(StrEnum):
    """What became of one received instance."""

    NEW = "NEW"  # filed and indexed
    DUPLICATE = "DUPLICATE"  # the same SOP Instance UID with the same content is already here; nothing stored twice
    REVISION = "REVISION"  # the same pixels under changed attributes of patient or study: both kept, the newer used
    CONFLICT = "CONFLICT"  # the same SOP Instance UID with other pixels: kept beside, in quarantine, never instead


@dataclass(frozen=True)
class Facts:
    """What the header of an instance says about the acquisition it is part of; None where it says nothing.

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
        """Without what is None, for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Facts":
        """The inverse of `plain`. Keys of another version are passed over."""
        known = {key: value for key, value in plain.items() if key in cls.__dataclass_fields__}
        for key in ("position", "orientation"):
            if key in known:
                known[key] = tuple(known[key])
        return cls(**known)


@dataclass(frozen=True)
class Instance:
    """One stored composite instance. `path` is a DICOM Part 10 file whose dataset bytes are as received."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    path: Path
    size: int  # bytes of the file
    sha256: str  # of the dataset's bytes as received, without the file meta information
    received_at: datetime
    revision: int  # the study revision this instance arrived in
    facts: Facts = Facts()


@dataclass(frozen=True)
class ReceivedInstance:
    """What is known of one C-STORE request when its bytes go into the journal.

    `association` is the receiver's own name for the association, unique for ever.
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


@dataclass(frozen=True)
class Series:
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]
