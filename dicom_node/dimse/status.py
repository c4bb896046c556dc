"""Names of the codes that DIMSE and the upper layer put on the wire: statuses, rejections, aborts."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from pydicom.dataset import Dataset

ERROR_COMMENT_LENGTH = 64  # (0000,0902) is LO
LARGEST_MESSAGE_ID = 65535  # (0000,0110) is US


class DimseStatus(IntEnum):
    """Status (0000,0900) of a response (PS3.7 annex C; PS3.4 tables B.2-1 and C.4-1 from 0xA700 on)."""

    SUCCESS = 0x0000
    OPTIONAL_ATTRIBUTES_NOT_SUPPORTED = 0x0001  # a warning
    INVALID_ATTRIBUTE_VALUE = 0x0106
    ATTRIBUTE_LIST_ERROR = 0x0107  # a warning
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    NO_SUCH_SOP_INSTANCE = 0x0112
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT_VALUE = 0x0115
    ATTRIBUTE_VALUE_OUT_OF_RANGE = 0x0116  # a warning
    INVALID_OBJECT_INSTANCE = 0x0117
    MISSING_ATTRIBUTE = 0x0120
    MISSING_ATTRIBUTE_VALUE = 0x0121
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNIZED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    DATASET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    PENDING = 0xFF00
    PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF01


# Only the first digits of these are fixed (PS3.4 table B.2-1).
OUT_OF_RESOURCES_STATUSES = range(0xA700, 0xA800)
MISMATCH_STATUSES = range(0xA900, 0xAA00)
WARNING_STATUSES = range(0xB000, 0xC000)
CANNOT_UNDERSTAND_STATUSES = range(0xC000, 0xD000)


@dataclass(frozen=True)
class DimseResponse:
    """The status elements of a response (PS3.7 annex C). `comment` names attributes, never their values."""

    status: DimseStatus
    comment: str = ""
    error_id: int | None = None

    @property
    def error_comment(self) -> str:
        """The comment, as far as Error Comment (0000,0902) holds it."""
        return self.comment[:ERROR_COMMENT_LENGTH]

    def dataset(self) -> Dataset:
        """Return the elements as a dataset, which is how handlers of pynetdicom's events answer."""
        ds = Dataset()
        ds.Status = int(self.status)
        if self.comment:
            ds.ErrorComment = self.error_comment
        if self.error_id is not None:
            ds.ErrorID = self.error_id
        return ds


class RejectResult(IntEnum):
    """Result of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    PERMANENT = 1
    TRANSIENT = 2


class RejectReason(Enum):
    """Result, source and reason of the A-ASSOCIATE-RJ that the node sends (PS3.8 table 9-21)."""

    CALLING_AE_TITLE_NOT_RECOGNIZED = (RejectResult.PERMANENT, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (RejectResult.PERMANENT, 1, 7)
    PROTOCOL_VERSION_NOT_SUPPORTED = (RejectResult.PERMANENT, 2, 2)
    LOCAL_LIMIT_EXCEEDED = (RejectResult.TRANSIENT, 3, 2)


class AbortReason(IntEnum):
    """Reason of an A-ABORT by the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6
