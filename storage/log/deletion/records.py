"""Records of the log of the index role: what was indexed in which order, and what is deleted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple


@dataclass(frozen=True)
class TakenRange:
    """The frames of one segment that were indexed together, from `start` to `end`."""

    receiver: str
    segment: int
    start: int
    end: int


@dataclass(frozen=True)
class RoutedRevisions:
    """Studies that were routed, or of which it was decided that nothing applies, each with its revision."""

    studies: tuple[tuple[str, int], ...]


class DeletedFrame(NamedTuple):
    """The place of a deleted frame: its head begins at `offset`, and the next frame at `end`.

    `checksum` is that of the content (`ContentHashes`), and `file` the name of a large instance beside the segment.
    """

    receiver: str
    segment: int
    offset: int
    end: int
    checksum: str
    file: str | None = None


@dataclass(frozen=True)
class DeletionRequest:
    """The wish to delete a study. `key` is a name of its own, which no other request has.

    `reason` is written by a person, who must not name the patient. `even_if_undelivered` gives results up that have not
    reached their destinations.
    """

    key: str
    study_instance_uid: str
    reason: str
    at: datetime
    even_if_undelivered: bool = False

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"at": self.at.isoformat()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "DeletionRequest":
        return cls(**{**plain, "at": datetime.fromisoformat(plain["at"])})


@dataclass(frozen=True)
class Deletion:
    """A study that is deleted: everything that is destroyed of it.

    `files` are relative to the data directory. `instances` counts the instances that the study had.
    """

    key: str
    study_instance_uid: str
    reason: str
    at: datetime
    instances: int
    frames: tuple[DeletedFrame, ...] = ()
    files: tuple[str, ...] = ()

    @cached_property
    def places(self) -> frozenset[tuple[str, int, int]]:
        """The receiver, the segment and the offset of each deleted frame."""
        return frozenset((frame.receiver, frame.segment, frame.offset) for frame in self.frames)
