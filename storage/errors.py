"""The base of the error tree, which `dicom_node/errors.py` draws with all its leaves.

The type of an error decides whether work is retried, never its text. Messages never hold a patient's name, ID,
birth date or any other attribute of the patient.
"""

from enum import StrEnum


class WhyNoResult(StrEnum):
    """The reason why nothing was computed. Each member is a concept of the published table 99DCMNODE."""

    INPUT_MISSING = "input-missing"  # no series of the study fits
    POOR_QUALITY = "poor-quality"  # the quality gate refused the images
    OUT_OF_DISTRIBUTION = "out-of-distribution"  # they show something the model has not learned
    UNUSABLE_IMAGES = "unusable-images"  # no volume can be made of them
    FAILURE = "failure"  # the analysis broke off, or its model cannot be used


class NodeError(Exception):
    """A failure that this project raises on purpose."""


class Retriable(NodeError):
    """An error after which the same work may succeed later."""


class StorageFull(Retriable):
    """An error for a device of the data directory that has no space left."""


class IndexLost(Retriable):
    """An error for a database that was removed, or replaced by an empty one."""


class StudyInUse(Retriable):
    """A study that is not deleted yet, because its files are being read."""


class Permanent(NodeError):
    """An error after which a retry of the same work would fail again."""


class Unfileable(Permanent):
    """An instance whose UIDs cannot be names of files."""


class DamagedFrame(Permanent):
    """A frame of a journal whose body is not what was written."""


class DeletionRefused(Permanent):
    """A study that is not deleted, because somebody waits for what would be lost with it."""


class InputRefused(Permanent):
    """Images that cannot be used: broken geometry, several volumes in one series, no pixels.

    `why` is the kind of reason for the report; a quality gate, for example, gives POOR_QUALITY.
    """

    def __init__(self, message: str, why: WhyNoResult = WhyNoResult.UNUSABLE_IMAGES) -> None:
        super().__init__(message)
        self.why = why


class MalformedObject(InputRefused):
    """An object whose bytes a parser cannot read."""


class ModelRefused(Permanent):
    """A model folder that cannot be used: no descriptor, unreadable weights, wrong labels."""
